"""Draws images under a Trainer, each rank a share, and writes each when it is done."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from got_core.pictures import to_picture
from got_core.sampling import GuidanceScales
from got_core.system import GoTSystem
from got_core.types import Batch, Drawing, Sample


class DrawingUnderTrainer(LightningModule, ABC):
    """`trainer.predict` draws what is wanted; what was written stays, so that a run that was ended can go on.

    Args:
        system: Plans and draws.
        wanted: What to draw, with its seed and where it is written; the same on all ranks.
        size: (height, width) of the images in pixels.
        batch_size: Images that are drawn at a time.
        steps, scales: Instead of the system's own.
    """

    def __init__(
        self,
        system: GoTSystem,
        wanted: Sequence[Any],
        size: tuple[int, int],
        batch_size: int = 8,
        steps: int | None = None,
        scales: GuidanceScales | None = None,
    ) -> None:
        super().__init__()
        self.system = system.eval()
        self.wanted, self.size, self.batch_size = wanted, size, batch_size
        self.steps, self.scales = steps, scales
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def share(self, rank: int, ranks: int) -> Dataset[Sample]:
        """What a rank draws, as samples for a reasoner's processor."""

    @abstractmethod
    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Draw a batch and write its images."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share."""
        share = self.share(self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(share, batch_size=self.batch_size, collate_fn=self.system.processor)

    def draw(self, batch: Batch, chains: Sequence[str] | None, seeds: Sequence[int]) -> Drawing:
        """A batch, each image from its own seed; see `GoTSystem.draw`."""
        return self.system.draw(batch, chains, seed=seeds, steps=self.steps, scales=self.scales)


def write_image(file: Path, image: Float[Tensor, "3 H W"]) -> None:
    """Write an image in [-1, 1] as PNG, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    to_picture(image).save(partial, format="PNG")
    os.replace(partial, file)
