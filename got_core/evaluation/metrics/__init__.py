"""Scores of images: boxes, scenes, similarity, FID and KID, and a vision-language judge."""
