"""Running a recipe's trainer: what is checked before it starts, and which errors are the user's.

A run's folder belongs to one process at a time, and what is in it is replaced only on request.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import extract_tb

from filelock import FileLock, Timeout
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from got_core.errors import Terminated, UserError, one_line
from got_core.paths import Run
from got_core.training.changes import check_ranks
from got_core.training.recipe import Recipe
from got_core.weights.checkpoints import SAFETENSORS, check_fits
from got_core.weights.files import remove, remove_left


class Progress(Callback):
    """Knows whether set-up is over and batches are processed; then an earlier run of the folder is removed."""

    def __init__(self) -> None:
        self.begun = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that batches are processed."""
        self.begun = True
        begin(Run(Path(trainer.default_root_dir)))

    on_sanity_check_start = on_validation_start = on_train_start


@contextmanager
def running(recipe: Recipe, exactly: bool = False) -> Iterator[Progress]:
    """Sort errors: those of set-up and of samples that cannot be read are the user's, others keep their traceback.

    Args:
        recipe: What is run.
        exactly: Whether a checkpoint may only be loaded by as many processes as it was saved by.

    Raises:
        UserError: The checkpoint does not fit, set-up fails, or a sample cannot be read.
        KeyboardInterrupt, Terminated: Training was interrupted; the text says what was saved.
    """
    _check(recipe, exactly)
    progress = Progress()
    recipe.trainer.callbacks.append(progress)  # type: ignore[attr-defined]
    try:
        yield progress
    except Terminated as end:
        raise Terminated(f"{end.text}: {_saved(recipe)}") from None
    except SystemExit:
        if recipe.trainer.interrupted:
            raise KeyboardInterrupt(_saved(recipe)) from None
        raise
    except RuntimeError as error:
        if worker := _WORKER.search(str(error)):
            raise UserError(
                f"a worker of the data loader ended{worker[1]}; if memory is short, lower data.num_workers; "
                f"{_saved(recipe)}"
            ) from error
        raise
    except (ValueError, OSError, RecursionError, MemoryError, MisconfigurationException) as error:
        if not progress.begun or _while_fetching(error):
            raise UserError(one_line(error)) from error
        raise


_WORKER = re.compile(r"DataLoader worker .*?( unexpectedly| is killed by signal: [\w ]+)")
"""What torch says of a worker that is no more; how it ended is kept."""


def _saved(recipe: Recipe) -> str:
    """Say which checkpoint there is."""
    last = recipe.run_files.last
    return f"{last} is the newest checkpoint; resume it with --ckpt_path last" if last.exists() else "nothing was saved"


def _check(recipe: Recipe, exactly: bool) -> None:
    """Check that the strategy can read the checkpoint and that it fits the model, before anything is started."""
    if recipe.checkpoint is None:
        return
    if Path(recipe.checkpoint).suffix == SAFETENSORS:
        raise UserError(f"{recipe.checkpoint} has no training state: begin a run with its weights by got fit --weights")
    distributed = Path(recipe.checkpoint).is_dir()
    sharded = isinstance(recipe.trainer.strategy, ModelParallelStrategy)
    if distributed and not sharded:
        raise UserError(
            f"{recipe.checkpoint} is a distributed checkpoint, which trainer.strategy "
            f"{type(recipe.trainer.strategy).__name__} cannot read: use "
            "lightning.pytorch.strategies.ModelParallelStrategy (one device will do)"
        )
    if sharded and not distributed:
        raise UserError(
            f"{recipe.checkpoint} is one file, whose training state ModelParallelStrategy cannot divide: resume it "
            "with the strategy it was made under, or begin a new run with its weights by got fit --weights"
        )
    if exactly:
        check_ranks(Path(recipe.checkpoint), recipe.trainer)
    check_fits(recipe.model, Path(recipe.checkpoint))


def _while_fetching(error: BaseException) -> bool:
    """Whether an error was raised while the loader or one of its workers read samples."""
    in_worker = str(error).startswith("Caught ") and "worker process" in str(error)
    frames = extract_tb(error.__traceback__)
    return in_worker or any(frame.filename.endswith("torch/utils/data/_utils/fetch.py") for frame in frames)


REPLACED = ".replaced"
"""The folder in a run's folder that holds the run that is replaced, until training has begun."""

