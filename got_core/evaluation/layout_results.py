"""What the layout suite found in a folder: scores, every image's figures, and what was missing, ready for JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from got_core.errors import UserError
from got_core.evaluation.geneval_folder import Missing
from got_core.evaluation.layout_figures import ImageLayout
from got_core.evaluation.layout_folder import DrawnPlan, LayoutFolder
from got_core.evaluation.layout_scores import BETTER, LayoutScore, layout_scores, means
from got_core.evaluation.results_file import DIGITS, OVERALL, Item, scored_items

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
    def missing_by_category(self) -> dict[str, int]:
        """Images that could not be looked at, by category and overall."""
        counted: Counter[str] = Counter()
        for entry in self.missing:
            counted[OVERALL] += entry.images
            counted[entry.category or OVERALL] += entry.images if entry.category else 0
        return dict(counted)

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
        lacking = self.missing_by_category.get(OVERALL, 0)
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
