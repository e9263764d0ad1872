"""What a run draws while it trains: scores as scalars, drawings with their planned boxes as an image panel."""

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from got_core.evaluation.scored_drawings import ScoredDrawings
from got_core.pictures import contact_sheet

PANEL_WIDTH = 1200
"""Of a panel, in pixels."""


class ScenePanels(ScoredDrawings):
    """At each validation during fit: scalars `val/...` of the drawn batches, and a panel of drawings with their chains.

    Args:
        samples: Drawings on a panel.
    """

    def __init__(self, samples: int = 8) -> None:
        super().__init__(samples)

    def takes_part(self, trainer: Trainer) -> bool:
        """Only in the validations during fit."""
        return trainer.state.fn == "fit" and not trainer.sanity_checking

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log scalars and the panel."""
        if not self.tiles.tiles:
            return
        if self.scores.update_called:
            for name, value in self.scores.compute().items():
                parts = value.items() if isinstance(value, dict) else [("", value)]
                scalars = {f"val/{name}_{part}".rstrip("_"): number for part, number in parts}
                # Every rank has computed the same; Lightning warns unless it may average them.
                pl_module.log_dict(scalars, sync_dist=True)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                sheet = np.array(contact_sheet(self.tiles.tiles, width=PANEL_WIDTH))
                logger.experiment.add_image("drawings", torch.from_numpy(sheet), trainer.global_step, dataformats="HWC")
                chains = "\n\n".join(f"**{tile.prompt}**\n\n{tile.chain}" for tile in self.tiles.tiles)
                logger.experiment.add_text("chains", chains, trainer.global_step)
