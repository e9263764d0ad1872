"""Layout: how well images keep to the boxes that their chains planned, with intervals over prompts."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from got_core.chain.parser import parse
from got_core.data.images import images_in
from got_core.detection.base import PhraseDetector
from got_core.detection.loading import load_layout_detector
from got_core.errors import UserError
from got_core.evaluation.answers import Answer, chain_objects, text_to_image_answers
from got_core.evaluation.generation import check_sources, read_generator
from got_core.evaluation.metrics.boxes import COLUMNS, ImageLayout, image_layout
from got_core.evaluation.results import (
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
    CHAINS,
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
from got_core.weights.files import checksum_of

UNTAGGED = "untagged"
"""The category of a prompt whose metadata names none, or that has no metadata."""

METRICS: dict[str, Better] = {
    "mean_iou": "higher",
    "object_position_deviation": "lower",
    "hits": "higher",
    "any_label_iou": "higher",
    "count_right": "higher",
}
"""Means over planned boxes, of which a prompt's images together count as many as they have.

`mean_iou`: overlap with the detected box of the same label; 0 for a planned box that no detected one is left for.
`object_position_deviation`: over matched boxes alone, the distance of the centres over the image's diagonal. `hits`:
fraction of planned boxes that are overlapped by .5 or more. `any_label_iou`: `mean_iou` regardless of labels.
`count_right`: fraction of images in which as many objects are detected as are planned.
"""


def evaluate(options: Namespace) -> None:
    """Generate prompts if a checkpoint is given, detect what was planned, print a table and write `results.json`.

    Raises:
        UserError: Options that do not fit, a detector that cannot be loaded, nothing to score, or a folder that cannot
            be written to.
    """
    check_sources(options)
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or root)
    if options.images:
        folder = read_layouts(root, options.per_prompt)
        check_writable(output)
        judge = load_layout_detector(options.detector)
    else:
        prompts, generator = prompts_of(options, check_prompt, plain=True), read_generator(options)
        judge = load_layout_detector(options.detector)
        generate_prompts(trainer, options, generator, prompts)
        folder = read_layouts(root, options.per_prompt or PER_PROMPT)
    cache = ScoreCache(output, judge.description)
    how = judge.detector, options.batch_size, options.num_workers, cache
    scoring = LayoutScoring(folder, *how)
    is_first = score_items(trainer, scoring, output)
    one_each = first_images(folder, scoring)
    named = text_to_image_answers([chain_objects(image.chain) for image in one_each.images])
    answers = {name: LayoutScoring(one_each, *how, answers=own) for name, own in named.items()}
    answers = score_answers(trainer, answers, output)
    if is_first:
        chains = [image.file.parent.parent / CHAINS / f"{image.file.stem}.txt" for image in folder.images]
        sums = {"images": checksum_of(root, [*(image.file for image in folder.images), *chains])}
        came = origin(root, judge.description, sums)
        floors = {name: layout_results(one_each, own).scores for name, own in answers.items()}
        results = replace(layout_results(folder, scoring), origin=came, answers=floors)
        results.publish(output, f"Layout, {root}, scored by {judge.source}")


@dataclass(frozen=True)
class PlannedImage:
    """An image and the chain that it was generated from.

    Attributes:
        file: Of the image.
        chain: The chain's text.
        folder: Name of the prompt's folder.
        prompt: Empty where the folder has no metadata.
        category: `tag` of the metadata, or `UNTAGGED`.
    """

    file: Path
    chain: str
    folder: str
    prompt: str
    category: str


@dataclass(frozen=True)
class LayoutFolder:
    """The images of a folder that have a chain, and what is missing.

    Attributes:
        root: The folder.
        images: In order.
        per_prompt: Images that a prompt should have.
        missing: Images without a chain, chains without an image, and images that are not there at all.
    """

    root: Path
    images: tuple[PlannedImage, ...]
    per_prompt: int
    missing: tuple[Missing, ...]


def read_layouts(root: Path, per_prompt: int | None = None) -> LayoutFolder:
    """List a folder of images with chains, whoever made it; an image and its chain have the same name.

    Args:
        root: The folder. A prompt's folder may have `metadata.jsonl`, with `prompt` and `tag`, its category.
        per_prompt: Images that each prompt should have; see `list_prompts`.

    Raises:
        UserError: There is no such folder, no prompt in it, or not a single image with a chain.
    """
    folders, expected = list_prompts(root, per_prompt, f"{SAMPLES}/ and {CHAINS}/")
    images: list[PlannedImage] = []
    missing: list[Missing] = []
    for folder, files in folders.items():
        prompt, category = _metadata(folder / METADATA)
        for file in files:
            name, chain = f"{folder.name}/{SAMPLES}/{file.name}", folder / CHAINS / f"{file.stem}.txt"
            try:
                text = chain.read_text(encoding="utf-8").strip()
            except FileNotFoundError:
                missing.append(Missing(name, f"no chain {CHAINS}/{chain.name}", category))
            except (OSError, UnicodeDecodeError):
                missing.append(Missing(name, "its chain cannot be read", category))
            else:
                images.append(PlannedImage(file, text, folder.name, prompt, category))
        present = images_in(folder / SAMPLES)
        alone = [file for file in sorted((folder / CHAINS).glob("*.txt")) if file.stem not in present]
        missing += [
            Missing(f"{folder.name}/{CHAINS}/{file.name}", "no image of this chain", category) for file in alone
        ]
        missing += too_few(folder, len(files) + len(alone), expected, category)
    if not images:
        raise UserError(
            f"{root}: no image with a chain in {len(folders)} folders ({missing[0].item}: {missing[0].reason})"
        )
    return LayoutFolder(root, tuple(images), expected, tuple(missing))


def _metadata(file: Path) -> tuple[str, str]:
    """Prompt and category, as far as metadata names them."""
    try:
        metadata = from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metadata = {}
    prompt, tag = (metadata.get("prompt"), metadata.get("tag")) if isinstance(metadata, dict) else (None, None)
    return prompt if isinstance(prompt, str) else "", tag if isinstance(tag, str) else UNTAGGED


class LayoutScoring(ItemScoring):
    """Measures every image; the columns are the sums of `ImageLayout`.

    Args:
        folder: Images with their chains.
        detector: Detects what chains name.
        batch_size: Images at a time; those of other sizes go apart.
        num_workers: Processes that read images.
        cache: Where sums are cached.
        answers: Images that are measured in the place of the folder's.
    """

    def __init__(
        self,
        folder: LayoutFolder,
        detector: PhraseDetector,
        batch_size: int = 8,
        num_workers: int = 0,
        cache: ScoreCache | None = None,
        answers: Sequence[Answer] | None = None,
    ) -> None:
        files = ImageFiles([image.file for image in folder.images], [image.chain for image in folder.images], answers)
        super().__init__(files, COLUMNS, batch_size, num_workers, cache)
        self.detector = detector
        self.chains = [parse(image.chain) for image in folder.images]

    def score(self, batch: Mapping[int, Image]) -> None:
        """Measure some images."""
        for indices, images in self.by_size(batch):
            detections = self.detector(images, [self._labels(index) for index in indices])
            for index, detected in zip(indices, detections, strict=True):
                size = images.shape[-2], images.shape[-1]
                self.record(index, asdict(image_layout(self.chains[index].regions, detected, self.detector, size)))

    def _labels(self, index: int) -> list[str]:
        """The distinct labels to detect in an image, in the order of its chain."""
        labels = [self.detector.label(region.phrase) for region in self.chains[index].regions]
        return list(dict.fromkeys(label for label in labels if label is not None))


def first_images(folder: LayoutFolder, scoring: ItemScoring) -> LayoutFolder:
    """Return a measured folder with one image a prompt, the first that could be read."""
    images: dict[str, PlannedImage] = {}
    for index, image in enumerate(folder.images):
        if index not in scoring.remarks:
            images.setdefault(image.folder, image)
    return replace(folder, images=tuple(images.values()), per_prompt=1, missing=())


def layout_results(folder: LayoutFolder, scoring: ItemScoring) -> Results:
    """Return the results of a folder whose images were measured.

    Raises:
        UserError: Not a single image could be read.
    """
    missing = list(folder.missing)
    prompts: dict[str, dict[str, ImageLayout]] = {}
    first: dict[str, PlannedImage] = {}
    for index, (image, row) in enumerate(zip(folder.images, scoring.scores.tolist(), strict=True)):
        name = image.file.relative_to(folder.root).as_posix()
        if index in scoring.remarks:
            missing.append(Missing(name, scoring.remarks[index], image.category))
            continue
        prompts.setdefault(image.folder, {})[name] = ImageLayout(*row)
        first.setdefault(image.folder, image)
    if not prompts:
        raise UserError(f"{folder.root}: none of {len(folder.images)} images can be read ({missing[-1].reason})")
    items = [_item(first[name], layouts) for name, layouts in prompts.items()]
    scores = summarize(items, METRICS, fractions=METRICS.keys() - {"object_position_deviation"})
    layouts = {name: layout for own in prompts.values() for name, layout in own.items()}
    empty = [name for name, layout in layouts.items() if not layout.planned]
    undetected = [name for name, layout in layouts.items() if layout.planned and not layout.detected]
    unknown = int(sum(layout.unknown for layout in layouts.values()))
    planned = [layout for layout in layouts.values() if layout.planned]
    counts = {
        "per_prompt": folder.per_prompt,
        "images": len(layouts),
        "missing": missing_by_category(missing).get(OVERALL, 0),
        "without_boxes": len(empty),
        "nothing_detected": len(undetected),
        "unknown": unknown,
        **{name: int(sum(getattr(layout, name) for layout in planned)) for name in ("planned", "detected", "matched")},
    }
    notes = [f"{name} has no planned box that the detector could look for: it counts in no metric" for name in empty]
    notes += [f"nothing was detected in {name}: its planned boxes count as missed" for name in undetected]
    notes += [f"{unknown} planned boxes have a phrase that the detector does not know"] if unknown else []
    return Results("layout", METRICS, items, scores, counts, missing, notes)


def _item(image: PlannedImage, layouts: Mapping[str, ImageLayout]) -> Item:
    """A prompt: each metric is a sum over its images divided by a number of boxes or images, which is the weight."""
    planned = [layout for layout in layouts.values() if layout.planned]
    boxes, matched = sum(layout.planned for layout in planned), sum(layout.matched for layout in planned)
    sums = {
        "mean_iou": (sum(layout.iou for layout in planned), boxes),
        "object_position_deviation": (sum(layout.deviation for layout in planned), matched),
        "hits": (sum(layout.hits for layout in planned), boxes),
        "any_label_iou": (sum(layout.any_label_iou for layout in planned), boxes),
        "count_right": (float(sum(layout.detected == layout.planned for layout in planned)), float(len(planned))),
    }
    return Item(
        key=image.prompt or image.folder,
        category=image.category,
        scores={name: total / count if count else None for name, (total, count) in sums.items()},
        weights={name: count for name, (_, count) in sums.items() if count},
        details={
            "folder": image.folder,
            "images": [{"file": name, **asdict(layout)} for name, layout in layouts.items()],
        },
    )
