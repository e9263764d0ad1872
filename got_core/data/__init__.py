"""Samples: rendered scenes, records of the GoT form, and the DataModule that mixes them."""
