"""Reasoners: one file each, with the processor and the vocabulary that go with it."""
