"""Layout: how images of a folder keep to the boxes of their chains, by category and with intervals over prompts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from got_core.chain.parser import parse
from got_core.detection.base import PhraseDetector
from got_core.errors import UserError
from got_core.evaluation.metrics.boxes import COLUMNS, ImageLayout, image_layout
from got_core.evaluation.results import DIGITS, OVERALL, Better, Item, Missing, missing_by_category, scored_items
from got_core.evaluation.scoring import ItemScoring, Keeping, Loaded, PictureFiles
from got_core.evaluation.statistics import Interval, stratum
from got_core.evaluation.suites.geneval import CHAINS, METADATA, SAMPLES

UNTAGGED = "untagged"
"""The category of a prompt whose metadata names none, or that has no metadata."""


@dataclass(frozen=True)
class DrawnPlan:
    """An image and the chain that it was drawn from.

    Attributes:
        image: File.
        chain: The chain's text.
        folder: Name of the prompt's folder.
        prompt: What was asked for; empty where the folder has no metadata.
        category: `tag` of the metadata, or `UNTAGGED`.
    """

    image: Path
    chain: str
    folder: str
    prompt: str
    category: str


@dataclass(frozen=True)
class LayoutFolder:
    """What a folder has that can be looked at, and what it lacks.

    Attributes:
        root: The folder.
        drawn: Images that have a chain, in order.
        per_prompt: Images that a prompt should have.
        missing: Images without a chain, chains without an image, and images that are not there at all.
    """

    root: Path
    drawn: tuple[DrawnPlan, ...]
    per_prompt: int
    missing: tuple[Missing, ...]


def read_layouts(root: Path, per_prompt: int | None = None) -> LayoutFolder:
    """List a folder of images with chains, whoever made it; an image and its chain have the same name.

    Args:
        root: The folder. A prompt's folder may have `metadata.jsonl`, with `prompt` and `tag`, its category.
        per_prompt: Images that each prompt should have; those beyond are left out, with their chains. By default as
            many as the prompt with the most has.

    Raises:
        UserError: There is no such folder, no prompt in it, or not a single image with a chain.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name.isdigit())
    if not folders:
        raise UserError(f"{root}: there is no folder such as 00000/ with {SAMPLES}/ and {CHAINS}/ in it")
    every = {folder: sorted((folder / SAMPLES).glob("*.png")) for folder in folders}
    images = {folder: files[:per_prompt] for folder, files in every.items()}
    expected = per_prompt or max(1, *(len(files) for files in images.values()))
    drawn: list[DrawnPlan] = []
    missing: list[Missing] = []
    for folder, files in images.items():
        prompt, category = _asked(folder / METADATA)
        beyond = {image.stem for image in every[folder][len(files) :]}
        chains = {file.stem: file for file in sorted((folder / CHAINS).glob("*.txt")) if file.stem not in beyond}
        for image in files:
            file = chains.pop(image.stem, None)
            try:
                chain = None if file is None else file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                chain = None
            if chain is None:
                reason = f"no chain {CHAINS}/{image.stem}.txt" if file is None else "its chain cannot be read"
                missing.append(Missing(f"{folder.name}/{SAMPLES}/{image.name}", reason, category, 1))
            else:
                drawn.append(DrawnPlan(image, chain, folder.name, prompt, category))
        missing += [
            Missing(f"{folder.name}/{CHAINS}/{file.name}", "no image of this chain", category, 1)
            for file in chains.values()
        ]
        absent = expected - len(files) - len(chains)
        if absent > 0:
            reason = f"{len(files)} of {expected} images"
            missing.append(Missing(f"{folder.name}/{SAMPLES}", reason, category, absent))
    if not drawn:
        raise UserError(
            f"{root}: no image with a chain in {len(folders)} folders ({missing[0].place}: {missing[0].reason})"
        )
    return LayoutFolder(root, tuple(drawn), expected, tuple(missing))


