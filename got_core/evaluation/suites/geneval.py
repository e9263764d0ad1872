"""GenEval: prompts, folders in its layout, results by category with intervals over prompts."""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from got_core.detection.base import CATEGORIES, Detector, coloured, shows
from got_core.detection.loading import GenEvalDetector
from got_core.errors import UserError
from got_core.evaluation.results import DIGITS, OVERALL, Better, Item, Missing, missing_by_category, scored_items
from got_core.evaluation.scoring import ItemScoring, Keeping, Loaded, PictureFiles
from got_core.evaluation.statistics import Interval, Stratum, overall_interval, stratum
from got_core.planning.boxes import RELATIONS


@dataclass(frozen=True)
class PromptVerdicts:
    """A prompt whose images were judged.

    Attributes:
        category: Its tag.
        right: For each image that could be read, whether it shows what was asked for; at least one.
    """

    category: str
    right: tuple[bool, ...]


@dataclass(frozen=True)
class Score:
    """How a category, or all of them, was done.

    Attributes:
        share: Of right images; overall the plain mean of the categories.
        interval: 95% interval of it over prompts; None where there are too few, overall where a category has too few.
        any_right: Share of prompts with any image right, over those with all their images; overall the plain mean of
            the categories. None where no prompt has them all.
        prompts, images: How many were judged.
    """

    share: float
    interval: Interval | None
    any_right: float | None
    prompts: int
    images: int


def scores(judged: Sequence[PromptVerdicts], per_prompt: int, seed: int = 0) -> dict[str, Score]:
    """A score for each category that has a prompt, and `overall`; the same for a seed.

    Args:
        judged: The prompts.
        per_prompt: Images that each should have. Of more, the first are looked at for `any_right`.
        seed: Of the bootstrap.

    Raises:
        ValueError: No prompt was judged.
    """
    if not judged:
        raise ValueError("no prompt was judged")
    found: dict[str, Score] = {}
    strata: dict[str, Stratum] = {}
    for place, category in enumerate(CATEGORIES):
        members = [prompt.right for prompt in judged if prompt.category == category]
        if not members:
            continue
        images = [len(right) for right in members]
        strata[category] = stratum([float(np.mean(right)) for right in members], images, seed + place)
        complete = [any(right[:per_prompt]) for right in members if len(right) >= per_prompt]
        found[category] = Score(
            share=strata[category].mean,
            interval=strata[category].interval,
            any_right=float(np.mean(complete)) if complete else None,
            prompts=len(members),
            images=sum(images),
        )
    parts = list(found.values())
    any_right = [part.any_right for part in parts if part.any_right is not None]
    found[OVERALL] = Score(
        share=float(np.mean([part.share for part in parts])),
        interval=overall_interval(strata),
        any_right=float(np.mean(any_right)) if len(any_right) == len(parts) else None,
        prompts=sum(part.prompts for part in parts),
        images=sum(part.images for part in parts),
    )
    return found


def score_table(found: Mapping[str, Score], missing: Mapping[str, int], per_prompt: int, title: str) -> Table:
    """Scores for people to read.

    Args:
        found: As `scores` makes them.
        missing: Images that could not be scored, by category and overall.
        per_prompt: Images that a prompt should have.
        title: What was scored.
    """
    table = Table("category", title=title, title_justify="left")
    for heading in ("right", "95% interval", f"any of {per_prompt} right", "prompts", "images", "missing"):
        table.add_column(heading, justify="right")
    for name in (*CATEGORIES, OVERALL):
        lacking = str(missing.get(name, 0))
        if name not in found:
            table.add_row(name, "-", "-", "-", "0", "0", lacking)
            continue
        score = found[name]
        span = "-" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        any_right = "-" if score.any_right is None else f"{score.any_right:.3f}"
        table.add_row(name, f"{score.share:.3f}", span, any_right, str(score.prompts), str(score.images), lacking)
    return table


