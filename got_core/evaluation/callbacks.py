"""Callbacks that score and show the images of a validation: panels while a run trains, and its final scores."""

import json
import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from rich.table import Table

from got_core.data.visualization import Tile, contact_sheet
from got_core.detection.base import CATEGORIES
from got_core.evaluation.answers import LABELS, SceneAnswers
from got_core.evaluation.metrics.scenes import GENEVAL, SceneScores
from got_core.evaluation.results import print_table
from got_core.paths import Run
from got_core.types import Batch, Generation
from got_core.weights.files import write_whole


class TileCollector:
    """Keeps up to `limit` images, taken evenly from the expected batches."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"{limit} images to show: it must be at least 1")
        self.limit = limit
        self.tiles: list[Tile] = []
        self._per_batch = limit

    def start(self, batches: int) -> None:
        """Drop all images, and expect so many batches."""
        self.tiles = []
        self._per_batch = max(1, -(-self.limit // max(1, batches)))

    def add(self, generation: Generation, batch: Batch) -> None:
        """Keep some images of a batch."""
        number = min(self._per_batch, self.limit - len(self.tiles), len(batch))
        for index in range(number):
            self.tiles.append(
                Tile(
                    image=generation.images[index].cpu(),
                    chain=generation.chains[index],
                    prompt=batch.prompts[index],
                    source=batch.source[index].cpu() if bool(batch.has_source[index]) else None,
                )
            )


SCENE_KEY = "objects"
"""Present in the metadata of samples whose objects are known, so that images can be scored."""


class ScoredValidation(Callback, ABC):
    """Keeps some images of each validation it takes part in, and scores those whose objects are known.

    Args:
        samples: Images to keep.
    """

    def __init__(self, samples: int) -> None:
        self.tiles = TileCollector(samples)
        self.scores = SceneScores()

    @abstractmethod
    def takes_part(self, trainer: Trainer) -> bool:
        """Return whether this callback scores the current validation."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop earlier images."""
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
        """Keep some images of the batch, and score it if all its objects are known."""
        if not self.takes_part(trainer):
            return
        self.tiles.add(outputs, batch)
        if batch.meta and all(SCENE_KEY in meta for meta in batch.meta):
            self.score(outputs, batch)

    def score(self, generation: Generation, batch: Batch) -> None:
        """Score a batch whose objects are known."""
        self.scores.update(generation.images, generation.chains, batch.meta, batch.source)


PANEL_WIDTH = 1200
"""Of a panel, in pixels."""


class ScenePanels(ScoredValidation):
    """At each validation during fit: scalars `val/...` of the batches, and a panel of images with their chains.

    Args:
        samples: Images on a panel.
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
        for logger in trainer.loggers if trainer.is_global_zero else ():
            sheet = contact_sheet(self.tiles.tiles, width=PANEL_WIDTH)
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [sheet], trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                pixels = torch.from_numpy(np.array(sheet))
                logger.experiment.add_image("samples", pixels, trainer.global_step, dataformats="HWC")
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
"""The scores in `metrics.json` besides `seconds` and GenEval's."""

STEP = "step"
"""The key of `metrics.json` for the number of optimizer steps."""


ANSWERS = "answers"
"""The key of `metrics.json` for the scores of trivial answers to the same requests, and of the true images."""