def _asked(file: Path) -> tuple[str, str]:
    """Prompt and category, as far as metadata names them."""
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metadata = {}
    found = metadata if isinstance(metadata, dict) else {}
    prompt, tag = found.get("prompt"), found.get("tag")
    return prompt if isinstance(prompt, str) else "", tag if isinstance(tag, str) else UNTAGGED


class LayoutScoring(ItemScoring):
    """`trainer.test` looks at every image.

    Args:
        folder: Images with their chains.
        detector: Finds what chains name.
        batch_size: Images that are handed to the detector at a time; those of other sizes go apart.
        num_workers: Processes that read images.
        keeping: Where figures are kept.

    Attributes:
        layouts: After the test, the figures of each image, in the folder's order; None where it cannot be read.
    """

    layouts: list[ImageLayout | None]

    def __init__(
        self,
        folder: LayoutFolder,
        detector: PhraseDetector,
        batch_size: int = 8,
        num_workers: int = 0,
        keeping: Keeping | None = None,
    ) -> None:
        files = PictureFiles([drawn.image for drawn in folder.drawn], [drawn.chain for drawn in folder.drawn])
        super().__init__(files, COLUMNS, batch_size, num_workers, keeping)
        self.folder = folder
        self.detector = detector
        self.chains = [parse(drawn.chain) for drawn in folder.drawn]

    def score(self, batch: list[Loaded]) -> None:
        """Look at some images."""
        for places, images in self.readable(batch):
            seen = self.detector(images, [self._labels(place) for place in places])
            for place, found in zip(places, seen, strict=True):
                size = images.shape[-2], images.shape[-1]
                self.note(place, asdict(image_layout(self.chains[place].regions, found, self.detector, size)))

    def on_test_epoch_end(self) -> None:
        """Join what the ranks have found.

        Raises:
            ValueError: Nobody looked at an image.
        """
        super().on_test_epoch_end()
        unread = self.found.isnan().any(dim=1).tolist()
        unseen = [place for place, lacking in enumerate(unread) if lacking and place not in self.notes]
        if unseen:
            raise ValueError(f"{len(unseen)} of {len(unread)} images were not looked at")
        rows = zip(unread, self.found.tolist(), strict=True)
        self.layouts = [None if lacking else ImageLayout(*row) for lacking, row in rows]

    def _labels(self, place: int) -> list[str]:
        """The distinct labels that are looked for in an image, in the order of its chain."""
        labels = [self.detector.label(region.phrase) for region in self.chains[place].regions]
        return list(dict.fromkeys(label for label in labels if label is not None))


HEADINGS = {
    "mean_iou": "mean IoU",
    "object_position_deviation": "deviation",
    "hits": "hits at .5",
    "any_label_iou": "IoU, any label",
    "count_right": "count right",
}
"""The figures that have an interval, and what the table calls them."""

BETTER: dict[str, Better] = {**dict.fromkeys(HEADINGS, "higher"), "object_position_deviation": "lower"}
"""Which way each figure is better."""


@dataclass(frozen=True)
class Figure:
    """A mean and its 95% bootstrap interval over prompts; Wilson's where all agree, None below `bootstrap.FEWEST`."""

    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class LayoutScore:
    """How the images of a category, or all of them, keep to their plans.

    Attributes:
        figures: By name, None where no image gives a value.
            `mean_iou`: over all planned boxes, the overlap with the found box of the same label; 0 for a planned box
            that no found one is left for. `object_position_deviation`: over matched boxes alone, the distance of the
            centres over the image's diagonal. `hits`: share of planned boxes that are overlapped by .5 or more.
            `any_label_iou`: `mean_iou` when labels are not looked at. `count_right`: share of images in which as many
            objects are found as are planned.
        images: How many were looked at.
        without_boxes: Of these, those whose chain has no box that could be looked for; they count in no figure.
        nothing_found: Of those with boxes, those in which nothing was found; their boxes count as missed.
        planned, found, matched, unasked: Boxes, over all images with a plan; see `ImageLayout`.
    """

    figures: Mapping[str, Figure | None]
    images: int
    without_boxes: int
    nothing_found: int
    planned: int
    found: int
    matched: int
    unasked: int