LISTED = 5
"""Words that an error lists before it only counts."""


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """GenEval's prompts: one JSON object a line.

    Raises:
        UserError: There is no such file, no prompt in it, or a line that is none.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: no readable prompts ({type(error).__name__})") from error
    prompts = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            prompts += [checked_metadata(line)] if line.strip() else []
        except ValueError as error:
            raise UserError(f"{file}, line {number}: {error}") from error
    if not prompts:
        raise UserError(f"{file}: there is no prompt in it")
    return prompts


def check_words(asked: Collection[Mapping[str, Any]], detector: Detector) -> None:
    """See that a detector knows every class and colour that is asked for.

    Raises:
        UserError: It does not, so the score would be 0 whatever the images show.
    """
    kinds = {"class": ("classes", detector.classes), "color": ("colours", detector.colour_words)}
    for key, (kind, known) in kinds.items():
        words = {clause[key] for metadata in asked for clause in _clauses(metadata) if key in clause}
        unknown = sorted(words - set(known)) if known is not None else []
        if known is not None and unknown:
            raise UserError(
                f"the detector does not know {_some(unknown)}, which the prompts ask for; its {kind}: "
                f"{_some(list(known)) or 'none'}"
            )


def checked_metadata(text: str) -> dict[str, Any]:
    """Metadata of a prompt from its JSON, known to be such that images can be judged by it.

    Raises:
        ValueError: What is wrong with it.
    """
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise ValueError("not JSON") from error
    if not isinstance(metadata, dict):
        raise ValueError("not a JSON object")
    prompt, tag = metadata.get("prompt"), metadata.get("tag")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("it has no prompt")
    if tag not in CATEGORIES:
        named = "it has no tag" if tag is None else f"its tag is {tag!r}"
        raise ValueError(f"{named}; a tag is one of {', '.join(CATEGORIES)}")
    included, excluded = metadata.get("include"), metadata.get("exclude", [])
    if not included or not isinstance(included, list) or not isinstance(excluded, list):
        raise ValueError("it asks for nothing: include must be a list of clauses, and exclude one if it is there")
    for place, clause in enumerate(included):
        _check_clause(clause, place)
    for clause in excluded:
        _check_clause(clause, 0)
    return metadata


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:LISTED])
    return shown if len(words) <= LISTED else f"{shown} and {len(words) - LISTED} more"


def _clauses(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in ("include", "exclude"):
        yield from metadata.get(part, ())


def _check_clause(clause: Any, place: int) -> None:
    whole = isinstance(clause, dict) and isinstance(clause.get("class"), str) and isinstance(clause.get("count"), int)
    if not whole or clause["count"] < 1:
        raise ValueError(f"a clause needs a class and a positive count, got {clause}")
    if not isinstance(clause.get("color", ""), str):
        raise ValueError(f"color must be a word, got {clause}")
    if "position" in clause:
        relation, target = (*clause["position"], None, None)[:2] if isinstance(clause["position"], list) else (0, 0)
        if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < place:
            raise ValueError(f"position must be a relation and the place of an earlier clause, got {clause}")


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
        metadata: As `got_core.detection.base` describes it, with `prompt`.
        images: Files, in order.
    """

    folder: str
    metadata: Mapping[str, Any]
    images: tuple[Path, ...]


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


SUITE = "geneval"
"""What results of this suite call it."""

METRICS: dict[str, Better] = {"right": "higher"}
"""Of each prompt: the share of its images that are right."""


@dataclass(frozen=True)
class ImageVerdict:
    """One image with its verdict.

    Attributes:
        file: Its path within the folder.
        right: Whether it shows what was asked for.
        reason: What is wrong with it; empty where it is right.
    """

    file: str
    right: bool
    reason: str


