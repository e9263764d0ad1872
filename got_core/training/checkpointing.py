"""The newest checkpoint of a run: when it is written, on which signals, and with which random states."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException

from got_core.errors import UserError, one_line
from got_core.paths import Run
from got_core.weights.files import remove

SAVE = getattr(signal, "SIGUSR1", None)
"""The signal on which a run saves a checkpoint and continues; None if the system has no such signal."""


class Interruption:
    """Records signals, so that a step always ends before a checkpoint is written.

    Lightning's own handlers communicate with other ranks, or save, in the middle of a step.
    """

    def __init__(self) -> None:
        self._received: set[int] = set()
        self._previous: dict[int, Any] = {}

    def listen(self) -> None:
        """Replace the handlers of the signals."""
        if not self._previous:
            signals = (signal.SIGTERM, *([] if SAVE is None else [SAVE]))
            self._previous = {number: signal.signal(number, self._record) for number in signals}

    def leave(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def save_requested(self) -> bool:
        """Say whether any signal was received since the last call of `saved`."""
        return bool(self._received)

    def end_requested(self) -> bool:
        """Say whether SIGTERM was received."""
        return signal.SIGTERM in self._received

    def saved(self) -> None:
        """Forget the request to save; a request to end stays."""
        self._received -= {SAVE}

    def _record(self, number: int, frame: FrameType | None) -> None:
        self._received.add(number)


class BackgroundCheckpointIO(TorchCheckpointIO):
    """Copies a checkpoint's tensors to host memory and writes the copy in a thread, one checkpoint at a time.

    Args:
        written: Called in the thread with the path and the step of each checkpoint once it is complete.
    """

    def __init__(self, written: Callable[[Path, int], None]) -> None:
        super().__init__()
        self._written = written
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Begin to write, once the previous checkpoint is written.

        Raises:
            OSError, RuntimeError: The previous checkpoint could not be written.
        """
        self.wait()
        copies: dict[Hashable, Tensor] = {}
        snapshot = apply_to_collection(checkpoint, Tensor, lambda tensor: _copy(tensor, copies))
        self._writing = self._thread.submit(self._write, snapshot, Path(path), storage_options)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            OSError, RuntimeError: The checkpoint could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, checkpoint: dict[str, Any], path: Path, storage_options: Any) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        self._written(path, checkpoint["global_step"])


def _copy(tensor: Tensor, copies: dict[Hashable, Tensor]) -> Tensor:
    """Return a copy in host memory; what occurs under several names, such as tied weights, is copied once."""
    key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
    if key not in copies:
        copies[key] = tensor.detach().to("cpu", copy=True)
    return copies[key]


