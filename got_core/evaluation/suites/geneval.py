"""GenEval: prompts, folders in its layout, results by category with intervals over prompts."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from rich.table import Table
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset
from torchmetrics import Metric

from got_core.data.images import load_image
from got_core.detection.base import CATEGORIES, Detector, coloured, shows
from got_core.detection.loading import Judge
from got_core.errors import UserError
from got_core.evaluation.results import DIGITS, OVERALL, Better, Item, scored_items
from got_core.evaluation.scoring import Said, VerdictStore, verdict_key
from got_core.evaluation.statistics import Interval, Stratum, overall_interval, stratum
from got_core.planning.boxes import RELATIONS

UNSEEN, WRONG, RIGHT, MISSING = -1, 0, 1, 2
"""Verdicts on an image: nobody looked at it; it does not, or does, show what was asked for; it cannot be read."""


class Verdicts(Metric):
    """The verdict on each of a known number of images.

    Ranks hold verdicts on different images. An image that several ranks have looked at counts once: its verdicts are
    the same, and the highest is kept.

    Args:
        images: How many there are.
        **settings: torchmetrics' own settings.
    """

    full_state_update = False
    verdicts: Tensor

    def __init__(self, images: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.add_state("verdicts", torch.full((images,), UNSEEN), dist_reduce_fx="max")

    def update(self, places: Int[Tensor, " k"], verdicts: Int[Tensor, " k"]) -> None:
        """Note the verdicts on the images at some places."""
        self.verdicts[places] = verdicts

    def compute(self) -> Int[Tensor, " images"]:
        """All verdicts, in order."""
        return self.verdicts


VERDICTS = "verdicts"
"""In what the metric computes: the verdict on each image."""


class GenEvalMetric(Verdicts):
    """The share of right images in each category and overall, the plain mean of these; and every verdict.

    Args:
        categories: Of each image.
        **settings: torchmetrics' own settings.
    """

    def __init__(self, categories: Sequence[str], **settings: Any) -> None:
        super().__init__(len(categories), **settings)
        self.categories = tuple(categories)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """`VERDICTS`, the share of each category with an image that could be read, and `OVERALL` where there is one."""
        shares = {}
        for category in dict.fromkeys(self.categories):
            members = torch.tensor([own == category for own in self.categories], device=self.verdicts.device)
            seen = self.verdicts[members]
            seen = seen[(seen == RIGHT) | (seen == WRONG)]
            if len(seen):
                shares[category] = (seen == RIGHT).double().mean()
        overall = {OVERALL: torch.stack(list(shares.values())).mean()} if shares else {}
        return {VERDICTS: self.verdicts, **shares, **overall}


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


SUITE = "geneval"
"""What results of this suite call it."""

FIGURES: dict[str, Better] = {"right": "higher"}
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

    @property
    def missing_by_category(self) -> dict[str, int]:
        """Images that could not be scored, by category where that is known, and overall."""
        counted: Counter[str] = Counter()
        for entry in self.missing:
            counted[OVERALL] += entry.images
            if entry.category is not None:
                counted[entry.category] += entry.images
        return dict(counted)

    def as_json(self) -> dict[str, Any]:
        """Scores, missing images, and every prompt with its images."""
        items = [self._item(prompt) for prompt in self.folder.prompts if self.images.get(prompt.folder)]
        lacking = self.missing_by_category.get(OVERALL, 0)
        counts = {"per_prompt": self.folder.per_prompt, "images": self.scores[OVERALL].images, "missing": lacking}
        return {
            **scored_items(SUITE, FIGURES, items),
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
    folder: GenEvalFolder, verdicts: Sequence[int], reasons: Mapping[int, str], seed: int = 0
) -> GenEvalResult:
    """The outcome of verdicts on a folder's images.

    Args:
        folder: What was judged.
        verdicts: Of each image, in order (`got_core.evaluation.suites.geneval`).
        reasons: What is wrong with an image, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single image could be read.
        ValueError: An image was not looked at.
    """
    images: dict[str, tuple[ImageVerdict, ...]] = {}
    missing = list(folder.missing)
    for place, ((prompt, file), verdict) in enumerate(zip(folder.images, verdicts, strict=True)):
        if verdict == UNSEEN:
            raise ValueError(f"{file} was not looked at")
        name = file.relative_to(folder.root).as_posix()
        reason = reasons.get(place, "")
        if verdict == MISSING:
            missing.append(Missing(name, reason, prompt.metadata["tag"], 1))
        else:
            seen = ImageVerdict(name, verdict == RIGHT, reason)
            images[prompt.folder] = (*images.get(prompt.folder, ()), seen)
    if not images:
        raise UserError(f"{folder.root}: none of {len(verdicts)} images can be read ({missing[-1].reason})")
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


class ImageRead(NamedTuple):
    """An image on its way to the judge.

    Attributes:
        place: In the folder's order.
        key: Stands for its bytes and what is asked of it.
        said: The verdict that is known of it.
        image: In [-1, 1]; None where a verdict is known, or it cannot be read.
        problem: Why it cannot be read.
    """

    place: int
    key: str = ""
    said: Said | None = None
    image: Float[Tensor, "3 _ _"] | None = None
    problem: str = ""


class ImageFiles(Dataset[ImageRead]):
    """Images of a folder; those that a verdict is known of are not decoded, and those that cannot be read say why."""

    def __init__(
        self, pictures: Sequence[tuple[Prompt, Path]], places: Sequence[int], known: Mapping[str, Said]
    ) -> None:
        self.pictures, self.places, self.known = pictures, places, known

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> ImageRead:
        place = self.places[index]
        prompt, file = self.pictures[place]
        try:
            content = file.read_bytes()
            key = verdict_key(content, prompt.metadata)
            if key in self.known:
                return ImageRead(place, key, said=self.known[key])
            return ImageRead(place, key, image=load_image(content, name=str(file)))
        except (ValueError, OSError) as error:
            return ImageRead(place, problem=str(error))


class FolderScoring(LightningModule):
    """`trainer.test` judges every image of a folder; the ranks' verdicts are joined when all have done their share.

    Each verdict is written when it is there, and known ones are not asked for again.

    Args:
        folder: What to score.
        judge: Who scores it.
        kept: The folder that verdicts are kept in, from one run to the next.
        batch_size: Images that the detector is shown at a time; those of other sizes go apart.
        num_workers: Processes that read images.

    Attributes:
        found: After the test, the verdict on each image, in the folder's order.
        reasons: What is wrong with an image, by its place.
        shares: The share of right images of each category and overall.
    """

    def __init__(
        self, folder: GenEvalFolder, judge: Judge, kept: Path, batch_size: int = 8, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.pictures = folder.images
        self.judge = judge
        self.detector = judge.detector
        self.kept = kept
        self.batch_size, self.num_workers = batch_size, num_workers
        self.metric = GenEvalMetric([prompt.metadata["tag"] for prompt, _ in self.pictures])
        self.found: list[int] = []
        self.reasons: dict[int, str] = {}
        self.shares: dict[str, float] = {}

    def test_dataloader(self) -> DataLoader:
        """This rank's share, every so many images; one that is scored twice where there is none left for it."""
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        places = range(len(self.pictures))[rank::ranks] or range(1)
        self.store = VerdictStore(self.kept, self.judge.description, rank)
        files = ImageFiles(self.pictures, places, self.store.known)
        return DataLoader(files, batch_size=self.batch_size, collate_fn=list, num_workers=self.num_workers)

    def test_step(self, batch: list[ImageRead], batch_idx: int) -> None:
        """Judge some images, in full precision whatever the Trainer's."""
        alike: dict[torch.Size, list[ImageRead]] = {}
        for read in batch:
            if read.said is not None:
                self._note(read.place, RIGHT if read.said["right"] else WRONG, read.said["reason"])
            elif read.image is None:
                self._note(read.place, MISSING, read.problem)
            else:
                alike.setdefault(read.image.shape, []).append(read)
        with torch.autocast(self.device.type, enabled=False):
            for group in alike.values():
                self._judge(group)

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found."""
        computed = self.metric.compute()
        self.found = torch.atleast_1d(computed.pop(VERDICTS)).tolist()  # torchmetrics makes one value a scalar
        self.shares = {name: float(share) for name, share in computed.items()}
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            distributed.all_gather_object(shares, self.reasons)
            self.reasons = {place: reason for share in shares for place, reason in share.items()}

    def _judge(self, group: Sequence[ImageRead]) -> None:
        """Judge images of one size."""
        asked = [self.pictures[read.place][0].metadata for read in group]
        images = torch.stack([read.image for read in group if read.image is not None])
        seen = self.detector.look_for(images, [coloured(metadata) for metadata in asked])
        size = (images.shape[-2], images.shape[-1])
        for read, metadata, objects in zip(group, asked, seen, strict=True):
            right, reason = shows(metadata, objects, self.judge.rules, size)
            self.store.add(read.key, {"right": right, "reason": reason})
            self._note(read.place, RIGHT if right else WRONG, reason)

    def _note(self, place: int, verdict: int, reason: str) -> None:
        self.metric.update(*(torch.tensor([value], device=self.device) for value in (place, verdict)))
        if reason:
            self.reasons[place] = reason
