"""Folders in GenEval's layout: `00000/metadata.jsonl` and `00000/samples/00000.png`, ..., one folder a prompt.

Images are named by numbers; what else lies beside them (such as `grid.png`) is no image of the prompt.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.geneval_prompts import checked_metadata

FOLDER = "{:05d}"
"""Name of a prompt's folder, and of its images, by number."""

METADATA, SAMPLES, CHAINS = "metadata.jsonl", "samples", "chains"
"""In a prompt's folder: what is asked for, the images, and (ours alone) the chain that each was drawn from."""

NO_FOLDER = "no folder"
"""Why the images of a prompt without a folder are missing."""

_IMAGE = re.compile(r"[0-9]+\.png")


@dataclass(frozen=True)
class Prompt:
    """What is asked for, and the images that were made of it.

    Attributes:
        folder: Name of its folder.
        metadata: As `got_core.evaluation.geneval` describes it, with `prompt`.
        images: Files, in order.
    """

    folder: str
    metadata: Mapping[str, Any]
    images: tuple[Path, ...]


@dataclass(frozen=True)
class Missing:
    """Images that should be there and cannot be scored.

    Attributes:
        place: Folder or file, within the folder of all prompts.
        reason: What is the matter.
        category: Where it is known.
        images: How many.
    """

    place: str
    reason: str
    category: str | None
    images: int


@dataclass(frozen=True)
class GenEvalFolder:
    """The prompts of a folder, and what it lacks.

    Attributes:
        root: The folder.
        prompts: Those that have an image.
        per_prompt: Images that a prompt should have.
        missing: What is not there.
    """

    root: Path
    prompts: tuple[Prompt, ...]
    per_prompt: int
    missing: tuple[Missing, ...]

    @property
    def images(self) -> list[tuple[Prompt, Path]]:
        """Every image with its prompt, in order."""
        return [(prompt, image) for prompt in self.prompts for image in prompt.images]


def read_folder(root: Path, per_prompt: int | None = None) -> GenEvalFolder:
    """List a folder in GenEval's layout, whoever made it.

    Args:
        root: The folder.
        per_prompt: Images that each prompt should have; those beyond are left out. By default as many as most prompts
            have, and all are kept.

    Raises:
        UserError: There is no such folder, no prompt in it, or not a single image to score.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name.isdecimal())
    if not folders:
        raise UserError(f"{root}: there is no folder such as 00000/ with {METADATA} and {SAMPLES}/ in it")
    files = {folder: _images(folder / SAMPLES)[:per_prompt] for folder in folders}
    expected = per_prompt or _most_common([len(images) for images in files.values()])
    prompts, missing = [], [Missing(name, NO_FOLDER, None, expected) for name in _gaps(folders)]
    for folder, images in files.items():
        try:
            metadata = _read_metadata(folder / METADATA)
        except ValueError as error:
            missing.append(Missing(f"{folder.name}/{METADATA}", str(error), None, expected))
            continue
        if len(images) < expected:
            reason = f"{len(images)} of {expected} images"
            missing.append(Missing(f"{folder.name}/{SAMPLES}", reason, metadata["tag"], expected - len(images)))
        if images:
            prompts.append(Prompt(folder.name, metadata, tuple(images)))
    if not prompts:
        first = next(entry for entry in missing if entry.reason != NO_FOLDER)
        raise UserError(f"{root}: no image to score in {len(folders)} folders ({first.place}: {first.reason})")
    return GenEvalFolder(root, tuple(prompts), expected, tuple(missing))


def against(folder: GenEvalFolder, prompts: Sequence[Mapping[str, Any]]) -> GenEvalFolder:
    """A folder with those prompts counted as missing that have no folder at all.

    Args:
        folder: As it was read.
        prompts: What it was drawn from; a prompt's folder is named by its number.

    Raises:
        UserError: A folder was drawn from another prompt.
    """
    for prompt in folder.prompts:
        number = int(prompt.folder)
        asked = prompts[number]["prompt"] if number < len(prompts) else None
        if asked != prompt.metadata["prompt"]:
            raise UserError(f"{folder.root}: {prompt.folder} is of {prompt.metadata['prompt']!r}, not of {asked!r}")
    there = {int(entry.name) for entry in folder.root.iterdir() if entry.name.isdecimal()}
    others = [entry for entry in folder.missing if entry.reason != NO_FOLDER]
    absent = [
        Missing(FOLDER.format(number), NO_FOLDER, metadata["tag"], folder.per_prompt)
        for number, metadata in enumerate(prompts)
        if number not in there
    ]
    return replace(folder, missing=(*others, *absent))


def _images(samples: Path) -> list[Path]:
    """Those named by numbers, in the order of these."""
    if not samples.is_dir():
        return []
    named = (entry for entry in samples.iterdir() if _IMAGE.fullmatch(entry.name))
    return sorted(named, key=lambda image: (int(image.stem), image.name))


def _most_common(numbers: Sequence[int]) -> int:
    """The number of images that most prompts with any have, the higher of two that are as common; at least 1."""
    counted = Counter(number for number in numbers if number)
    return max(counted, key=lambda number: (counted[number], number), default=1)


def _gaps(folders: Sequence[Path]) -> list[str]:
    """Folders that the numbers of the others leave out."""
    numbers = {int(folder.name) for folder in folders}
    return [FOLDER.format(number) for number in range(max(numbers)) if number not in numbers]


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        return checked_metadata(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError("not there" if isinstance(error, FileNotFoundError) else "not readable") from error
