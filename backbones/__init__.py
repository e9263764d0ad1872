"""Denoising backbones."""
