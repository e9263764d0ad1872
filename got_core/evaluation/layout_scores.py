"""Layout's figures from those of images: by category and over all images, with intervals over prompts.

Images of a prompt follow the same plan, or plans that are alike, so it is prompts that are drawn anew and not images.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from got_core.evaluation.bootstrap import Interval, stratum
from got_core.evaluation.layout_figures import ImageLayout
from got_core.evaluation.results_file import OVERALL, Better

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
