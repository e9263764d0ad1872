"""GenEval (Ghosh et al., NeurIPS 2023): prompts and folders in its layout, scored by a detector."""

from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from got_core.detection.base import CATEGORIES, Detector, coloured, shows
from got_core.detection.loading import SCENES, GenEvalDetector, load_geneval_detector
from got_core.errors import UserError
from got_core.evaluation.answers import Answer, text_to_image_answers
from got_core.evaluation.generation import check_sources, read_generator
from got_core.evaluation.results import (
    LISTED,
    OVERALL,
    Better,
    Item,
    Missing,
    Results,
    check_writable,
    missing_by_category,
    origin,
    summarize,
)
from got_core.evaluation.scoring import (
    Image,
    ImageFiles,
    ItemScoring,
    ScoreCache,
    evaluation_trainer,
    score_answers,
    score_items,
)
from got_core.evaluation.suites.prompts import (
    FOLDER,
    METADATA,
    PER_PROMPT,
    SAMPLES,
    check_prompt,
    from_json,
    generate_prompts,
    list_prompts,
    prompts_of,
    too_few,
)
from got_core.planning.boxes import RELATIONS
from got_core.weights.files import checksum, checksum_of

METRICS: dict[str, Better] = {"right": "higher", "any_right": "higher"}
"""Of a prompt: the fraction of its images that are right, and whether any of them is; overall the plain mean of the
categories, as GenEval has it."""


def evaluate(options: Namespace) -> None:
    """Generate GenEval's prompts if a checkpoint is given, score a folder, print a table and write `results.json`.

    Raises:
        UserError: Options that do not fit, a detector that cannot be loaded, nothing to score, or a folder that cannot
            be written to.
    """
    check_sources(options, "prompts")
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or root)
    prompts = prompts_of(options, check_clauses) if options.prompts else None
    if options.images:
        folder = read_folder(root, options.per_prompt, prompts)
        check_writable(output)
        judge = load_geneval_detector(options.detector, options.clip)
    else:
        generator = read_generator(options)
        judge = load_geneval_detector(options.detector, options.clip)
        check_words(prompts or (), judge.detector)
        generate_prompts(trainer, options, generator, prompts or ())
        folder = read_folder(root, options.per_prompt or PER_PROMPT, prompts)
    check_words([prompt.metadata for prompt in folder.prompts], judge.detector)
    cache = ScoreCache(output, judge.description)
    how = judge, options.batch_size, options.num_workers, cache
    scoring = GenEvalScoring(folder, *how)
    is_first = score_items(trainer, scoring, output)
    one_each = first_images(folder, scoring)
    named = text_to_image_answers([prompt.metadata.get("objects") for prompt in one_each.prompts])
    answers = {name: GenEvalScoring(one_each, *how, answers=own) for name, own in named.items()}
    answers = score_answers(trainer, answers, output)
    if is_first:
        files = [image for _, image in folder.images]
        files += [root / prompt.folder / METADATA for prompt in folder.prompts]
        from_file = options.prompts and options.prompts != SCENES
        sums = {"prompts": checksum(Path(options.prompts))} if from_file else {}
        came = origin(root, judge.description, {**sums, "images": checksum_of(root, files)})
        floors = {name: geneval_results(one_each, own).scores for name, own in answers.items()}
        results = replace(geneval_results(folder, scoring), origin=came, answers=floors)
        results.publish(output, f"GenEval, {root}, scored by {' and '.join(judge.sources.values())}")


@dataclass(frozen=True)
class Prompt:
    """A prompt with its images.

    Attributes:
        folder: Name of its folder.
        metadata: As `got_core.detection.base.shows` reads it, with `prompt` and `tag`.
        images: Files, in order.
    """

    folder: str
    metadata: Mapping[str, Any]
    images: tuple[Path, ...]


