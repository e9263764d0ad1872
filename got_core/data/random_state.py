"""A run's random numbers in its checkpoints."""

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import distributed

CHECKPOINT_KEY = "random_states"
"""Where a checkpoint holds the states, one a rank."""


class RandomState(Callback):
    """Saves every rank's generator states (Python, NumPy, torch on CPU and GPU) and restores them on resuming.

    They are restored after the loaders have been made and before the first step. Validation is given the same states
    but leaves no trace in them, so training does not depend on when, or whether, it is validated.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Gather the states of all ranks."""
        states: list[Any] = [_current()]
        if distributed.is_available() and distributed.is_initialized():
            states = [None] * trainer.world_size
            distributed.all_gather_object(states, _current())
        checkpoint[CHECKPOINT_KEY] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._loaded = checkpoint.get(CHECKPOINT_KEY)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's states; a rank that the checkpoint does not know keeps its own."""
        if self._loaded is not None and trainer.global_rank < len(self._loaded):
            _restore(self._loaded[trainer.global_rank])
        self._loaded = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the states."""
        self._before_validation = _current()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them back."""
        if self._before_validation is not None:
            _restore(self._before_validation)
        self._before_validation = None


def _current() -> dict[str, Any]:
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def _restore(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
