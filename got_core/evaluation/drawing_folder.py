"""The folder that prompts are drawn into: its record of what is drawn and how, its prompts and what it lacks."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from got_core.errors import UserError, one_line
from got_core.evaluation.geneval_folder import CHAINS, FOLDER, METADATA, SAMPLES
from got_core.evaluation.provenance import SETTINGS, write_whole

ABSENT = "nothing"
"""Stands for a setting that is not there."""


@dataclass(frozen=True)
class Wanted:
    """An image that is still to be drawn.

    Attributes:
        prompt: What of.
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

    @property
    def chain(self) -> Path:
        """The file of the chain it is drawn from; all images of a prompt are drawn from one chain."""
        return self.folder / CHAINS / f"{self.name}.txt"


def image_seed(seed: int, prompt: int, image: int) -> int:
    """The seed of an image's noise: a function of the run's seed and the numbers of prompt and image alone."""
    return int(np.random.SeedSequence([seed, prompt, image]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def still_wanted(root: Path, prompts: Sequence[Mapping[str, Any]], per_prompt: int, seed: int) -> list[Wanted]:
    """The images that are not in a folder yet, prompt by prompt."""
    images = [
        Wanted(metadata["prompt"], root / FOLDER.format(i), FOLDER.format(k), image_seed(seed, i, k))
        for i, metadata in enumerate(prompts)
        for k in range(per_prompt)
    ]
    return [wanted for wanted in images if not wanted.image.exists()]


def prepare_folder(root: Path, prompts: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Write how will be drawn, then what, or see that a folder with images was drawn in the same way.

    A folder that has no image yet takes new settings.

    Raises:
        UserError: There is something else in the folder, its images were drawn otherwise, or it cannot be written to.
    """
    take_settings(root, settings, f"*/{SAMPLES}/*.png", [f"*/{CHAINS}/*.txt"])
    try:
        for number, metadata in enumerate(prompts):
            folder, text = root / FOLDER.format(number), json.dumps(metadata) + "\n"
            for part in (SAMPLES, CHAINS):
                (folder / part).mkdir(parents=True, exist_ok=True)
            if not (folder / METADATA).exists() or (folder / METADATA).read_text(encoding="utf-8") != text:
                write_whole(folder / METADATA, text)
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


def take_settings(root: Path, settings: Mapping[str, Any], images: str, others: Sequence[str]) -> None:
    """Write how will be drawn into a folder without images, or see that one with images was drawn in the same way.

    Args:
        root: The folder; made if it is not there.
        settings: How will be drawn.
        images: Pattern of the images' files.
        others: Patterns of what follows from the settings as well; those files are removed where these change.

    Raises:
        UserError: There is something else in the folder, its images were drawn otherwise, or it cannot be written to.
    """
    file = root / SETTINGS
    try:
        if not file.exists() and root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: it holds something that was not drawn here; name a new folder")
        former = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        if former == settings:
            return
        differing = first_difference(former, settings) if former is not None else None
        if differing is not None and next(root.glob(images), None) is not None:
            name, before, now = differing
            raise UserError(f"{root}: its images were drawn with {name} {before}, not {now}; name a new folder")
        for pattern in others:
            for stale in root.glob(pattern):
                stale.unlink()
        root.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(dict(settings), indent=2) + "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: cannot be drawn into ({one_line(error)})") from error


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The name, with dots between levels, and both values of the first setting that differs; None where none does."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else (name, one, other)
    for key in (*other, *(key for key in one if key not in other)):
        inner = f"{name}.{key}" if name else str(key)
        found = first_difference(one.get(key, ABSENT), other.get(key, ABSENT), inner)
        if found is not None:
            return found
    return None
