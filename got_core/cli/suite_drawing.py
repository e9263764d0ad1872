"""What the suites that draw share on the command line: options that go together, what is drawn from, drawing."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from got_core.cli.evaluation_trainer import PRECISION, interruptible
from got_core.errors import UserError, one_line
from got_core.evaluation.results import check_writable
from got_core.evaluation.suites.generation import PromptDrawing, prepare_folder, still_wanted
from got_core.inspection.fit import check_size
from got_core.pipelines.saving import ModelFiles, find_model, open_model, trained_size
from got_core.weights.files import checksum

PER_PROMPT = 4
"""Images that GenEval has drawn of each prompt."""

OF_GENERATION = ("semantic", "spatial")
"""Guidance that options may set where nothing is edited."""

OF_DRAWING = ("prompts", "seed", "size", "steps", "precision", "semantic_scale", "spatial_scale", "reference_scale")
"""Options that say what to draw and how."""


@dataclass(frozen=True)
class DrawnFrom:
    """A checkpoint that draws, and how.

    Attributes:
        checkpoint: Its file.
        recipe: What it was trained by.
        size: (height, width) of the images in pixels.
        seed: Of the drawings.
        scales: Guidance that was asked for, by name.
        settings: All of it, as the folder's record keeps it.
    """

    checkpoint: Path
    recipe: Mapping[str, Any]
    size: tuple[int, int]
    seed: int
    scales: Mapping[str, float]
    settings: Mapping[str, Any]


def check_generation(options: argparse.Namespace, *also_scoring: str) -> None:
    """See that either images or a checkpoint are given, and with them only what belongs to them.

    Args:
        options: Of the command line.
        also_scoring: Of `OF_DRAWING`, what images that are there are scored by as well.

    Raises:
        UserError: They are not.
    """
    if bool(options.images) == bool(options.checkpoint):
        raise UserError("got evaluate needs --images FOLDER to score, or --checkpoint RUN to draw from first")
    if options.checkpoint and not (options.prompts and options.output):
        raise UserError("--checkpoint RUN needs --prompts FILE to draw and --output FOLDER to draw into")
    given = [name for name in OF_DRAWING if name not in also_scoring and getattr(options, name) is not None]
    if options.images and given:
        flag, says = given[0].replace("_", "-"), "what" if given[0] == "prompts" else "how"
        raise UserError(f"--{flag} says {says} to draw, but --images FOLDER is drawn already")


def find_run(path: str) -> ModelFiles:
    """The files of a run or of a saved folder.

    Raises:
        UserError: There are none in that place.
    """
    try:
        return find_model(path)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None


def drawn_from(options: argparse.Namespace, guidance: Sequence[str] = OF_GENERATION) -> DrawnFrom:
    """What `options` draw from; a size that is asked for is tried out in shape alone, before a file is written.

    Args:
        options: Of the command line.
        guidance: The scales that are looked at.

    Raises:
        UserError: There is no such run, or it cannot draw images of that size.
    """
    files = find_run(options.checkpoint)
    size = options.size or trained_size(files.recipe)
    if size is None:
        raise UserError(f"{files.run.recipe} does not say how large its images are: give --size HEIGHTxWIDTH")
    if options.size:
        try:
            check_size(files.settings(), size)
        except ValueError as error:
            raise UserError(f"--size {size[0]}x{size[1]}: {one_line(error)}") from error
    seed = options.seed or 0
    scales = {name: value for name in guidance if (value := getattr(options, f"{name}_scale")) is not None}
    settings = {
        "seed": seed,
        "size": list(size),
        "steps": options.steps,
        "scales": scales,
        "precision": options.precision or PRECISION,
        "checkpoint": checksum(files.weights),
        "recipe": files.recipe,
    }
    return DrawnFrom(files.weights, files.recipe, size, seed, scales, settings)


def draw_prompts(
    options: argparse.Namespace, trainer: Trainer, prompts: Sequence[Mapping[str, Any]], drawn: DrawnFrom
) -> None:
    """Draw the images of prompts that are not in `options.output` yet.

    Raises:
        UserError: The folder holds something else, or cannot be written to.
    """
    root = Path(options.output)
    if trainer.is_global_zero:
        prepare_folder(root, prompts, {**drawn.settings, "prompts": checksum(Path(options.prompts))})
        check_writable(root)
    wanted = still_wanted(root, prompts, options.per_prompt or PER_PROMPT, drawn.seed)
    if wanted:
        model = open_model(options.checkpoint).model
        scales = replace(model.generation_scales, **drawn.scales)
        drawing = PromptDrawing(model, wanted, drawn.size, options.batch_size, options.steps, scales)
        run_drawing(trainer, drawing, root)
    trainer.strategy.barrier("drawn")


def run_drawing(trainer: Trainer, drawing: LightningModule, root: Path) -> None:
    """Draw into a folder.

    Raises:
        UserError: It cannot be written to.
    """
    with interruptible(trainer, f"the images in {root} are kept; the same command goes on"):
        try:
            trainer.predict(drawing, return_predictions=False)
        except OSError as error:
            raise UserError(f"{root}: cannot be written to ({one_line(error)})") from error
