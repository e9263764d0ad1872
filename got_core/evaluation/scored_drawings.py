"""What callbacks that judge drawings have in common: they collect the drawings of a validation and score them."""

import math
from abc import ABC, abstractmethod
from typing import Any

from lightning import Callback, LightningModule, Trainer

from got_core.evaluation.scene_metrics import SceneScores
from got_core.evaluation.tiles import TileCollector
from got_core.types import Batch

SCENE_KEY = "objects"
"""Present in the meta of samples whose objects are known, so that drawings can be scored."""


class ScoredDrawings(Callback, ABC):
    """Keeps some drawings of each validation it takes part in, and scores those whose objects are known.

    Args:
        samples: Drawings to keep.
    """

    def __init__(self, samples: int) -> None:
        self.tiles = TileCollector(samples)
        self.scores = SceneScores()

    @abstractmethod
    def takes_part(self, trainer: Trainer) -> bool:
        """Whether this callback looks at the validation that is going on."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier drawings."""
        self.scores.reset()
        self.scores.to(pl_module.device)
        self.tiles.start(sum(int(number) for number in trainer.num_val_batches if math.isfinite(number)))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some of the batch, and count it in the scores where all its objects are known."""
        if not self.takes_part(trainer):
            return
        self.tiles.add(outputs, batch)
        if batch.meta and all(SCENE_KEY in meta for meta in batch.meta):
            self.scores.update(outputs.images, outputs.chains, batch.meta, batch.source)
