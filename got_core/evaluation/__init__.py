"""Detectors and metrics: what is in a drawn image, and how well it fits the prompt, the chain and the instruction."""
