"""Reasoners, with their processors and tokenizers."""
