"""The newest state of a run, in one file."""

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from got_core.paths import Run

CLOCK_STEPS = 20
"""Steps between two looks at the clock, which all ranks take from the first."""


class LastCheckpoint(Checkpoint):
    """Keeps `<run>/checkpoints/last.ckpt`, written while fitting so that a resumed run goes on exactly.

    It is replaced every `every_n_steps` optimizer steps or `every_n_minutes`, whichever comes first, and when training
    reaches its end (before averaged weights replace the trained ones).
    """

    def __init__(self, every_n_steps: int = 500, every_n_minutes: float = 5.0) -> None:
        if every_n_steps < 1 or every_n_minutes <= 0:
            raise ValueError(
                f"checkpoints every {every_n_steps} steps or {every_n_minutes} minutes: both must be positive"
            )
        self.every_n_steps = every_n_steps
        self.seconds = 60 * every_n_minutes
        self.saved_step: int | None = None
        self._saved_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimizer step when it is time to, and after the last one."""
        step = trainer.global_step
        if step == 0 or step == self.saved_step:
            return
        asks = step % CLOCK_STEPS == 0
        overdue = asks and trainer.strategy.broadcast(time.monotonic() - self._saved_at > self.seconds)
        finished = trainer.should_stop or step == trainer.max_steps
        if step % self.every_n_steps == 0 or overdue or finished:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        if trainer.global_step != self.saved_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(Run(Path(trainer.default_root_dir)).last)
        self.saved_step = trainer.global_step
        self._saved_at = time.monotonic()
