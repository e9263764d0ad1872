"""Samples for the tests of this folder."""

import random

import torch

from got_core.types import Sample

COLOURS, SHAPES, GRID = ("red", "green", "blue"), ("circle", "square", "triangle"), (94, 188, 469, 562, 812)


def small_chain(rng: random.Random, regions: int) -> str:
    parts = []
    for _ in range(regions):
        colour, x, y = rng.choice(COLOURS), rng.choice(GRID[:3]), rng.choice(GRID[:3])
        parts.append(
            f"<|object_ref_start|>a {colour} {rng.choice(SHAPES)}<|object_ref_end|>"
            f"<|box_start|>({x},{y}),({x + 343},{y + 343})<|box_end|> ({colour})"
        )
    return "A plain gray scene with " + " and ".join(parts) + "."


def small_samples(number: int, edits: tuple[int, ...] = (), seed: int = 0) -> list[Sample]:
    """Samples with prompts and chains of different lengths; those named in `edits` have a source image."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    return [
        Sample(
            prompt="a red circle" + " and a blue square" * (index % 3),
            chain=small_chain(rng, 1 + index % 3),
            size=(16, 16),
            source=torch.rand(3, 16, 16, generator=generator) * 2 - 1 if index in edits else None,
        )
        for index in range(number)
    ]
