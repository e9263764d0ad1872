"""Folders of generated images in GenEval's layout: a folder a prompt, with its metadata, images and chains."""

import json
import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor

from got_core.data.images import images_in
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.data.tables import open_table, open_texts
from got_core.detection.loading import SCENES
from got_core.errors import UserError, check_text, one_line, parse_json
from got_core.evaluation.generation import (
    GenerationUnderTrainer,
    Generator,
    generate_missing,
    image_seed,
    prepare_folder,
    write_image,
)
from got_core.evaluation.results import Missing
from got_core.model import GoTModel
from got_core.types import Batch, Reasoning, Sample
from got_core.weights.files import checksum, write_whole

FOLDER = "{:05d}"
"""Name of a prompt's folder, and of its images, by index."""

METADATA, SAMPLES, CHAINS = "metadata.jsonl", "samples", "chains"
"""In a prompt's folder: its metadata, the images, and (ours alone) the chain that each was generated from."""

PROMPTS_AT_ONCE = 64
"""Prompts whose chains are written together: a step of the language model costs little more for many than for one."""

PER_PROMPT = 4
"""Images of a prompt that GenEval generates."""

_NUMBER = re.compile(r"[0-9]+")


def read_prompts(file: Path, check: Callable[[Any], dict[str, Any]], plain: bool = False) -> list[dict[str, Any]]:
    """Read prompts from JSON lines, a JSON array, CSV or Parquet.

    Args:
        file: Of one object, or row, a prompt.
        check: Returns the metadata of a prompt if it is as it should be; raises ValueError otherwise.
        plain: Whether a line that does not begin with `{` is a prompt itself.

    Raises:
        UserError: There is no such file, no prompt in it, or a line is wrong.
    """
    try:
        table = open_texts(file, "prompt") if plain else open_table(file, ())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: no readable prompts ({one_line(error)})") from error
    prompts = []
    for index in range(len(table)):
        try:
            prompts.append(check(dict(table.row(index))))
        except ValueError as error:
            reason = str(error).removeprefix(f"{table.name(index)}: ")
            raise UserError(f"{file}, line {table.number(index)}: {reason}") from error
    if not prompts:
        raise UserError(f"{file}: there is no prompt in it")
    return prompts


def scene_prompts(number: int, seed: int) -> list[dict[str, Any]]:
    """Return prompts of drawn scenes held out from training, GenEval's categories in turn; the same for a seed."""
    tasks = dict.fromkeys(GENERATION_TAGS, 1.0)
    scenes = ScenesDataset(length=number, seed=seed, split="test", tasks=tasks, balanced=True)
    samples = (scenes[index] for index in range(number))
    return [{**sample.meta, "prompt": sample.prompt} for sample in samples]


def prompts_of(options: Namespace, check: Callable[[Any], dict[str, Any]], plain: bool = False) -> list[dict[str, Any]]:
    """Return the prompts that `--prompts` names: those of a file as `read_prompts` does, or of `--number` scenes."""
    if options.prompts == SCENES:
        return scene_prompts(options.number, options.seed or 0)
    return read_prompts(Path(options.prompts), check, plain)


def from_json(text: str) -> Any:
    """Return what JSON says (ValueError: "not JSON")."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise ValueError("not JSON") from error


def check_prompt(metadata: Any) -> dict[str, Any]:
    """Return metadata if it is an object with a `prompt`; it may have a `tag`, its category (ValueError otherwise)."""
    if not isinstance(metadata, dict):
        raise ValueError("not a JSON object")
    if not isinstance(metadata.get("prompt"), str) or not metadata["prompt"].strip():
        raise ValueError("it has no prompt")
    check_text(metadata["prompt"])
    return metadata


def list_prompts(root: Path, per_prompt: int | None, contents: str) -> tuple[dict[Path, list[Path]], int]:
    """List the prompts' folders with their images in order, and how many images a prompt should have.

    Args:
        root: The folder of all prompts.
        per_prompt: Images that each prompt should have; those beyond are left out. By default as many as most prompts
            have (of two numbers that are as common, the higher), and all are used.
        contents: What a prompt's folder should hold, for the error message.

    Raises:
        UserError: There is no such folder, or no prompt in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name.isdecimal())
    if not folders:
        raise UserError(f"{root}: there is no folder such as 00000/ with {contents} in it")
    images = {folder: samples_in(folder)[:per_prompt] for folder in folders}
    numbers = Counter(len(files) for files in images.values() if files)
    return images, per_prompt or max(numbers, key=lambda number: (numbers[number], number), default=1)


