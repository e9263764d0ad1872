"""`got fit`, `got validate`, `got inspect`, `got verify-resume` and `got study`."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from got_core.cli.parsing import Count, Memory, Rate, Seed, Size
from got_core.errors import UserError, as_user_error, hide_expected
from got_core.paths import importing

if TYPE_CHECKING:
    from got_core.paths import Run
    from got_core.training.recipe import Recipe


def fit(
    *overrides: str,
    config: Sequence[str] = (),
    ckpt_path: str | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
) -> None:
    """Train a recipe, then score it.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        ckpt_path: Checkpoint to resume from, or `last` of this run's folder.
        weights: Begin with the weights of a run, folder or checkpoint.
        overwrite: Replace the run that the run folder holds already.
        allow_changes: Resume with another objective, optimizer, batch size, seed, strategy, precision or data than the
            checkpoint's; what fits is loaded, and what does not is named.

    Raises:
        UserError: What is wrong with the recipe, its data or its checkpoint.

    Example:
        got fit --config recipes/scenes_dit.yaml --trainer.max_steps 100
    """
    if not config:
        raise UserError("got fit needs a recipe: --config FILE")
    if weights and ckpt_path:
        raise UserError("--weights begins a new run and --ckpt_path resumes one: give one of the two")
    with importing():
        from got_core.evaluation.callbacks import FinalScores
        from got_core.training.changes import Change, Changed, changes, listed, refuse
        from got_core.training.running import check_replaced, occupied, replacing, running

    hide_expected()
    started = time.monotonic()
    with ExitStack() as until_ended:
        found: list[Change] = []

        def prepare(recipe: "Recipe") -> None:
            until_ended.enter_context(occupied(recipe.run_files))
            check_replaced(recipe.run_files, recipe.checkpoint, weights, overwrite)
            _check_intact(recipe)
            if recipe.checkpoint is not None:
                found.extend(changes(Path(recipe.checkpoint), recipe.as_yaml()))
                if not allow_changes:
                    refuse(Path(recipe.checkpoint), found)

        recipe = _recipe(config, overrides, ckpt_path, weights, prepare)
        trainer = recipe.trainer
        resuming = f", resuming from {recipe.checkpoint}" if recipe.checkpoint else ""
        print(f"run folder: {recipe.run_files.folder}{resuming}")
        if found:
            print(f"resuming with changes: {listed(found)}")
            trainer.callbacks.insert(0, Changed(found))  # type: ignore[attr-defined]
        for scores in (callback for callback in trainer.callbacks if isinstance(callback, FinalScores)):  # type: ignore[attr-defined]
            scores.started(started)
        with (
            replacing(recipe.run_files) if overwrite else nullcontext(),
            running(recipe, not allow_changes) as progress,
        ):
            trainer.fit(recipe.model, datamodule=recipe.datamodule, ckpt_path=recipe.checkpoint, weights_only=True)
            if any(trainer.num_val_batches):
                trainer.validate(recipe.model, datamodule=recipe.datamodule, verbose=False)
            elif recipe.checkpoint and not progress.begun:
                print("training had reached its end; the checkpoint is scored")
                _score(recipe)
        logs = trainer.log_dir  # The first rank sends it to all.
        if trainer.is_global_zero:
            _print_results(recipe.run_files, logs)


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
    from got_core.pipelines.saving import find_model
    from got_core.training.running import running
    from got_core.weights.checkpoints import SAFETENSORS

    hide_expected()
    if checkpoint is not None:
        with as_user_error(FileNotFoundError):
            files = find_model(checkpoint)
        folder = files.run.folder
        if files.inside is not None:
            raise UserError(f"{folder} is a saved model, which has no data to be scored on: use got evaluate")
        given = [f"--trainer.default_root_dir={folder}", *overrides]
        resumed = None if files.weights.suffix == SAFETENSORS else str(files.weights)
        recipe = _recipe(
            [str(files.run.recipe), *config], given, resumed, None if resumed else checkpoint, _check_intact
        )
    elif config and bool(ckpt_path) != bool(weights):
        recipe = _recipe(config, overrides, ckpt_path, weights, _check_intact)
    else:
        raise UserError("got validate needs --checkpoint RUN, or --config FILE with --ckpt_path FILE or --weights RUN")
    with running(recipe):
        _score(recipe)


def _recipe(
    config: Sequence[str],
    overrides: Sequence[str],
    ckpt_path: str | None,
    weights: str | None,
    prepare: "Callable[[Recipe], None]",
) -> "Recipe":
    """Build a recipe, with the weights of another run where they are given."""
    from got_core.pipelines.saving import find_model
    from got_core.training.recipe import Recipe
    from got_core.weights.checkpoints import load_weights

    with as_user_error(FileNotFoundError):
        file = find_model(weights).weights if weights else None
    recipe = Recipe(config, overrides, ckpt_path, prepare)
    if file is not None:
        load_weights(recipe.model, file)
    return recipe


def _print_results(run: "Run", logs: str | None) -> None:
    """Print where everything of a run lies."""
    for name, path in {"checkpoint": run.last, "scores": run.metrics, "images": run.samples}.items():
        if path.exists():
            print(f"{name}: {path}")
    if logs is not None:
        print(f"logs: {logs.rstrip('/')}")


def _check_intact(recipe: "Recipe") -> None:
    """Compare the checkpoint with its checksums; the first rank does so for all ranks."""
    from got_core.training.running import is_first_rank
    from got_core.weights.integrity import check_intact

    if recipe.checkpoint is not None and is_first_rank():
        check_intact(Path(recipe.checkpoint))


def _score(recipe: "Recipe") -> None:
    recipe.trainer.validate(
        recipe.model, datamodule=recipe.datamodule, ckpt_path=recipe.checkpoint, verbose=False, weights_only=True
    )


def inspect(
    *overrides: str,
    config: Sequence[str] = (),
    nodes: Count = 1,
    devices: Count = 1,
    memory: Memory | None = None,
    tflops: Rate | None = None,
    bandwidth: Rate = 50.0,
    price: Rate | None = None,
    size: Size | None = None,
    text_to_image: bool = False,
    inference: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
) -> None:
    """Print what training a recipe costs, or what its images take in memory.

    No weights or data are needed.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        nodes: Machines.
        devices: Devices of each machine.
        memory: Memory of a device such as 80GB, to say whether it fits.
        tflops: Sustained TFLOP/s of a device, to predict the time.
        bandwidth: GB/s of a device to the others.
        price: Of a device-hour, to predict the cost of the whole run.
        size: Of images as HEIGHTxWIDTH in pixels; by default the recipe's.
        text_to_image: Take samples without a source image instead of edits.
        inference: Print the memory that generating an image takes, and what fits on devices of 8 to 80 GB.
        dtype: Precision of the weights in inference, bfloat16 by default.

    Raises:
        UserError: What is wrong with the recipe, or what is missing for a prediction.

    Example:
        got inspect --config recipes/got_sdxl_finetune.yaml --devices 8 --memory 80GB
    """
    if not config:
        raise UserError("got inspect needs a recipe: --config FILE")
    if inference and (memory or tflops or price is not None or nodes * devices > 1):
        raise UserError(
            "--inference is of an image on one device: nodes, devices, memory, rates and prices are of training"
        )
    if dtype and not inference:
        raise UserError("--dtype is of --inference: training has trainer.precision")
    if price is not None and not tflops:
        raise UserError("--price predicts a whole run, which needs --tflops, the rate it is computed at")
    import torch
    from rich.console import Console

    from got_core.inspection.inference import inference_report
    from got_core.inspection.report import Setup, report, system_in_shape
    from got_core.pipelines.saving import trained_size
    from got_core.training.recipe import ResolvedRecipe

    hide_expected()
    recipe = ResolvedRecipe(config, overrides).config
    if price is not None and recipe.trainer.max_steps < 1:
        raise UserError("--price predicts a whole run, but the recipe's trainer.max_steps names no end")
    size = size or trained_size(recipe.as_dict())
    if size is None:
        raise UserError("the recipe does not say how large its images are: give --size HEIGHTxWIDTH")
    if inference:
        model = system_in_shape(recipe).model
        parts = inference_report(model, size, getattr(torch, dtype or "bfloat16"), edit=not text_to_image)
    else:
        setup = Setup.of(recipe, nodes * devices, size, edits=not text_to_image, tflops=tflops, bandwidth=bandwidth)
        parts = report(recipe, setup, memory, price)
    console = Console()
    with as_user_error(ValueError):
        for part in parts:
            console.print(part, highlight=False)


def verify_resume(
    *overrides: str,
    config: Sequence[str] = (),
    output: str = "runs/verify_resume",
    steps: Count = 20,
    every: Count = 4,
    kills: Count = 2,
    launcher: str | None = None,
    seed: Seed = 0,
) -> None:
    """Kill a short run of a recipe and check that it resumes exactly.

    The recipe is trained for a few steps without interruption, and again by a run that is killed at random (SIGKILL)
    and resumed. Weights, averages, optimizer and random states of both must be the same, bit for bit.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        output: A new folder for both runs and what they print.
        steps: Of a run.
        every: Steps between two checkpoints.
        kills: How often the second run is killed.
        launcher: What starts a Python module on all nodes, such as "srun python -m" or "torchrun --nnodes 2 -m".
        seed: Of the moments of the kills.

    Raises:
        UserError: A run fails by itself, or the resumed run is not the uninterrupted one.

    Example:
        got verify-resume --config recipes/scenes_dit.yaml --steps 12
    """
    if not config:
        raise UserError("got verify-resume needs a recipe: --config FILE")
    folder = Path(output)
    if folder.exists():
        raise UserError(f"{output}: already exists; name a new folder by --output")
    with importing():
        from got_core.training.recipe import ResolvedRecipe
        from got_core.training.verification import verify_resume

    hide_expected()
    result = verify_resume(
        ResolvedRecipe(config, overrides), folder, int(steps), int(every), int(kills), launcher, seed
    )
    killed = ", ".join(map(str, result.killed))
    print(f"killed after the checkpoints of steps {killed}; {result.compared:,} tensors compared after {steps} steps")
    if result.differing:
        name, largest = max(result.differing.items(), key=lambda item: item[1])
        raise UserError(
            f"{len(result.differing):,} tensors differ, {name} by {largest:.3g}: the run does not resume exactly"
        )
    print("all are the same: a killed run resumes exactly")


def study(file: str, *, jobs: Count | None = None, output: str = "runs") -> None:
    """Train and score variants x backbones x seeds, or what is left of them.

    Args:
        file: A study, such as recipes/studies/components.yaml.
        jobs: Runs at a time; by default one a GPU, else one a core.
        output: Folder that gets a folder for each study.

    Raises:
        UserError: The study or one of its recipes is wrong, another study works on one of its runs, or some runs
            failed.

    Example:
        got study recipes/studies/components.yaml --jobs 2
    """
    if find_spec("matplotlib") is None:
        raise UserError("a study's diagrams need matplotlib: pip install 'got-framework[study]'")
    from got_core.studies.runner import run_study

    run_study(file, jobs, Path(output))
