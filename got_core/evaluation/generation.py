"""Images generated from a checkpoint under a Trainer, each rank a part of them, in a folder that can be resumed."""

import json
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from got_core.errors import UserError, as_user_error, one_line
from got_core.evaluation.results import SETTINGS, check_writable
from got_core.evaluation.scoring import PRECISION, interruptible
from got_core.inspection.fit import check_size
from got_core.model import GoTModel
from got_core.pipelines.saving import ModelFiles, find_model, open_model, trained_size
from got_core.types import Sample, to_pil
from got_core.weights.files import checksum, new_file, write_whole

SCALES = ("semantic", "spatial")
"""Guidance of text-to-image generation."""

EDITING_SCALES = (*SCALES, "reference")
"""Guidance of edits, and of suites that generate both."""

HOW = ("prompts", "seed", "size", "steps", "exact", "precision", "semantic_scale", "spatial_scale", "reference_scale")
"""Options that say what to generate and how."""

ABSENT = "nothing"
"""Stands for a setting that a folder does not have."""


def check_sources(options: Namespace, *also_scoring: str) -> None:
    """Check that either images or a checkpoint are given, and with them only options that belong to them.

    Args:
        options: With `images`, `checkpoint`, `output` and some of `HOW`.
        also_scoring: Options of `HOW` that scoring existing images uses too.

    Raises:
        UserError: They are not.
    """
    if bool(options.images) == bool(options.checkpoint):
        raise UserError("got evaluate needs --images FOLDER to score, or --checkpoint RUN to generate images first")
    if options.checkpoint and not (options.prompts and options.output):
        raise UserError("--checkpoint RUN needs --prompts FILE and --output FOLDER for the images")
    values = {name: getattr(options, name, None) for name in HOW if name not in also_scoring}
    given = [name for name, value in values.items() if value is not None and value is not False]
    if options.images and given:
        raise UserError(f"--{given[0].replace('_', '-')} is of generation, but the images of --images FOLDER exist")


def find_run(path: str, trust_code: str | None = None) -> ModelFiles:
    """Return the files of a run or of a saved folder; see `find_model`.

    Raises:
        UserError: There are none at that path.
    """
    with as_user_error(FileNotFoundError):
        return find_model(path, trust_code=trust_code)


@dataclass(frozen=True)
class Generator:
    """A checkpoint that generates, and how.

    Attributes:
        checkpoint: Run folder or checkpoint.
        size: (height, width) of the images in pixels.
        seed: Of the images.
        scales: Guidance scales that were given, by name such as `semantic`.
        settings: All of it with the recipe and the weights' checksum, as the folder's `SETTINGS` hold it.
        trust_code: A folder whose code the checkpoint's classes may be from, beside installed packages.
    """

    checkpoint: str
    size: tuple[int, int]
    seed: int
    scales: Mapping[str, float]
    settings: Mapping[str, Any]
    trust_code: str | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        """Arguments of `GoTModel.generate`: the number of steps, and whether it is the full procedure."""
        return {"steps": self.settings["steps"], "exact": self.settings.get("exact", False)}

    @property
    def square(self) -> int:
        """The side of its images in pixels, for drawn scenes.

        Raises:
            UserError: They are not square.
        """
        if self.size[0] != self.size[1]:
            raise UserError(f"scenes are square, not {self.size[0]}x{self.size[1]}: give --size HEIGHTxWIDTH")
        return self.size[0]


def read_generator(options: Namespace, scales: Sequence[str] = SCALES) -> Generator:
    """Return what `options` generate with; a size that is given is tried in shape alone, before a file is written.

    Args:
        options: With `checkpoint`, `trust_code` and `HOW`.
        scales: The guidance scales that are used.

    Raises:
        UserError: There is no such run, or it cannot generate images of that size.
    """
    files = find_run(options.checkpoint, options.trust_code)
    size = options.size or trained_size(files.recipe)
    if size is None:
        raise UserError(f"{files.run.recipe} does not say how large its images are: give --size HEIGHTxWIDTH")
    if options.size:
        try:
            check_size(files.settings(), size)
        except ValueError as error:
            raise UserError(f"--size {size[0]}x{size[1]}: {one_line(error)}") from error
    given = {name: value for name in scales if (value := getattr(options, f"{name}_scale")) is not None}
    settings = {
        "seed": options.seed or 0,
        "size": list(size),
        "steps": options.steps,
        **({"exact": True} if options.exact else {}),
        "scales": given,
        "precision": options.precision or PRECISION,
        "checkpoint": checksum(files.weights),
        "recipe": files.recipe,
    }
    return Generator(options.checkpoint, size, options.seed or 0, given, settings, options.trust_code)