REMOVED = ".removed"
"""That folder once it is only to be deleted."""


@contextmanager
def occupied(run: Run) -> Iterator[None]:
    """Lock a run's folder against other processes, and make it if needed; the first rank does so for all ranks.

    A folder that was made for a run that wrote nothing is removed at the end.

    Raises:
        UserError: Another process trains in it, or it cannot be written to.
    """
    if not is_first_rank():
        yield
        return
    lock = FileLock(run.lock)
    made = not run.folder.exists()
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{run.folder}: another process is training in this folder; wait until it has ended, or name another "
            "folder with --trainer.default_root_dir"
        ) from None
    except OSError as error:
        raise UserError(f"{run.folder}: cannot be written to ({error.strerror or error})") from error
    try:
        # A process that was killed may have set a run aside, or have begun to write a checkpoint.
        _restore(run)
        remove_left(run.last)
        yield
    finally:
        with suppress(OSError):
            if made and all(path == run.lock for path in run.folder.iterdir()):
                shutil.rmtree(run.folder)
        lock.release()


def check_replaced(run: Run, checkpoint: str | None, weights: str | None, overwrite: bool) -> None:
    """Refuse to begin in a folder that holds a run, unless that run is resumed or replaced.

    Args:
        run: The folder in which a run begins.
        checkpoint: What it is resumed from, if anything.
        weights: The run whose weights it begins with, if any.
        overwrite: Whether the folder's run may be replaced.

    Raises:
        UserError: The folder holds a run or a saved model, or is both read from and replaced.
    """
    if not is_first_rank():
        return
    if run.weights.exists():
        raise UserError(f"{run.folder} holds a saved model: name another folder with --trainer.default_root_dir")
    for option, path in {"--ckpt_path": checkpoint, "--weights": weights}.items():
        if overwrite and path is not None and _lies_in(path, run.folder):
            raise UserError(f"{option} reads the run in {run.folder} and --overwrite replaces it: give one of the two")
    if overwrite or (checkpoint is not None and _lies_in(checkpoint, run.folder)):
        return
    if os.path.lexists(run.last):
        raise UserError(
            f"{run.folder} holds a run already: resume it with --ckpt_path last, or replace it with --overwrite"
        )
    if run.metrics.exists() or any(run.folder.rglob("*.ckpt")):
        raise UserError(
            f"{run.folder} holds a run already, without a newest checkpoint to resume: replace it with --overwrite"
        )


@contextmanager
def replacing(run: Run) -> Iterator[None]:
    """Set an earlier run aside: its checkpoints, logs, recipe and scores; other files in the folder stay.

    `begin` removes it for good; if that was not called, all is put back at the end.
    """
    aside = run.folder / REPLACED
    if is_first_rank():
        aside.mkdir(parents=True)
        for path in (run.last.parent, run.logs, run.metrics, run.samples, run.bad_records, run.recipe):
            if os.path.lexists(path):
                path.rename(aside / path.name)
    try:
        yield
    finally:
        if is_first_rank():
            _restore(run)


def begin(run: Run) -> None:
    """Remove what `replacing` has set aside, because the new run has begun."""
    aside = run.folder / REPLACED
    if is_first_rank() and aside.exists():
        aside.rename(run.folder / REMOVED)
        shutil.rmtree(run.folder / REMOVED)


def is_first_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether this process is the first of all ranks, from its launcher's variables: there is no trainer yet."""
    if "RANK" in environment:
        return environment["RANK"] == "0"
    local = "LOCAL_RANK NODE_RANK GROUP_RANK SLURM_PROCID JSM_NAMESPACE_RANK OMPI_COMM_WORLD_RANK PMI_RANK"
    return all(environment.get(name, "0") == "0" for name in local.split())


def _restore(run: Run) -> None:
    shutil.rmtree(run.folder / REMOVED, ignore_errors=True)
    aside = run.folder / REPLACED
    if not aside.exists():
        return
    for path in aside.iterdir():
        remove(run.folder / path.name)
        path.rename(run.folder / path.name)
    aside.rmdir()


def _lies_in(path: str, folder: Path) -> bool:
    """Say whether a path is in a folder, by its name or once links are followed."""
    by_name = Path(path).absolute().is_relative_to(folder.absolute())
    return by_name or Path(path).resolve().is_relative_to(folder.resolve())
