"""Trains the tokenizer that the scene recipes ship: `python -m reasoners.scenes_tokenizer [path]`."""

import sys
from collections.abc import Iterator

from got_core.data.scene import BACKGROUNDS, COLOURS, SHAPES
from got_core.data.scenes import corpus
from reasoners.tokenizer_training import train_tokenizer

PATH = "recipes/assets/scenes_tokenizer.json"
VOCAB_SIZE = 600
DEFAULT_SAMPLES, VARIED_SAMPLES = 4_000, 2_000
GRID = 32
COORDINATES = tuple(str(min(999, round(step * 1000 / GRID))) for step in range(GRID + 1))
"""Every coordinate that a 32-pixel scene can have."""


def texts() -> Iterator[str]:
    """Prompts and chains of the default scenes, and of scenes with every shape, colour and background there is."""
    yield from corpus(DEFAULT_SAMPLES)
    yield from corpus(VARIED_SAMPLES, shapes=tuple(SHAPES), colours=tuple(COLOURS), backgrounds=tuple(BACKGROUNDS))


if __name__ == "__main__":
    train_tokenizer(texts(), VOCAB_SIZE, sys.argv[1] if len(sys.argv) > 1 else PATH, whole=COORDINATES)
