"""How detected objects agree with planned boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import hypot

import numpy as np
from scipy.optimize import linear_sum_assignment

from got_core.chain.parser import SIDE, Region
from got_core.data.scenes.render import SHAPES, shape_mask
from got_core.detection.base import AnyBox, Detection, PhraseDetector
from got_core.detection.scenes import ColourMap
from got_core.planning.boxes import box_centre, box_iou, pixels_of

TIE_BREAK = 1e-6
"""Weight of the distance between centres in a matching: too small to outweigh overlap, it settles pairs without any."""

COLOUR_FRACTION = 0.4
"""Fraction of a box that its colour must cover to be dominant."""

SHAPE_FRACTION = 0.8
"""Where the planned shape covers less of its box (a star), it is enough to cover this much of what the shape would."""

SHAPE_SIDE = 64
"""Pixels, along each side, at which the fraction of its box that a shape covers is measured."""


@dataclass(frozen=True)
class Match:
    """A planned box and the detected box that it is matched with.

    Attributes:
        planned, detected: Their indices in the two lists.
        iou: Their intersection over union.
        deviation: The distance of their centres over the image's diagonal.
    """

    planned: int
    detected: int
    iou: float
    deviation: float


def match_boxes(planned: Sequence[AnyBox], detected: Sequence[AnyBox], size: tuple[int, int]) -> list[Match]:
    """Match boxes one to one so that the sum of the overlaps is the highest possible.

    Pairs that do not overlap are matched too, the nearer the better. In an image of `size` (height, width).
    """
    pairs = [
        [Match(i, j, box_iou(a, b), centre_deviation(a, b, size)) for j, b in enumerate(detected)]
        for i, a in enumerate(planned)
    ]
    if not planned or not detected:
        return []
    gain = np.array([[pair.iou - TIE_BREAK * pair.deviation for pair in row] for row in pairs])
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [pairs[i][j] for i, j in zip(rows, columns, strict=True)]


def centre_deviation(a: AnyBox, b: AnyBox, size: tuple[int, int]) -> float:
    """Return the distance between the centres of two boxes over the diagonal of an image of `size` (height, width)."""
    height, width = size
    (ax, ay), (bx, by) = box_centre(a), box_centre(b)
    return hypot((ax - bx) / SIDE * width, (ay - by) / SIDE * height) / hypot(width, height)


def colour_dominates(colours: ColourMap, planned: Detection) -> bool:
    """Whether the planned colour is dominant in the planned box.

    It is when more pixels carry it than any other single colour of objects, and it covers at least `COLOUR_FRACTION` of
    the box, or `SHAPE_FRACTION` of what the planned shape covers where that is less.
    """
    if planned.colour not in colours.colours:
        return False
    window = pixels_of(planned.box, colours.label.shape)
    label, covered = colours.label[window], colours.covered[window]
    counts = np.bincount(label[covered], minlength=len(colours.colours))
    carried = counts[colours.colours.index(planned.colour)]
    others = np.delete(counts, colours.colours.index(planned.colour))
    needed = COLOUR_FRACTION
    if planned.label in SHAPES:
        needed = min(needed, SHAPE_FRACTION * float(shape_mask(planned.label, SHAPE_SIDE, SHAPE_SIDE).mean()))
    return bool(carried > others.max(initial=0) and carried >= needed * label.size)


HIT = 0.5
"""A planned box is hit by a detected one that overlaps it at least this much."""


@dataclass(frozen=True)
class ImageLayout:
    """The sums that an image adds to the metrics; none is negative.

    Attributes:
        planned: Boxes of the chain whose phrase the detector knows.
        unknown: Boxes of the chain whose phrase has no word that the detector knows.
        detected: Detected objects, planned or not.
        matched: Planned boxes that are matched with a detected box of the same label.
        iou: Sum of their overlaps.
        deviation: Sum of the distances of their centres, over the image's diagonal.
        hits: Matched boxes that overlap by `HIT` or more.
        any_label_iou: Sum of the overlaps regardless of labels.
    """

    planned: float = 0
    unknown: float = 0
    detected: float = 0
    matched: float = 0
    iou: float = 0
    deviation: float = 0
    hits: float = 0
    any_label_iou: float = 0


COLUMNS = tuple(entry.name for entry in fields(ImageLayout))


def image_layout(
    regions: Sequence[Region], detected: Sequence[Detection], detector: PhraseDetector, size: tuple[int, int]
) -> ImageLayout:
    """Compare the objects of an image of `size` (height, width) with the regions of its chain.

    Boxes are matched one to one within each label, so that their overlaps are the highest possible
    (`layout.match_boxes`); a pair that does not meet is matched too, the nearer the better.
    """
    labelled = [(detector.label(region.phrase), region.box) for region in regions]
    planned = [(label, box) for label, box in labelled if label is not None]
    matches = []
    for label in sorted({label for label, _ in planned}):
        boxes = [box for own, box in planned if own == label]
        matches += match_boxes(boxes, [entry.box for entry in detected if entry.label == label], size)
    loosely = match_boxes([box for _, box in planned], [entry.box for entry in detected], size)
    return ImageLayout(
        planned=len(planned),
        unknown=len(labelled) - len(planned),
        detected=len(detected),
        matched=len(matches),
        iou=sum(match.iou for match in matches),
        deviation=sum(match.deviation for match in matches),
        hits=sum(match.iou >= HIT for match in matches),
        any_label_iou=sum(match.iou for match in loosely),
    )
