"""`got fit` and `got validate`."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from traceback import extract_tb

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from got_core.errors import UserError, one_line
from got_core.evaluation.suites.callbacks import FinalScores
from got_core.paths import Run
from got_core.pipelines.saving import ModelFiles, find_model
from got_core.training.recipe import Recipe
from got_core.training.run_folder import begin, check_replaced, occupied, replacing
from got_core.weights.checkpoints import SAFETENSORS, check_fits, load_weights

_FETCHING = "torch/utils/data/_utils/fetch.py"


def fit(
    *overrides: str,
    config: Sequence[str] = (),
    ckpt_path: str | None = None,
    weights: str | None = None,
    overwrite: bool = False,
) -> None:
    """Train a recipe, then score it.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        ckpt_path: Checkpoint to resume from, or `last` of this run's folder.
        weights: Begin with the weights of a run, folder or checkpoint.
        overwrite: Replace the run that the run folder holds already.

    Raises:
        UserError: What is wrong with the recipe, its data or its checkpoint.

    Example:
        got fit --config recipes/scenes_dit.yaml --trainer.max_steps 100
    """
    started = time.monotonic()
    if not config:
        raise UserError("got fit needs a recipe: --config FILE")
    if weights and ckpt_path:
        raise UserError("--weights begins a new run and --ckpt_path goes on with one: give one of the two")
    with ExitStack() as until_ended:

        def prepare(run: Run, checkpoint: str | None) -> None:
            until_ended.enter_context(occupied(run))
            check_replaced(run, checkpoint, weights, overwrite)

        _fit(_recipe(config, overrides, ckpt_path, weights, prepare), started, overwrite)


def _fit(recipe: Recipe, started: float, overwrite: bool) -> None:
    trainer = recipe.trainer
    going_on = f", going on from {recipe.checkpoint}" if recipe.checkpoint else ""
    print(f"run folder: {recipe.run_files.folder}{going_on}")
    for scores in (callback for callback in trainer.callbacks if isinstance(callback, FinalScores)):  # type: ignore[attr-defined]
        scores.started(started)
    with replacing(recipe.run_files) if overwrite else nullcontext(), _running(recipe) as begun:
        trainer.fit(recipe.model, datamodule=recipe.datamodule, ckpt_path=recipe.checkpoint, weights_only=True)
        if any(trainer.num_val_batches):
            trainer.validate(recipe.model, datamodule=recipe.datamodule, verbose=False)
        elif recipe.checkpoint and not begun.yes:
            print("training had reached its end; the checkpoint is scored")
            _score(recipe)


def validate(
    *overrides: str,
    checkpoint: str | None = None,
    config: Sequence[str] = (),
    ckpt_path: str | None = None,
    weights: str | None = None,
) -> None:
    """Score a checkpoint on its recipe's validation set.

    Args:
        overrides: Options of the recipe.
        checkpoint: Run folder or checkpoint, with its own recipe.
        config: A recipe; of several, the later ones win.
        ckpt_path: Checkpoint to load, or `last` of this run's folder.
        weights: Score the weights of a run, folder or checkpoint.

    Raises:
        UserError: What is wrong with the recipe, its data or its checkpoint.

    Example:
        got validate --checkpoint runs/scenes_dit
    """
    if checkpoint is not None:
        found = _found(checkpoint)
        if found.inside is not None:
            raise UserError(f"{found.run.folder} is a saved model, which has no data to be scored on: use got evaluate")
        given = [f"--trainer.default_root_dir={found.run.folder}", *overrides]
        files = [str(found.run.recipe), *config]
        if found.weights.suffix == SAFETENSORS:
            recipe = Recipe(files, given)
            load_weights(recipe.model, found.weights)
        else:
            recipe = Recipe(files, given, str(found.weights))
    elif config and bool(ckpt_path) != bool(weights):
        recipe = _recipe(config, overrides, ckpt_path, weights)
    else:
        raise UserError("got validate needs --checkpoint RUN, or --config FILE with --ckpt_path FILE or --weights RUN")
    with _running(recipe):
        _score(recipe)


def _recipe(
    config: Sequence[str],
    overrides: Sequence[str],
    ckpt_path: str | None,
    weights: str | None,
    prepare: Callable[[Run, str | None], None] | None = None,
) -> Recipe:
    """The recipe of `--config`, with the weights of another run where they are asked for."""
    found = _found(weights).weights if weights else None
    recipe = Recipe(config, overrides, ckpt_path, prepare)
    if found is not None:
        load_weights(recipe.model, found)
    return recipe


def _score(recipe: Recipe) -> None:
    recipe.trainer.validate(
        recipe.model, datamodule=recipe.datamodule, ckpt_path=recipe.checkpoint, verbose=False, weights_only=True
    )


class _Begun(Callback):
    """Notes that set-up is over and batches are being worked on."""

    def __init__(self) -> None:
        self.yes = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.yes = True
        begin(Run(Path(trainer.default_root_dir)))

    on_sanity_check_start = on_validation_start = on_train_start


@contextmanager
def _running(recipe: Recipe) -> Iterator[_Begun]:
    """Sort what goes wrong: set-up and samples that cannot be read are the user's, the rest keeps its traceback."""
    _check(recipe)
    begun = _Begun()
    recipe.trainer.callbacks.append(begun)  # type: ignore[attr-defined]
    try:
        yield begun
    except SystemExit:
        if recipe.trainer.interrupted:
            raise KeyboardInterrupt(_what_was_saved(recipe)) from None
        raise
    except (ValueError, OSError, MisconfigurationException) as error:
        if not begun.yes or _while_fetching(error):
            raise UserError(one_line(error)) from error
        raise


def _check(recipe: Recipe) -> None:
    """See that the checkpoint fits the model before anything is started."""
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
            f"{recipe.checkpoint} is one file, whose training state ModelParallelStrategy cannot divide: go on with "
            "the strategy it was made under, or begin a new run with its weights by got fit --weights"
        )
    check_fits(recipe.model, Path(recipe.checkpoint))


def _while_fetching(error: BaseException) -> bool:
    in_worker = str(error).startswith("Caught ") and "worker process" in str(error)
    return in_worker or any(frame.filename.endswith(_FETCHING) for frame in extract_tb(error.__traceback__))


def _what_was_saved(recipe: Recipe) -> str:
    last = recipe.run_files.last
    if not last.exists():
        return "nothing was saved"
    return f"{last} is the newest checkpoint; go on with --ckpt_path last"


def _found(checkpoint: str) -> ModelFiles:
    try:
        return find_model(checkpoint)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None
