"""What was found of each image, gathered from all ranks."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

UNSEEN, WRONG, RIGHT, MISSING = -1, 0, 1, 2
"""Verdicts on an image: nobody looked at it; it does not, or does, show what was asked for; it cannot be read."""


class Verdicts(Metric):
    """The verdict on each of a known number of images.

    Ranks hold verdicts on different images. An image that several ranks have looked at counts once: its verdicts are
    the same, and the highest is kept.

    Args:
        images: How many there are.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    verdicts: Tensor

    def __init__(self, images: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("verdicts", torch.full((images,), UNSEEN), dist_reduce_fx="max")

    def update(self, places: Int[Tensor, " k"], verdicts: Int[Tensor, " k"]) -> None:
        """Note the verdicts on the images at some places."""
        self.verdicts[places] = verdicts

    def compute(self) -> Int[Tensor, " images"]:
        """All verdicts, in order."""
        return self.verdicts
