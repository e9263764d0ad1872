"""What generating an image costs, and well-known pipelines to compare with."""