@dataclass(frozen=True)
class GenEvalFolder:
    """The prompts of a folder, and what is missing.

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


def read_folder(
    root: Path, per_prompt: int | None = None, prompts: Sequence[Mapping[str, Any]] | None = None
) -> GenEvalFolder:
    """List a folder in GenEval's layout, whoever made it.

    Args:
        root: The folder.
        per_prompt: Images that each prompt should have; see `list_prompts`.
        prompts: What the folder was generated from, if known; a prompt's folder is named by its index. Prompts without
            a folder are missing; by default, those that the other folders' numbers leave out.

    Raises:
        UserError: There is no such folder, no prompt in it, not a single image to score, or a folder is of another
            prompt than `prompts` says.
    """
    folders, expected = list_prompts(root, per_prompt, f"{METADATA} and {SAMPLES}/")
    found: list[Prompt] = []
    missing: list[Missing] = []
    for folder, images in folders.items():
        try:
            metadata = _read_metadata(folder / METADATA)
        except ValueError as error:
            missing.append(Missing(f"{folder.name}/{METADATA}", str(error), None, expected))
            continue
        missing += too_few(folder, len(images), expected, metadata["tag"])
        if images:
            found.append(Prompt(folder.name, metadata, tuple(images)))
    if not found:
        raise UserError(f"{root}: no image to score in {len(folders)} folders ({missing[0].item}: {missing[0].reason})")
    for prompt in found if prompts is not None else ():
        index = int(prompt.folder)
        expected_prompt = prompts[index]["prompt"] if prompts and index < len(prompts) else None
        if expected_prompt != prompt.metadata["prompt"]:
            raise UserError(f"{root}: {prompt.folder} is of {prompt.metadata['prompt']!r}, not of {expected_prompt!r}")
    present = {int(folder.name) for folder in folders}
    tags = [None] * max(present) if prompts is None else [metadata["tag"] for metadata in prompts]
    absent = [
        Missing(FOLDER.format(index), "no folder", tag, expected)
        for index, tag in enumerate(tags)
        if index not in present
    ]
    return GenEvalFolder(root, tuple(found), expected, (*missing, *absent))


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        return check_clauses(from_json(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError("not there" if isinstance(error, FileNotFoundError) else "not readable") from error


def check_clauses(metadata: Any) -> dict[str, Any]:
    """Return metadata of a prompt if images can be scored by it.

    Raises:
        ValueError: What is wrong with it.
    """
    metadata = check_prompt(metadata)
    tag = metadata.get("tag")
    if tag not in CATEGORIES:
        named = "it has no tag" if tag is None else f"its tag is {tag!r}"
        raise ValueError(f"{named}; a tag is one of {', '.join(CATEGORIES)}")
    included, excluded = metadata.get("include"), metadata.get("exclude", [])
    if not included or not isinstance(included, list) or not isinstance(excluded, list):
        raise ValueError("include must be a list of clauses with at least one, and exclude a list if it is there")
    for index, clause in enumerate(included):
        _check_clause(clause, index)
    for clause in excluded:
        _check_clause(clause, 0)
    return metadata


def _check_clause(clause: Any, index: int) -> None:
    whole = isinstance(clause, dict) and isinstance(clause.get("class"), str) and isinstance(clause.get("count"), int)
    if not whole or clause["count"] < 1:
        raise ValueError(f"a clause needs a class and a positive count, got {clause}")
    if not isinstance(clause.get("color", ""), str):
        raise ValueError(f"color must be a word, got {clause}")
    if "position" in clause:
        relation, target = (*clause["position"], None, None)[:2] if isinstance(clause["position"], list) else (0, 0)
        if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < index:
            raise ValueError(f"position must be a relation and the index of an earlier clause, got {clause}")


def check_words(prompts: Collection[Mapping[str, Any]], detector: Detector) -> None:
    """Check that a detector knows every class and colour of the prompts.

    Raises:
        UserError: It does not, so that scores would be 0 whatever the images show.
    """
    kinds = {"class": ("classes", detector.classes), "color": ("colours", detector.colour_words)}
    for key, (kind, known) in kinds.items():
        words = {clause[key] for metadata in prompts for clause in _clauses(metadata) if key in clause}
        unknown = sorted(words - set(known)) if known is not None else []
        if known is not None and unknown:
            raise UserError(
                f"the detector does not know {_some(unknown)}, which the prompts name; its {kind}: "
                f"{_some(list(known)) or 'none'}"
            )


def _some(words: Sequence[str]) -> str:
    shown = ", ".join(words[:LISTED])
    return shown if len(words) <= LISTED else f"{shown} and {len(words) - LISTED} more"


def _clauses(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in ("include", "exclude"):
        yield from metadata.get(part, ())


class GenEvalScoring(ItemScoring):
    """Scores every image of a folder: 1 where it is right, with the `reason` where it is not.

    Args:
        folder: What to score.
        judge: The detector with its thresholds.
        batch_size: Images at a time; those of other sizes go apart.
        num_workers: Processes that read images.
        cache: Where scores are cached.
        answers: Images that are scored in the place of the folder's.
    """

    def __init__(
        self,
        folder: GenEvalFolder,
        judge: GenEvalDetector,
        batch_size: int = 8,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
        answers: Sequence[Answer] | None = None,
    ) -> None:
        self.prompts = [prompt.metadata for prompt, _ in folder.images]
        files = ImageFiles([file for _, file in folder.images], self.prompts, answers)
        super().__init__(files, ("right",), batch_size, num_workers, cache)
        self.detector, self.rules = judge.detector, judge.rules

    def score(self, batch: Mapping[int, Image]) -> None:
        """Score some images."""
        for indices, images in self.by_size(batch):
            detected = self.detector.look_for(images, [coloured(self.prompts[index]) for index in indices])
            for index, objects in zip(indices, detected, strict=True):
                size = images.shape[-2], images.shape[-1]
                right, reason = shows(self.prompts[index], objects, self.rules, size)
                self.record(index, {"right": float(right), "reason": reason})


def first_images(folder: GenEvalFolder, scoring: ItemScoring) -> GenEvalFolder:
    """Return the prompts of a scored folder with one image each, the first that could be read."""
    images: dict[str, Path] = {}
    for index, (prompt, file) in enumerate(folder.images):
        if index not in scoring.remarks:
            images.setdefault(prompt.folder, file)
    prompts = [replace(prompt, images=(images[prompt.folder],)) for prompt in folder.prompts if prompt.folder in images]
    return replace(folder, prompts=tuple(prompts), per_prompt=1, missing=())


def geneval_results(folder: GenEvalFolder, scoring: ItemScoring) -> Results:
    """Return the results of a folder whose images were scored.

    Raises:
        UserError: Not a single image could be read.
    """
    images: dict[str, list[dict[str, Any]]] = {prompt.folder: [] for prompt in folder.prompts}
    missing = list(folder.missing)
    for index, ((prompt, file), (right,)) in enumerate(zip(folder.images, scoring.scores.tolist(), strict=True)):
        name = file.relative_to(folder.root).as_posix()
        if index in scoring.remarks:
            missing.append(Missing(name, scoring.remarks[index], prompt.metadata["tag"]))
        else:
            images[prompt.folder].append({"file": name, "right": bool(right), **scoring.details[index]})
    items = [_item(prompt, own, folder.per_prompt) for prompt in folder.prompts if (own := images[prompt.folder])]
    if not items:
        raise UserError(f"{folder.root}: none of {len(folder.images)} images can be read ({missing[-1].reason})")
    scores = summarize(items, METRICS, "categories", METRICS)
    absent = [name for name in CATEGORIES if name not in scores]
    notes = [f"overall is the mean of {len(CATEGORIES) - len(absent)} categories, as there is no {', '.join(absent)}"]
    counts = {
        "per_prompt": folder.per_prompt,
        "images": sum(map(len, images.values())),
        "missing": missing_by_category(missing).get(OVERALL, 0),
    }
    return Results("geneval", METRICS, items, scores, counts, missing, notes if absent else ())


def _item(prompt: Prompt, images: Sequence[Mapping[str, Any]], per_prompt: int) -> Item:
    right = [image["right"] for image in images]
    scores = {
        "right": float(np.mean(right)),
        "any_right": float(any(right[:per_prompt])) if len(right) >= per_prompt else None,
    }
    details = {"folder": prompt.folder, "images": list(images)}
    return Item(prompt.metadata["prompt"], prompt.metadata["tag"], scores, {"right": len(right)}, details=details)