def samples_in(folder: Path) -> list[Path]:
    """List the images of a prompt's folder that are named by numbers, in the order of these."""
    named = [file for stem, file in images_in(folder / SAMPLES).items() if _NUMBER.fullmatch(stem)]
    return sorted(named, key=lambda image: (int(image.stem), image.name))


def too_few(folder: Path, images: int, expected: int, category: str | None) -> list[Missing]:
    """Return what to say of a prompt with fewer images than it should have; nothing otherwise."""
    reason = f"{images} of {expected} images"
    missing = Missing(f"{folder.name}/{SAMPLES}", reason, category, expected - images)
    return [missing] if images < expected else []


@dataclass(frozen=True)
class ImageToGenerate:
    """An image that is not there yet.

    Attributes:
        prompt: Its prompt.
        folder: Of the prompt.
        name: Of the image's file, without its ending.
        seed: Of its noise.
    """

    prompt: str
    folder: Path
    name: str
    seed: int

    @property
    def image(self) -> Path:
        """The image's file."""
        return self.folder / SAMPLES / f"{self.name}.png"


def missing_images(
    root: Path, prompts: Sequence[Mapping[str, Any]], per_prompt: int, seed: int
) -> list[ImageToGenerate]:
    """Return the images that are not in a folder yet, prompt by prompt."""
    images = [
        ImageToGenerate(metadata["prompt"], root / FOLDER.format(i), FOLDER.format(k), image_seed(seed, i, k))
        for i, metadata in enumerate(prompts)
        for k in range(per_prompt)
    ]
    return [image for image in images if not image.image.exists()]


