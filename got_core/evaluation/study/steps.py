"""How far a run has come, told to the process that waits for it."""

import re
from typing import Any

from lightning import Callback, LightningModule, Trainer

_LINE = re.compile(r"^step (\d+)$", re.MULTILINE)


class PrintedSteps(Callback):
    """Prints a line with the number of optimizer steps done, now and then.

    Args:
        every: Steps between two lines.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self._printed = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Print where a line is due."""
        step = trainer.global_step
        if step % self.every == 0 and step != self._printed and trainer.is_global_zero:
            self._printed = step
            print(f"step {step}")


def printed_step(text: str) -> int | None:
    """The last step that a text tells of."""
    found = _LINE.findall(text)
    return int(found[-1]) if found else None
