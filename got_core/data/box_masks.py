"""Box masks as a dataset: one box in a plain colour on black, as a codec gets them in spatial guidance."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from got_core.types import BLACK, Sample


class BoxCanvasDataset(Dataset[Sample]):
    """Square black canvases with one filled box each; a function of (seed, index).

    A codec that is also trained on these encodes the layout masks of GoT's spatial guidance (section 4.2) well.

    Args:
        size: Side of a canvas in pixels.
        length: Number of samples.
        seed: Another seed gives other boxes.
        box_size: Smallest and largest side of a box, as a fraction of the canvas's.
    """

    def __init__(
        self, size: int = 32, length: int = 100_000, seed: int = 0, box_size: tuple[float, float] = (0.25, 0.5)
    ) -> None:
        self.size, self.length, self.seed = size, length, seed
        self.smallest, self.largest = (round(fraction * size) for fraction in box_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Make one canvas as a sample without words."""
        return Sample(prompt="", chain="", size=(self.size, self.size), target=self.canvas(index))

    def canvas(self, index: int) -> Float[Tensor, "3 H W"]:
        """Make one canvas in [-1, 1]; half of the boxes have colours of full saturation.

        Raises:
            IndexError: The index is not in [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a dataset of {self.length} canvases")
        rng = np.random.default_rng([self.seed, index])
        colour = rng.choice([BLACK, 0.0, 1.0], 3) if rng.random() < 0.5 else rng.uniform(BLACK, 1.0, 3)
        height, width = rng.integers(self.smallest, self.largest + 1, 2)
        top, left = rng.integers(0, self.size - height + 1), rng.integers(0, self.size - width + 1)
        canvas = torch.full((3, self.size, self.size), BLACK)
        canvas[:, top : top + height, left : left + width] = torch.tensor(colour, dtype=torch.float32)[:, None, None]
        return canvas
