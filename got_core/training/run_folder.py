"""A run's folder belongs to one process at a time, and what is in it is replaced only on request."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from got_core.errors import UserError
from got_core.paths import Run


@contextmanager
def occupied(run: Run) -> Iterator[None]:
    """Keep a run's folder, made if it is not there, from other processes; of several ranks the first does so for all.

    A folder in which nothing has been written is removed at the end.

    Raises:
        UserError: Another process trains in it, or it cannot be written to.
    """
    if not is_first_rank():
        yield
        return
    lock = FileLock(run.lock)
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
        yield
    finally:
        if all(path == run.lock for path in run.folder.iterdir()):
            shutil.rmtree(run.folder)
        lock.release()


def check_replaced(run: Run, checkpoint: str | None, overwrite: bool) -> None:
    """Refuse to begin in a folder that holds a run, unless it is resumed or to be replaced.

    Args:
        run: The folder in which a run begins.
        checkpoint: What it is resumed from, if anything.
        overwrite: What the folder holds may be replaced.

    Raises:
        UserError: The folder holds a run or a saved model, or is both to be resumed and replaced.
    """
    if not is_first_rank():
        return
    if run.weights.exists():
        raise UserError(f"{run.folder} holds a saved model: name another folder with --trainer.default_root_dir")
    if checkpoint is not None and Path(checkpoint).resolve().is_relative_to(run.last.parent.resolve()):
        if overwrite:
            raise UserError(
                f"--ckpt_path resumes the run in {run.folder} and --overwrite replaces it: give one of the two"
            )
        return
    if overwrite:
        return
    if run.last.exists():
        raise UserError(
            f"{run.folder} holds a run already: resume it with --ckpt_path last, or replace it with --overwrite"
        )
    if run.metrics.exists():
        raise UserError(
            f"{run.folder} holds a run's scores, but no checkpoint to resume: replace them with --overwrite"
        )


def clear(run: Run) -> None:
    """Remove what an earlier run has left in its folder; nothing else is touched."""
    if not is_first_rank():
        return
    for path in (run.last.parent, run.metrics, run.samples, run.recipe, run.logs):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_first_rank() -> bool:
    """Whether this process is the first of all ranks, by the launcher's environment: before there is a trainer."""
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    rank: int = vars(rank_zero_only)["rank"]
    return rank == 0 and node == "0"