def layout_scores(images: Sequence[tuple[str, str, ImageLayout]], seed: int = 0) -> dict[str, LayoutScore]:
    """A score for each category, in alphabetical order, and `overall`; the same for a seed.

    Args:
        images: Category, prompt's folder and figures of each image that could be read.
        seed: Of the bootstrap.

    Raises:
        ValueError: No image.
    """
    if not images:
        raise ValueError("no image was looked at")
    names = sorted({category for category, _, _ in images})
    found = {name: _score([image[1:] for image in images if image[0] == name], seed) for name in names}
    return {**found, OVERALL: _score([image[1:] for image in images], seed)}


def means(layouts: Sequence[ImageLayout]) -> dict[str, float | None]:
    """The figures of some images, without intervals; None where no image gives a value."""
    sums = _sums([layout for layout in layouts if layout.planned])
    return {name: sum(values) / sum(counts) if counts else None for name, (values, counts) in sums.items()}


def _score(images: Sequence[tuple[str, ImageLayout]], seed: int) -> LayoutScore:
    layouts = [layout for _, layout in images]
    with_plan = [layout for layout in layouts if layout.planned]
    by_prompt: dict[str, list[ImageLayout]] = {}
    for prompt, layout in images:
        if layout.planned:
            by_prompt.setdefault(prompt, []).append(layout)
    parts = [_sums(own) for own in by_prompt.values()]
    return LayoutScore(
        figures={name: _ratio((part[name] for part in parts), seed) for name in HEADINGS},
        images=len(layouts),
        without_boxes=len(layouts) - len(with_plan),
        nothing_found=sum(not layout.found for layout in with_plan),
        planned=int(sum(layout.planned for layout in with_plan)),
        found=int(sum(layout.found for layout in with_plan)),
        matched=int(sum(layout.matched for layout in with_plan)),
        unasked=int(sum(layout.unasked for layout in layouts)),
    )


def _sums(layouts: Sequence[ImageLayout]) -> dict[str, tuple[list[float], list[float]]]:
    """For each figure what images with a plan add to it, and how many boxes or images that is the sum over."""
    matched = [layout for layout in layouts if layout.matched]
    planned = [layout.planned for layout in layouts]
    return {
        "mean_iou": ([layout.iou for layout in layouts], planned),
        "object_position_deviation": (
            [layout.deviation for layout in matched],
            [layout.matched for layout in matched],
        ),
        "hits": ([layout.hits for layout in layouts], planned),
        "any_label_iou": ([layout.any_label_iou for layout in layouts], planned),
        "count_right": ([float(layout.found == layout.planned) for layout in layouts], [1.0] * len(layouts)),
    }


def _ratio(parts: Iterable[tuple[Sequence[float], Sequence[float]]], seed: int) -> Figure | None:
    """The sums over the counts, drawn together prompt by prompt."""
    totals = [(sum(values), sum(counts)) for values, counts in parts if counts]
    if not totals:
        return None
    part = stratum([value / count for value, count in totals], [count for _, count in totals], seed)
    return Figure(part.mean, part.interval)


def layout_table(scores: Mapping[str, LayoutScore], missing: Mapping[str, int], title: str) -> Table:
    """Scores for people to read.

    Args:
        scores: As `layout_scores` makes them.
        missing: Images that could not be looked at, by category and overall.
        title: What was looked at.
    """
    table = Table("category", title=title, title_justify="left")
    for heading in (*HEADINGS.values(), "planned", "found", "images", "no box", "nothing found", "missing"):
        table.add_column(heading, justify="right")
    for name in [*sorted((scores.keys() | missing.keys()) - {OVERALL}), OVERALL]:
        lacking = str(missing.get(name, 0))
        if name not in scores:
            table.add_row(name, *"-" * len(HEADINGS), "0", "0", "0", "0", "0", lacking)
            continue
        score = scores[name]
        counts = (score.planned, score.found, score.images, score.without_boxes, score.nothing_found)
        table.add_row(name, *(_shown(score.figures[key]) for key in HEADINGS), *map(str, counts), lacking)
    return table


