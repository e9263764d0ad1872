"""What a run draws while it trains: scores as scalars, drawings with their planned boxes as an image panel."""

import math
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from got_core.evaluation.final_scores import is_scored
from got_core.evaluation.scene_metrics import SceneScores
from got_core.evaluation.tiles import TileCollector
from got_core.pictures import contact_sheet
from got_core.types import Batch

PANEL_WIDTH = 1200
"""Of a panel, in pixels."""


class ScenePanels(Callback):
    """At each validation during fit: scalars `val/...` of the drawn batches, and a panel of drawings with their chains.

    Args:
        samples: Drawings on a panel.
    """

    def __init__(self, samples: int = 8) -> None:
        self.tiles = TileCollector(samples)
        self.scores = SceneScores()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget earlier drawings."""
        self.tiles.start(sum(int(number) for number in trainer.num_val_batches if math.isfinite(number)))
        self.scores.reset()
        self.scores.to(pl_module.device)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some of the batch, and count it where its objects are known."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.tiles.add(outputs, batch)
        if is_scored(batch):
            self.scores.update(outputs.images, outputs.chains, batch.meta, batch.source)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log scalars and the panel."""
        if not self.tiles.tiles:
            return
        if self.scores.update_called:
            for name, value in self.scores.compute().items():
                parts = value.items() if isinstance(value, dict) else [("", value)]
                pl_module.log_dict({f"val/{name}_{part}".rstrip("_"): number for part, number in parts})
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                sheet = np.array(contact_sheet(self.tiles.tiles, width=PANEL_WIDTH))
                logger.experiment.add_image("drawings", torch.from_numpy(sheet), trainer.global_step, dataformats="HWC")
                chains = "\n\n".join(f"**{tile.prompt}**\n\n{tile.chain}" for tile in self.tiles.tiles)
                logger.experiment.add_text("chains", chains, trainer.global_step)
