"""Callbacks that score and show the images of a validation: panels while a run trains, and its final scores."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from got_core.data.visualization import Tile, contact_sheet
from got_core.detection.base import CATEGORIES
from got_core.evaluation.metrics.scenes import GENEVAL, SceneScores
from got_core.paths import Run
from got_core.types import Batch, Generation
from got_core.weights.files import write_whole


class TileCollector:
    """Keeps up to `limit` drawings, taken evenly from the batches that are expected."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"{limit} drawings to show: it must be at least 1")
        self.limit = limit
        self.tiles: list[Tile] = []
        self._per_batch = limit

    def start(self, batches: int) -> None:
        """Forget what was kept, and expect so many batches."""
        self.tiles = []
        self._per_batch = max(1, -(-self.limit // max(1, batches)))

    def add(self, drawing: Generation, batch: Batch) -> None:
        """Keep the batch's share."""
        number = min(self._per_batch, self.limit - len(self.tiles), len(batch))
        for place in range(number):
            self.tiles.append(
                Tile(
                    image=drawing.images[place].cpu(),
                    chain=drawing.chains[place],
                    prompt=batch.prompts[place],
                    source=batch.source[place].cpu() if bool(batch.has_source[place]) else None,
                )
            )


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


METRICS = (
    "chain_parses",
    "chain_satisfies",
    "mean_iou",
    "colour_in_box",
    "object_position_deviation",
    "edit_success",
    "background_kept",
)
"""The figures of `metrics.json` besides `seconds` and GenEval's."""

STEP = "step"
"""The key of `metrics.json` that tells after how many optimizer steps the figures were reached."""


class FinalScores(ScoredDrawings):
    """Scores `trainer.validate`: the drawings of all of the validation set, whatever `limit_val_batches` says for fit.

    `got fit` validates once training has ended, with averaged weights where the recipe averages them. Drawings of
    samples whose objects are unknown are shown but not scored.

    Args:
        batches: Validation batches to score of each loader: a share of them (float) or a number (int).
        samples: Drawings on the contact sheet.
    """

    def __init__(self, batches: int | float = 1.0, samples: int = 36) -> None:
        super().__init__(samples)
        self.batches = batches
        self.seconds = 0.0
        self.step = 0
        self.figures: dict[str, Any] = {}
        self._since = time.monotonic()
        self._trains = False

    def started(self, moment: float) -> None:
        """Count from a moment of the monotonic clock, such as the start of the command."""
        self._since = moment

    def state_dict(self) -> dict[str, Any]:
        """Seconds spent so far, over all resumed parts of the run, and steps trained."""
        return {"seconds": self.seconds + time.monotonic() - self._since, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds = state_dict["seconds"]
        self.step = state_dict["step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before validating, lift the limit that holds while fitting."""
        if stage == "validate" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.limit_val_batches = self.batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Note the step, and that the time is this run's and not that of scoring it again."""
        self.step = trainer.global_step
        self._trains = True

    def takes_part(self, trainer: Trainer) -> bool:
        """Not in the validations during fit."""
        return trainer.state.fn == "validate"

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what was reached."""
        if not self.takes_part(trainer):
            return
        reached = to_figures(self.scores.compute()) if self.scores.update_called else {}
        if trainer.is_global_zero:
            run = Run(Path(trainer.default_root_dir))
            self.figures = {"seconds": self._seconds(run), STEP: self.step} | reached
            run.folder.mkdir(parents=True, exist_ok=True)
            write_whole(run.metrics, json.dumps(self.figures, indent=2) + "\n")
            if self.tiles.tiles:
                contact_sheet(self.tiles.tiles).save(run.samples)

    def _seconds(self, run: Run) -> float | None:
        """What the run took, final scoring included; scoring it again leaves that as it was."""
        before = read_scores(run.metrics)
        return round(self.state_dict()["seconds"], 1) if self._trains or before is None else before.get("seconds")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, once the progress bar is gone."""
        if self.figures:
            Console().print(table(self.figures, f"{trainer.default_root_dir}, step {self.step}"))
        self.figures = {}


def read_scores(file: Path) -> dict[str, Any] | None:
    """What a `metrics.json` holds; None where there is none that can be read."""
    try:
        figures = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def to_figures(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as `metrics.json` has them: every figure in its place, null where there was nothing to score."""
    figures = {name: _rounded(scores.get(name)) for name in METRICS}
    geneval = scores.get(GENEVAL, {})
    return figures | {GENEVAL: {name: _rounded(geneval.get(name)) for name in (*CATEGORIES, "overall")}}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(figures: Mapping[str, Any], title: str) -> Table:
    """Figures as a table, groups with their name in front."""
    result = Table("figure", "value", title=title, title_justify="left")
    for name, value in figures.items():
        rows = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in rows:
            result.add_row(f"{name} {part}".strip(), "-" if number is None else f"{number:g}")
    return result
