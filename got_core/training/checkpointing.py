"""The newest checkpoint of a run: when it is written, and with which random states."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
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
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from got_core.errors import Terminated, UserError, one_line
from got_core.paths import Run
from got_core.training.signals import INTERRUPTION
from got_core.weights.files import partial_folder, partial_of, remove, sync
from got_core.weights.integrity import SummedWriter, write_checkpoint


class CheckedIO(TorchCheckpointIO):
    """Writes checkpoints of one file with checksums: beside their path, onto the disk, and then renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write.

        Raises:
            OSError, RuntimeError: It cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(checkpoint, Path(path))


class Background:
    """A thread that writes one checkpoint at a time while training continues."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None

    def begin(self, write: Callable[[], None]) -> None:
        """Begin to write, once the previous checkpoint is written.

        Raises:
            OSError, RuntimeError, CheckpointException: The previous checkpoint could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            OSError, RuntimeError, CheckpointException: The checkpoint could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


class BackgroundCheckpointIO(CheckedIO):
    """Copies a checkpoint's tensors to host memory and writes the copy in the background."""

    def __init__(self, background: Background) -> None:
        super().__init__()
        self._background = background

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Begin to write, once the previous checkpoint is written.

        Raises:
            OSError, RuntimeError: The previous checkpoint could not be written.
        """
        self._background.wait()
        snapshot, write = copied(checkpoint), super().save_checkpoint
        self._background.begin(lambda: write(snapshot, path, storage_options))


def copied(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Copy a checkpoint to host memory; what occurs under several names, such as tied weights, is copied once."""
    copies: dict[Hashable, Tensor] = {}
    copy: dict[str, Any] = apply_to_collection(checkpoint, Tensor, lambda tensor: _copy(tensor, copies))
    return copy


def _copy(tensor: Tensor, copies: dict[Hashable, Tensor]) -> Tensor:
    if isinstance(tensor, DTensor):
        # This rank's part. It is in host memory already, but may be the part that is trained.
        return tensor.detach().clone()
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