Unit = TypeVar("Unit")


class GenerationUnderTrainer(LightningModule, ABC):
    """`trainer.predict` generates what is left; finished images stay, so that an interrupted run can be resumed.

    Args:
        model: Plans and generates.
        units: What is left, such as images with their seeds; the same on all ranks.
        batch_size: Units at a time.

    Attributes:
        own: The units of this rank.
    """

    def __init__(self, model: GoTModel, units: Sequence[Any], batch_size: int) -> None:
        super().__init__()
        self.model = model.eval()
        self.units, self.batch_size = units, batch_size
        self.own = list(units)
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def generate(self, units: Sequence[Any]) -> None:
        """Generate some units and write them."""

    def part(self, rank: int, ranks: int) -> list[Any]:
        """Return the units of a rank: every so many."""
        return list(self.units[rank::ranks])

    def predict_dataloader(self) -> DataLoader:
        """Return this rank's units, which are `own` from now on."""
        self.own = self.part(self.trainer.global_rank, self.trainer.world_size)
        part: Any = self.own
        return DataLoader(part, batch_size=self.batch_size, collate_fn=list)

    def transfer_batch_to_device(self, batch: list[Any], device: torch.device, dataloader_idx: int) -> list[Any]:
        """Return units as they are: they hold no tensors."""
        return batch

    def predict_step(self, batch: list[Any], batch_idx: int) -> None:
        """Generate a batch."""
        self.generate(batch)

    def batch(self, samples: Sequence[Sample]) -> Any:
        """Return samples as a batch of the reasoner's processor, on this device."""
        return self.model.processor(samples).to(self.device)


def generate_missing(
    trainer: Trainer,
    folder: Path,
    generator: Generator,
    prepare: Callable[[], None],
    left: Callable[[], Sequence[Unit]],
    make: Callable[[GoTModel, Sequence[Unit]], GenerationUnderTrainer],
) -> None:
    """Generate what is not in a folder yet, on all ranks.

    Args:
        trainer: Of all ranks.
        folder: Where images are written.
        generator: The checkpoint.
        prepare: Prepares the folder, on one rank.
        left: Lists what is not there yet.
        make: Makes the module that generates it with a model.

    Raises:
        UserError: The folder holds something else, or cannot be written to.
    """
    if trainer.is_global_zero:
        prepare()
        check_writable(folder)
    if units := left():
        module = make(open_model(generator.checkpoint, trust_code=generator.trust_code).model, units)
        with interruptible(trainer, folder):
            try:
                trainer.predict(module, return_predictions=False)
            except OSError as error:
                raise UserError(f"{folder}: cannot be written to ({one_line(error)})") from error
    trainer.strategy.barrier("generated")


def write_image(file: Path, image: Float[Tensor, "3 H W"]) -> None:
    """Write an image in [-1, 1] as PNG, whole or not at all."""
    with new_file(file) as opened:
        to_pil(image).save(opened, format="PNG")


def image_seed(seed: int, prompt: int, image: int = 0) -> int:
    """Return the seed of an image's noise: a function of the run's seed and the indices of prompt and image alone."""
    return int(np.random.SeedSequence([seed, prompt, image]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def prepare_folder(
    root: Path, settings: Mapping[str, Any], images: str, dependent: Sequence[str], folders: Sequence[str]
) -> None:
    """Write the settings of generation into a folder, or check that its images were generated in the same way.

    A folder without images takes new settings.

    Args:
        root: The folder; created if necessary.
        settings: How images will be generated.
        images: Pattern of the images' files.
        dependent: Patterns of files that depend on the settings as well; they are removed where these change.
        folders: Subfolders to create.

    Raises:
        UserError: The folder holds something else, its images were generated otherwise, or it cannot be written to.
    """
    file = root / SETTINGS
    try:
        if not file.exists() and root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: it holds something that was not generated here; name a new folder")
        previous = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if previous != settings:
            differing = None if previous is None else first_difference(previous, settings)
            if differing is not None and next(root.glob(images), None) is not None:
                name, before, now = differing
                raise UserError(f"{root}: its images were generated with {name} {before}, not {now}; name a new folder")
            for pattern in dependent:
                for stale in root.glob(pattern):
                    stale.unlink()
            root.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(dict(settings), indent=2) + "\n")
        for part in folders:
            (root / part).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be written to ({one_line(error)})") from error


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Return the dotted name and both values of the first setting that differs; None where none does."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else (name, one, other)
    for key in (*other, *(key for key in one if key not in other)):
        inner = f"{name}.{key}" if name else str(key)
        difference = first_difference(one.get(key, ABSENT), other.get(key, ABSENT), inner)
        if difference is not None:
            return difference
    return None
