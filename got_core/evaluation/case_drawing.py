"""Draws cases with the pipeline under a Trainer, each rank a share of the groups that are not there yet."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from got_core.evaluation.cases import Case, CaseFolder
from got_core.evaluation.drawing_under_trainer import write_image
from got_core.evaluation.provenance import write_whole
from got_core.keeping import Former
from got_core.pipeline import GoTPipeline
from got_core.plans import Plan
from got_core.system import GoTSystem


@dataclass(frozen=True)
class Manner:
    """How cases are drawn.

    Attributes:
        size: (height, width) in pixels.
        batch_size: Groups at a time.
        drawing: Further arguments of `GoTPipeline.draw`: steps and scales.
        best_of: Plans to choose from, where a suite does.
        temperature: Of plans that are drawn by chance.
        keep_rest: Whether edits keep what they edit outside the planned boxes.
    """

    size: tuple[int, int]
    batch_size: int
    drawing: Mapping[str, Any]
    best_of: int
    temperature: float
    keep_rest: bool


class CaseDrawing(LightningModule, ABC):
    """`trainer.predict` draws what is wanted; what was written stays, so that a run that was ended can go on.

    Args:
        system: Plans and draws.
        folder: Where to.
        wanted: Cases by groups; the same on all ranks.
        manner: How.
    """

    def __init__(self, system: GoTSystem, folder: CaseFolder, wanted: Sequence[Sequence[Case]], manner: Manner) -> None:
        super().__init__()
        self.system = system.eval()
        self.folder, self.wanted, self.manner = folder, wanted, manner
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @property
    def pipeline(self) -> GoTPipeline:
        """The system's, for images of the size."""
        return GoTPipeline(self.system, self.manner.size)

    @abstractmethod
    def draw_groups(self, groups: Sequence[Sequence[Case]]) -> None:
        """Draw some groups and `finish` each."""

    def predict_dataloader(self) -> DataLoader:
        """This rank's share."""
        places: Any = range(len(self.wanted))[self.trainer.global_rank :: self.trainer.world_size]
        return DataLoader(places, batch_size=self.manner.batch_size, collate_fn=list)

    def predict_step(self, batch: list[int], batch_idx: int) -> None:
        """Draw the groups at some places."""
        self.draw_groups([self.wanted[place] for place in batch])

    def draw(
        self, plans: Sequence[Plan], seeds: Sequence[int], names: Sequence[str], keep: Former | None = None
    ) -> list[Float[Tensor, "3 H W"]]:
        """Draw plans, each from its own seed, and write their pictures; returns them in [0, 1]."""
        drawn: Any = self.pipeline.draw(plans, seed=seeds, keep=keep, output_type="pt", **self.manner.drawing).images
        for name, image in zip(names, drawn, strict=True):
            write_image(self.folder.picture(name), image * 2 - 1)
        return list(drawn)

    def finish(self, group: str, record: Mapping[str, Any]) -> None:
        """Write the record of a group whose pictures are all there."""
        write_whole(self.folder.record(group), json.dumps(record, indent=1) + "\n")
