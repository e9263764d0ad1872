"""Several figures of each of a known number of items, gathered from all ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class FigureTable(Metric):
    """One row an item, one column a figure; NaN where an item has no such figure.

    Ranks hold the figures of different items. An item that several ranks have looked at counts once: its figures are
    the same, and the highest is kept.

    Args:
        items: How many there are.
        names: Of the figures.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    values: Tensor

    def __init__(self, items: int, names: Sequence[str], **settings: Any) -> None:
        super().__init__(**settings)
        self.names = tuple(names)
        self.add_state("values", torch.full((items, len(self.names)), -torch.inf), dist_reduce_fx="max")

    def update(self, places: Int[Tensor, " k"], values: Float[Tensor, "k figures"]) -> None:
        """Note the figures of the items at some places; NaN leaves what is there.

        Raises:
            ValueError: A figure is infinite.
        """
        if values.isinf().any():
            raise ValueError(f"figures must be finite or NaN, got {values.tolist()}")
        self.values[places] = torch.where(values.isnan(), self.values[places], values.to(self.values))

    def compute(self) -> Float[Tensor, "items figures"]:
        """All figures, in order."""
        return torch.where(self.values.isinf(), torch.nan, self.values)