class RandomState(Callback):
    """Saves every rank's generator states (Python, NumPy, torch on CPU and GPU) and restores them on resuming.

    They are restored after the loaders have been made and before the first step, and put back after each validation,
    so training does not depend on when, or whether, it is validated. A checkpoint holds a list of states, one per rank.
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
        checkpoint["random_states"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._loaded = checkpoint.get("random_states")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's states; a rank that is not in the checkpoint keeps its own."""
        if self._loaded is not None and trainer.global_rank < len(self._loaded):
            _restore(self._loaded[trainer.global_rank])
        self._loaded = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the states."""
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


PARTIAL = ".partial"
"""Ends the name of a checkpoint that is being written."""

SHARDS = ".shards"
"""Ends the names of distributed checkpoints, which are folders."""


class LastCheckpoint(Checkpoint):
    """Writes `<run>/checkpoints/last.ckpt` while fitting, from which a resumed run continues exactly.

    It is replaced every `every_n_steps` optimizer steps or `every_n_minutes`, whichever comes first, with the last
    batch of an epoch and of training (before a validation, and before averaged weights replace the trained ones), and
    on a signal: after SIGUSR1 training continues, after SIGTERM it ends with a status that is not 0. A signal to one
    rank is a signal to all; a signal during a validation waits for the next step.

    An epoch's last state is that of its last batch and not of `on_train_epoch_end`: from there Lightning would resume
    in the epoch that has ended, while the loader is in the next.

    A checkpoint is written under another name and renamed when it is complete, so `last.ckpt` is always a whole one.
    Distributed checkpoints are folders: `last.ckpt` is a link to the newest.

    Args:
        every_n_steps, every_n_minutes: When to save.
        in_background: Copy to host memory and write while training continues; errors are reported at the next
            checkpoint. Distributed checkpoints are always written before training continues.

    Raises:
        ValueError: Intervals that are not positive.
    """

    def __init__(self, every_n_steps: int = 500, every_n_minutes: float = 5.0, in_background: bool = False) -> None:
        if every_n_steps < 1 or every_n_minutes <= 0:
            raise ValueError(
                f"checkpoints every {every_n_steps} steps or {every_n_minutes} minutes: both must be positive"
            )
        self.every_n_steps = every_n_steps
        self.seconds = 60 * every_n_minutes
        self.in_background = in_background
        self.saved_step: int | None = None
        self._previous_step: int | None = None
        self._saved_at = 0.0
        self._step = 0
        self._interruption = Interruption()
        self._background: BackgroundCheckpointIO | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the trainer's writer of checkpoints if they are written in the background."""
        if self.in_background and stage == "fit" and not isinstance(trainer.strategy, ModelParallelStrategy):
            last = Run(Path(trainer.default_root_dir)).last
            self._background = BackgroundCheckpointIO(lambda written, step: publish(written, last, step))
            trainer.strategy.checkpoint_io = self._background

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and record signals."""
        self._saved_at = time.monotonic()
        self._step = trainer.global_step
        self._interruption.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimizer step when it is time to, when requested, and after the last one.

        Raises:
            UserError: The checkpoint cannot be written.
            SystemExit: It is written, and SIGTERM was received.
        """
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        finished = trainer.should_stop or step == trainer.max_steps or trainer.is_last_batch
        overdue = time.monotonic() - self._saved_at > self.seconds
        requested = _on_any_rank(trainer, overdue or self._interruption.save_requested())
        if step % self.every_n_steps == 0 or finished or requested:
            self._save(trainer)
        if requested:
            if _on_any_rank(trainer, self._interruption.end_requested()):
                self._wait(trainer)
                # If one rank ends first, launchers end the others, which may still be writing.
                trainer.strategy.barrier("all is written")
                raise SystemExit("ended by SIGTERM")
            self._interruption.saved()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait until all is written, and restore the handlers of signals.

        Raises:
            UserError: The last checkpoint could not be written.
        """
        self._interruption.leave()
        self._wait(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handlers of signals, and wait until all is written; warn if it cannot be."""
        self._interruption.leave()
        try:
            self._wait(trainer)
        except UserError as error:
            rank_zero_warn(one_line(error))

    def _save(self, trainer: Trainer) -> None:
        last = Run(Path(trainer.default_root_dir)).last
        partial = last.with_name(last.name + PARTIAL)
        self._wait(trainer)
        with self._errors_explained(trainer, last, trainer.global_step):
            if trainer.is_global_zero:
                remove(partial)
            trainer.strategy.barrier("before saving")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero and self._background is None:
                publish(partial, last, trainer.global_step)
            trainer.strategy.barrier("after saving")
        self._previous_step, self.saved_step = self.saved_step, trainer.global_step
        self._saved_at = time.monotonic()

    def _wait(self, trainer: Trainer) -> None:
        """Wait until what is being written in the background is complete."""
        if self._background is not None:
            last = Run(Path(trainer.default_root_dir)).last
            with self._errors_explained(trainer, last, self.saved_step):
                self._background.wait()

    @contextmanager
    def _errors_explained(self, trainer: Trainer, last: Path, step: int | None) -> Iterator[None]:
        """Say why a step could not be saved, and which checkpoint is left."""
        try:
            yield
        except (OSError, RuntimeError, CheckpointException) as error:
            if trainer.is_global_zero:
                remove(last.with_name(last.name + PARTIAL))
            left = "there is no earlier checkpoint"
            if last.exists():
                before = self._previous_step if step == self.saved_step else self.saved_step
                of_step = f" of step {before}" if before else ""
                left = f"the checkpoint{of_step} before it is whole: resume with --ckpt_path last"
            raise UserError(f"{last}: step {step} could not be saved ({_reason(error)}); {left}") from error


def publish(partial: Path, last: Path, step: int) -> None:
    """Replace the last checkpoint by a complete new one, at one moment, and remove older distributed ones.

    Args:
        partial: The new one, a file or a folder beside `last`.
        last: The path of the newest checkpoint.
        step: Step of the new one.
    """
    newest = None
    if partial.is_dir():
        names = (f"step-{step}{f'-{number}' if number else ''}{SHARDS}" for number in count())
        newest = next(last.with_name(name) for name in names if not last.with_name(name).exists())
        os.replace(partial, newest)
        partial.symlink_to(newest.name)
    os.replace(partial, last)
    for old in last.parent.glob(f"*{SHARDS}"):
        if old != newest:
            shutil.rmtree(old)


def _on_any_rank(trainer: Trainer, decision: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _reason(error: BaseException) -> str:
    """Return why a checkpoint could not be written; of a distributed one, the error of the first rank to fail."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    text = str(error) or type(error).__name__
    return text if isinstance(error, OSError) else f"is the disk full? {text}"
