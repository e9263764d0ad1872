"""Guidance encoders: reasoning, boxes and reference image to guidance."""