def _shown(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    span = "" if figure.interval is None else f" [{figure.interval[0]:.3f}, {figure.interval[1]:.3f}]"
    return f"{figure.mean:.3f}{span}"


SUITE = "layout"
"""What results of this suite call it."""


@dataclass(frozen=True)
class LayoutResult:
    """The outcome of a folder.

    Attributes:
        folder: What was looked at.
        images: The images that could be read, with their figures.
        missing: What could not be looked at, unreadable images among it.
        scores: By category, and overall.
    """

    folder: LayoutFolder
    images: tuple[tuple[DrawnPlan, ImageLayout], ...]
    missing: tuple[Missing, ...]
    scores: Mapping[str, LayoutScore]

    @property
    def without_boxes(self) -> list[str]:
        """Images whose chain has no box that could be looked for."""
        return [self._name(drawn) for drawn, layout in self.images if not layout.planned]

    @property
    def nothing_found(self) -> list[str]:
        """Images with a plan in which nothing was found."""
        return [self._name(drawn) for drawn, layout in self.images if layout.planned and not layout.found]

    def as_json(self) -> dict[str, Any]:
        """Scores, what is missing, the figures of every prompt that has a planned box, and those of every image."""
        lacking = missing_by_category(self.missing).get(OVERALL, 0)
        return {
            **scored_items(SUITE, BETTER, self._items()),
            "counts": {"per_prompt": self.folder.per_prompt, "images": len(self.images), "missing": lacking},
            "scores": {name: _plain(score) for name, score in self.scores.items()},
            "missing": [*map(asdict, self.missing)],
            "without_boxes": self.without_boxes,
            "nothing_found": self.nothing_found,
            "images": [{"file": self._name(drawn), **_rounded(asdict(layout))} for drawn, layout in self.images],
        }

    def _items(self) -> list[Item]:
        by_folder: dict[str, list[tuple[DrawnPlan, ImageLayout]]] = {}
        for drawn, layout in self.images:
            if layout.planned:
                by_folder.setdefault(drawn.folder, []).append((drawn, layout))
        return [
            Item(
                key=own[0][0].prompt or folder,
                category=own[0][0].category,
                scores=means([layout for _, layout in own]),
                details={"folder": folder},
            )
            for folder, own in by_folder.items()
        ]

    def _name(self, drawn: DrawnPlan) -> str:
        return drawn.image.relative_to(self.folder.root).as_posix()


def layout_result(
    folder: LayoutFolder, layouts: Sequence[ImageLayout | None], reasons: Mapping[int, str], seed: int = 0
) -> LayoutResult:
    """The outcome of the figures of a folder's images.

    Args:
        folder: What was looked at.
        layouts: Of each image, in order; None where it cannot be read.
        reasons: Why, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single image could be read.
    """
    pairs = list(zip(folder.drawn, layouts, strict=True))
    unreadable = [
        Missing(drawn.image.relative_to(folder.root).as_posix(), reasons.get(place, ""), drawn.category, 1)
        for place, (drawn, layout) in enumerate(pairs)
        if layout is None
    ]
    images = tuple((drawn, layout) for drawn, layout in pairs if layout is not None)
    if not images:
        raise UserError(f"{folder.root}: none of {len(pairs)} images can be read ({unreadable[0].reason})")
    scores = layout_scores([(drawn.category, drawn.folder, layout) for drawn, layout in images], seed)
    return LayoutResult(folder, images, (*folder.missing, *unreadable), scores)


def _plain(score: LayoutScore) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in asdict(score).items()}


def _rounded(value: Any) -> Any:
    """Numbers to `DIGITS`, however they are nested."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value
