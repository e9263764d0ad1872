"""The seeds there are."""

LARGEST_SEED = 2**31 - 1
"""Seeds beyond this are refused."""