def prepare_prompts(root: Path, prompts: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Prepare a folder for the images of prompts; see `prepare_folder` for the errors."""
    folders = [FOLDER.format(index) for index in range(len(prompts))]
    parts = [f"{folder}/{part}" for folder in folders for part in (SAMPLES, CHAINS)]
    prepare_folder(root, settings, f"*/{SAMPLES}/*.png", [f"*/{CHAINS}/*.txt"], parts)
    try:
        for folder, metadata in zip(folders, prompts, strict=True):
            file, text = root / folder / METADATA, json.dumps(metadata) + "\n"
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                write_whole(file, text)
    except OSError as error:
        raise UserError(f"{root}: cannot be written to ({one_line(error)})") from error


class PromptGeneration(GenerationUnderTrainer):
    """Generates images of prompts: a prompt's chain is written once, greedily, and all its images follow from it.

    Chains are written and read for many prompts together, however few images are generated at a time.

    Args:
        model: Plans and generates.
        units: The images.
        batch_size: Images at a time.
        generator: How.
    """

    def __init__(
        self, model: GoTModel, units: Sequence[ImageToGenerate], batch_size: int, generator: Generator
    ) -> None:
        super().__init__(model, units, batch_size)
        self.size, self.sampling = generator.size, generator.sampling
        self.scales = replace(model.generation_scales, **generator.scales)
        self._reasoned: dict[Path, tuple[str, Tensor]] = {}

    def part(self, rank: int, ranks: int) -> list[ImageToGenerate]:
        """Return the images of every so many prompts."""
        folders = list(dict.fromkeys(unit.folder for unit in self.units))
        own = set(folders[rank::ranks])
        return [unit for unit in self.units if unit.folder in own]

    def generate(self, units: Sequence[ImageToGenerate]) -> None:
        """Generate a batch, each image from its own seed, and write it."""
        batch = Batch.collate([Sample(unit.prompt, chain="", size=self.size) for unit in units]).to(self.device)
        reasoning = self._reasoning(units)
        for unit, chain in zip(units, reasoning.chains, strict=True):
            (unit.folder / CHAINS / f"{unit.name}.txt").write_bytes(f"{chain}\n".encode())
        seeds = [unit.seed for unit in units]
        images = self.model.generate(batch, reasoning, seed=seeds, scales=self.scales, **self.sampling).images
        for unit, image in zip(units, images, strict=True):
            write_image(unit.image, image)

    def _reasoning(self, units: Sequence[ImageToGenerate]) -> Reasoning:
        """Return chain and states of each image's prompt; where some are missing, the next prompts' are made too."""
        wanted = list(dict.fromkeys(unit.folder for unit in units))
        missing = [folder for folder in wanted if folder not in self._reasoned]
        if missing:
            prompts = {unit.folder: unit.prompt for unit in (*self.own, *units)}
            order = list(prompts)
            start = order.index(missing[0])
            others = order[start : start + PROMPTS_AT_ONCE]
            kept = {folder: self._reasoned[folder] for folder in wanted if folder in self._reasoned}
            new = dict.fromkeys((*missing, *others))
            self._reasoned = kept | self._reason({folder: prompts[folder] for folder in new})
        chains, states = zip(*(self._reasoned[unit.folder] for unit in units), strict=True)
        return Reasoning(torch.stack(states), chains)

    def _reason(self, prompts: Mapping[Path, str]) -> dict[Path, tuple[str, Tensor]]:
        """Return chain and states of prompts: chains that are written already are read, others are written now."""
        chains = {folder: chain for folder in prompts if (chain := _written_chain(folder)) is not None}
        reasoned = {}
        if new := [folder for folder in prompts if folder not in chains]:
            written = self.model.plan(self._requests(prompts[folder] for folder in new))
            reproducible = written.reproducible or (False,) * len(new)
            for folder, chain, states, same in zip(new, written.chains, written.states, reproducible, strict=True):
                if same:
                    reasoned[folder] = chain, states
                else:  # An interrupted run reads what it has written: so its images are the same.
                    chains[folder] = chain
        if chains:
            read = self.model.read(self._requests(prompts[folder] for folder in chains), list(chains.values()))
            reasoned |= zip(chains, zip(read.chains, read.states, strict=True), strict=True)
        return reasoned

    def _requests(self, prompts: Iterable[str]) -> Batch:
        return self.batch([Sample(prompt, chain="", size=self.size) for prompt in prompts])


def _written_chain(folder: Path) -> str | None:
    """The chain of a prompt's images; None where none is written whole yet."""
    for file in sorted((folder / CHAINS).glob("*.txt")):
        text = file.read_bytes().decode()
        if text.endswith("\n"):
            return text[:-1]
    return None


def generate_prompts(
    trainer: Trainer, options: Namespace, generator: Generator, prompts: Sequence[Mapping[str, Any]]
) -> None:
    """Generate the images of prompts that are not in `options.output` yet.

    Raises:
        UserError: The folder holds something else, or cannot be written to.
    """
    root = Path(options.output)
    scenes = options.prompts == SCENES
    named = {"scenes": len(prompts)} if scenes else {"prompts": checksum(Path(options.prompts))}
    settings = {**generator.settings, **named}
    generate_missing(
        trainer,
        root,
        generator,
        prepare=lambda: prepare_prompts(root, prompts, settings),
        left=lambda: missing_images(root, prompts, options.per_prompt or PER_PROMPT, generator.seed),
        make=lambda model, units: PromptGeneration(model, units, options.batch_size, generator),
    )
