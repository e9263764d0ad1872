"""Detectors behind one interface: drawn scenes, Mask2Former, open vocabulary."""