@dataclass(frozen=True)
class GenEvalResult:
    """The outcome of a folder.

    Attributes:
        folder: What was judged.
        images: For each prompt that has one, those that could be read.
        missing: What could not be scored, unreadable images among it.
        scores: By category, and overall.
    """

    folder: GenEvalFolder
    images: Mapping[str, tuple[ImageVerdict, ...]]
    missing: tuple[Missing, ...]
    scores: Mapping[str, Score]

    def as_json(self) -> dict[str, Any]:
        """Scores, missing images, and every prompt with its images."""
        items = [self._item(prompt) for prompt in self.folder.prompts if self.images.get(prompt.folder)]
        lacking = missing_by_category(self.missing).get(OVERALL, 0)
        counts = {"per_prompt": self.folder.per_prompt, "images": self.scores[OVERALL].images, "missing": lacking}
        return {
            **scored_items(SUITE, METRICS, items),
            "counts": counts,
            "scores": {name: _plain(score) for name, score in self.scores.items()},
            "missing": [*map(asdict, self.missing)],
        }

    def _item(self, prompt: Prompt) -> Item:
        images = self.images[prompt.folder]
        return Item(
            key=prompt.metadata["prompt"],
            category=prompt.metadata["tag"],
            scores={"right": sum(image.right for image in images) / len(images)},
            details={"folder": prompt.folder, "images": [asdict(image) for image in images]},
        )


def geneval_result(
    folder: GenEvalFolder,
    found: Float[Tensor, "images 1"],
    details: Mapping[int, Mapping[str, Any]],
    notes: Mapping[int, str],
    seed: int = 0,
) -> GenEvalResult:
    """The outcome of a folder's images as `FolderScoring` has scored them.

    Args:
        folder: What was scored.
        found: Whether each image is right, in order; NaN where it could not be read.
        details: The `reason` for which an image is not right, by its index.
        notes: Why an image could not be read, by its index.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single image could be read.
        ValueError: An image was not looked at.
    """
    images: dict[str, tuple[ImageVerdict, ...]] = {}
    missing = list(folder.missing)
    for place, ((prompt, file), (right,)) in enumerate(zip(folder.images, found.tolist(), strict=True)):
        name = file.relative_to(folder.root).as_posix()
        if place in notes:
            missing.append(Missing(name, notes[place], prompt.metadata["tag"], 1))
        elif math.isnan(right):
            raise ValueError(f"{file} was not looked at")
        else:
            seen = ImageVerdict(name, bool(right), details[place]["reason"])
            images[prompt.folder] = (*images.get(prompt.folder, ()), seen)
    if not images:
        raise UserError(f"{folder.root}: none of {len(found)} images can be read ({missing[-1].reason})")
    tags = {prompt.folder: prompt.metadata["tag"] for prompt in folder.prompts}
    judged = [PromptVerdicts(tags[name], tuple(image.right for image in own)) for name, own in images.items()]
    return GenEvalResult(folder, images, tuple(missing), scores(judged, folder.per_prompt, seed))


def _plain(score: Score) -> dict[str, Any]:
    return {
        "right": round(score.share, DIGITS),
        "interval": None if score.interval is None else [round(end, DIGITS) for end in score.interval],
        "any_right": None if score.any_right is None else round(score.any_right, DIGITS),
        "prompts": score.prompts,
        "images": score.images,
    }


class FolderScoring(ItemScoring):
    """`trainer.test` judges every image of a folder: 1 where it is right, with the `reason` where it is not.

    Args:
        folder: What to score.
        judge: Who scores it.
        output: Where verdicts are kept, from one run to the next.
        batch_size: Images that the detector is shown at a time; those of other sizes go apart.
        num_workers: Processes that read images.
    """

    def __init__(
        self, folder: GenEvalFolder, judge: GenEvalDetector, output: Path, batch_size: int = 8, num_workers: int = 0
    ) -> None:
        self.asked = [prompt.metadata for prompt, _ in folder.images]
        files = PictureFiles([file for _, file in folder.images], self.asked)
        super().__init__(files, tuple(METRICS), batch_size, num_workers, Keeping(output, judge.description))
        self.detector = judge.detector
        self.rules = judge.rules

    def score(self, batch: list[Loaded]) -> None:
        """Judge some images."""
        for places, images in self.readable(batch):
            seen = self.detector.look_for(images, [coloured(self.asked[place]) for place in places])
            for place, objects in zip(places, seen, strict=True):
                right, reason = shows(self.asked[place], objects, self.rules, (images.shape[-2], images.shape[-1]))
                self.note(place, {"right": float(right), "reason": reason})