LEFT = ".partial"
"""Ends the name under which earlier versions wrote checkpoints, and may have left them."""

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

    A checkpoint is written under another name and renamed when it is complete and on the disk, so `last.ckpt` is always
    a whole one. Distributed checkpoints are folders: `last.ckpt` is a link to the newest. Both have checksums.

    Args:
        every_n_steps, every_n_minutes: When to save.
        in_background: Copy to host memory (each rank its part of a distributed checkpoint) and write while training
            continues; errors are reported at the next checkpoint.

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
        self._listened = False
        self._background = Background() if in_background else None
        self._ranks: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace the trainer's writer of checkpoints and its handlers of signals."""
        if stage != "fit":
            return
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        if _is_distributed(trainer):
            if self._background is not None:
                # The thread's messages must not mix with those of training, and are about what is in host memory.
                self._ranks = distributed.new_group(backend="gloo")
        elif self._background is not None:
            trainer.strategy.checkpoint_io = BackgroundCheckpointIO(self._background)
        else:
            trainer.strategy.checkpoint_io = CheckedIO()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and record signals.

        Raises:
            Terminated: SIGTERM was received already.
        """
        self._saved_at = time.monotonic()
        self._step = trainer.global_step
        if not INTERRUPTION.listening:
            self._listened = True
            INTERRUPTION.listen()
        if INTERRUPTION.end_requested():
            raise Terminated("ended by SIGTERM")
        INTERRUPTION.in_steps = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after an optimizer step when it is time to, when requested, and after the last one.

        Raises:
            UserError: The checkpoint cannot be written.
            Terminated: It is written, and SIGTERM was received.
        """
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        finished = trainer.should_stop or step == trainer.max_steps or trainer.is_last_batch
        overdue = time.monotonic() - self._saved_at > self.seconds
        requested = _on_any_rank(trainer, overdue or INTERRUPTION.save_requested())
        if step % self.every_n_steps == 0 or finished or requested:
            self._save(trainer)
        if requested:
            if _on_any_rank(trainer, INTERRUPTION.end_requested()):
                self._wait(trainer)
                # If one rank ends first, launchers end the others, which may still be writing.
                trainer.strategy.barrier("all is written")
                raise Terminated("ended by SIGTERM")
            INTERRUPTION.saved()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait until all is written, and restore the handlers of signals.

        Raises:
            UserError: The last checkpoint could not be written.
        """
        self._leave()
        self._wait(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handlers of signals, and wait until all is written; warn if it cannot be."""
        if isinstance(exception, Terminated) and not INTERRUPTION.in_steps and trainer.strategy.launcher is not None:
            trainer.strategy.launcher.kill(signal.SIGTERM)
        self._leave()
        try:
            self._wait(trainer)
        except UserError as error:
            rank_zero_warn(one_line(error))

    def _leave(self) -> None:
        INTERRUPTION.in_steps = False
        if self._listened:
            self._listened = False
            INTERRUPTION.leave()

    def _save(self, trainer: Trainer) -> None:
        last = Run(Path(trainer.default_root_dir)).last
        self._wait(trainer)
        with self._errors_explained(trainer, last, trainer.global_step):
            if trainer.is_global_zero:
                remove(last.with_name(f"{last.name}{LEFT}"))
            if _is_distributed(trainer):
                self._save_shards(trainer, last)
            else:
                trainer.save_checkpoint(last)
        self._previous_step, self.saved_step = self.saved_step, trainer.global_step
        self._saved_at = time.monotonic()

    def _save_shards(self, trainer: Trainer, last: Path) -> None:
        step = trainer.global_step
        rest = trainer._checkpoint_connector.dump_checkpoint()
        tensors = {"state_dict": rest.pop("state_dict")}
        tensors |= {f"optimizer_{number}": state for number, state in enumerate(rest.pop("optimizer_states"))}
        with ExitStack() as until_written:
            if trainer.is_global_zero:
                until_written.enter_context(partial_folder(last))
            trainer.strategy.barrier("the folder is made")
            writer = SummedWriter(partial_of(last), rest, lambda: publish(partial_of(last), last, step))
            if self._background is None:
                distributed_checkpoint.save(tensors, storage_writer=writer)
                return
            tensors = copied(tensors)
            written = until_written.pop_all()

            def write() -> None:
                with written:
                    distributed_checkpoint.save(tensors, storage_writer=writer, process_group=self._ranks)

            self._background.begin(write)

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
            left = "there is no earlier checkpoint"
            if last.exists():
                before = self._previous_step if step == self.saved_step else self.saved_step
                of_step = f" of step {before}" if before else ""
                left = f"the checkpoint{of_step} before it is whole: resume with --ckpt_path last"
            raise UserError(f"{last}: step {step} could not be saved ({_reason(error)}); {left}") from error


def publish(partial: Path, last: Path, step: int) -> None:
    """Replace the last checkpoint by a complete distributed one, at one moment, and remove older ones.

    Args:
        partial: The new one, a folder beside `last`.
        last: The path of the newest checkpoint.
        step: Step of the new one.
    """
    names = (f"step-{step}{f'-{number}' if number else ''}{SHARDS}" for number in count())
    newest = next(last.with_name(name) for name in names if not last.with_name(name).exists())
    os.replace(partial, newest)
    partial.symlink_to(newest.name)
    os.replace(partial, last)
    sync(last.parent)
    for old in last.parent.glob(f"*{SHARDS}"):
        if old != newest:
            shutil.rmtree(old)


def _is_distributed(trainer: Trainer) -> bool:
    strategy = trainer.strategy
    return isinstance(strategy, ModelParallelStrategy) and strategy._save_distributed_checkpoint


def _on_any_rank(trainer: Trainer, decision: bool) -> bool:
    return trainer.strategy.reduce_boolean_decision(decision, all=False)


def _reason(error: BaseException) -> str:
    """Return why a checkpoint could not be written; of a distributed one, the error of the first rank to fail."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    text = str(error) or type(error).__name__
    return text if isinstance(error, OSError) else f"is the disk full? {text}"