class FinalScores(ScoredValidation):
    """Scores `trainer.validate`: images of the whole validation set, whatever `limit_val_batches` is for fit.

    Beside them stand the scores of trivial answers to the same requests and of the true images (`SceneAnswers`).

    `got fit` validates once training has ended, with averaged weights if the recipe averages them. Images of samples
    whose objects are unknown are shown but not scored.

    Args:
        batches: Validation batches to score of each loader: a fraction of them (float) or a number (int).
        samples: Images on the contact sheet.
    """

    def __init__(self, batches: int | float = 1.0, samples: int = 36) -> None:
        super().__init__(samples)
        self.answers = SceneAnswers(self.scores.detector)
        self.batches = batches
        self.seconds = 0.0
        self.step = 0
        self.metrics: dict[str, Any] = {}
        self._since = time.monotonic()
        self._trains = False

    def started(self, moment: float) -> None:
        """Count seconds from a moment of the monotonic clock, such as the start of the command."""
        self._since = moment

    def state_dict(self) -> dict[str, Any]:
        """Seconds spent so far, over all resumed parts of the run, and steps trained."""
        return {"seconds": self.seconds + time.monotonic() - self._since, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self.seconds = state_dict["seconds"]
        self.step = state_dict["step"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before validating, lift the limit that holds while fitting."""
        if stage == "validate" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.limit_val_batches = self.batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Note the step, and that the seconds are of training and not of scoring again."""
        self.step = trainer.global_step
        self._trains = True

    def takes_part(self, trainer: Trainer) -> bool:
        """Not in the validations during fit."""
        return trainer.state.fn == "validate"

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop earlier images and scores."""
        super().on_validation_epoch_start(trainer, pl_module)
        self.answers.reset()
        self.answers.to(pl_module.device)

    def score(self, generation: Generation, batch: Batch) -> None:
        """Score a batch, and the answers to its requests."""
        super().score(generation, batch)
        if batch.target is not None:
            self.answers.update(batch.target, batch.chains, batch.meta, batch.source)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the scores and the contact sheet."""
        if not self.takes_part(trainer):
            return
        scores = to_metrics(self.scores.compute()) if self.scores.update_called else {}
        if scores:
            answers = self.answers.compute()
            scores[ANSWERS] = {name: _present(to_metrics(own)) for name, own in answers.items()}
        if trainer.is_global_zero:
            run = Run(Path(trainer.default_root_dir))
            losses = {name: round(float(trainer.callback_metrics[name]), 4) for name in _losses(trainer)}
            self.metrics = {"seconds": self._seconds(run), STEP: self.step, **losses} | scores
            run.folder.mkdir(parents=True, exist_ok=True)
            write_whole(run.metrics, json.dumps(self.metrics, indent=2) + "\n")
            if self.tiles.tiles:
                contact_sheet(self.tiles.tiles).save(run.samples)

    def _seconds(self, run: Run) -> float | None:
        """Seconds of the run, final scoring included; scoring it again leaves them as they were."""
        before = read_scores(run.metrics)
        return round(self.state_dict()["seconds"], 1) if self._trains or before is None else before.get("seconds")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print the table, once the progress bar is gone."""
        if self.metrics:
            print_table(table(self.metrics, f"{trainer.default_root_dir}, step {self.step}"))
        self.metrics = {}


def _losses(trainer: Trainer) -> list[str]:
    """Return the names of the losses of held-out samples, one of each kind for each validation set."""
    return sorted(name for name in trainer.callback_metrics if re.match("val/.*_loss", name))


def read_scores(file: Path) -> dict[str, Any] | None:
    """Read a `metrics.json`; None if there is none that can be read."""
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return metrics if isinstance(metrics, dict) else None


def to_metrics(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores as `metrics.json` has them: every metric, None where there was nothing to score."""
    metrics = {name: _rounded(scores.get(name)) for name in METRICS}
    geneval = scores.get(GENEVAL, {})
    return metrics | {GENEVAL: {name: _rounded(geneval.get(name)) for name in (*CATEGORIES, "overall")}}


def _present(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without those that are None, and without groups that have no other."""
    nested = {name: _present(value) if isinstance(value, Mapping) else value for name, value in metrics.items()}
    return {name: value for name, value in nested.items() if value not in (None, {})}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def table(metrics: Mapping[str, Any], title: str) -> Table:
    """Return metrics as a table, groups with their name in front, and a column for each answer."""
    answers = metrics.get(ANSWERS, {})
    names = [name for name in LABELS if name in answers]
    result = Table("metric", "value", *(LABELS[name] for name in names), title=title, title_justify="left")
    for name, value in metrics.items():
        if name == ANSWERS:
            continue
        rows = value.items() if isinstance(value, Mapping) else [("", value)]
        for part, number in rows:
            others = [answers[answer].get(name) for answer in names]
            others = [other.get(part) if isinstance(other, Mapping) else other for other in others]
            cells = ["-" if number is None else f"{number:g}", *("" if n is None else f"{n:g}" for n in others)]
            result.add_row(f"{name} {part}".strip(), *cells)
    return result
