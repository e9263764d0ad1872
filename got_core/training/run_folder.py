"""A run's folder belongs to one process at a time, and what is in it is replaced only on request."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from got_core.errors import UserError
from got_core.paths import Run
from got_core.weights.files import remove, remove_left

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
        for path in (run.last.parent, run.logs, run.metrics, run.samples, run.recipe):
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
