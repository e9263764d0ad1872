"""Rendered scenes of coloured shapes: requests, words, layouts and samples."""
