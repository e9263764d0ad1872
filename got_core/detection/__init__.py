"""Detectors behind one interface: rendered scenes, Mask2Former, open vocabulary."""
