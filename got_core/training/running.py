"""Running a recipe's trainer: what is checked before it starts, and which errors are the user's."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import extract_tb

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from got_core.errors import Terminated, UserError, one_line
from got_core.paths import Run
from got_core.training.changes import check_ranks
from got_core.training.recipe import Recipe
from got_core.training.run_folder import begin
from got_core.weights.checkpoints import SAFETENSORS, check_fits


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
