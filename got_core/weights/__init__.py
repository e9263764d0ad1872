"""Tensors on disk: loading, checkpoints, and the released checkpoint."""
