"""Relations of boxes by GenEval's rule, overlaps, and boxes moved apart until their relations hold."""

from collections.abc import Mapping, Sequence
from math import hypot

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from got_core.chain.parser import SIDE, Box, to_pixels

AnyBox = Sequence[float | int]
"""(x1, y1, x2, y2) in 0 to 1000, relative to image width and height."""

DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""GenEval's relations: the direction (x, y), y downwards, from the second box to the first."""

RELATIONS = tuple(DIRECTIONS)

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

SHRINK = 0.1
"""GenEval: the offset of two centres is shortened on each axis by this fraction of the summed sizes."""

DIRECTION = 0.5
"""GenEval: a relation holds where the shortened offset divided by the unshortened distance exceeds this."""


def box_relations(
    a: AnyBox, b: AnyBox, size: tuple[int, int] = (1, 1), shrink: float = SHRINK, direction: float = DIRECTION
) -> frozenset[str]:
    """Find where box `a` lies relative to box `b`: none, one or two of `RELATIONS`.

    Args:
        a, b: The boxes.
        size: (height, width) of the image in any unit, for directions in images that are not square.
        shrink, direction: Thresholds.
    """
    height, width = size
    dx = (a[0] + a[2] - b[0] - b[2]) / 2 * width
    dy = (a[1] + a[3] - b[1] - b[3]) / 2 * height
    distance = hypot(dx, dy)
    if distance == 0:
        return frozenset()
    across = _shorten(dx, shrink * (a[2] - a[0] + b[2] - b[0]) * width) / distance
    down = _shorten(dy, shrink * (a[3] - a[1] + b[3] - b[1]) * height) / distance
    strengths = dict(zip(RELATIONS, (-across, across, -down, down), strict=True))
    return frozenset(name for name, strength in strengths.items() if strength > direction)


def relation_strength(
    relation: str,
    centre: tuple[Float[ndarray, "..."], Float[ndarray, "..."]],
    side: int,
    anchor: AnyBox,
) -> Float[ndarray, "..."]:
    """Compute how clearly square boxes of a centre (x, y) and side have `relation` to the anchor, by GenEval's rule.

    The relation holds above `DIRECTION`; boxes of the same centre give 0.
    """
    x1, y1, x2, y2 = anchor
    across, down = centre[0] - (x1 + x2) / 2, centre[1] - (y1 + y2) / 2
    direction = DIRECTIONS[relation]
    along = across * direction[0] + down * direction[1]
    sizes = side + (x2 - x1 if direction[0] else y2 - y1)
    return np.maximum(along - SHRINK * sizes, 0) / np.maximum(np.hypot(across, down), 1e-9)


def gaps(a: AnyBox, b: AnyBox) -> tuple[float, float]:
    """Compute the gaps between two boxes (across, down); negative where they overlap on an axis."""
    return max(a[0] - b[2], b[0] - a[2]), max(a[1] - b[3], b[1] - a[3])


def shared_area(a: AnyBox, b: AnyBox) -> float:
    """Compute the area that two boxes share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)


def area(box: AnyBox) -> float:
    """Compute the area of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def box_iou(a: AnyBox, b: AnyBox) -> float:
    """Compute the intersection over union of two boxes; 0 where they do not meet or have no area."""
    intersection = shared_area(a, b)
    return intersection / (area(a) + area(b) - intersection) if intersection else 0.0


def box_centre(box: AnyBox) -> tuple[float, float]:
    """Compute the centre (x, y) of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def pixels_of(box: AnyBox, size: tuple[int, int], margin: int = 0) -> tuple[slice, slice]:
    """Slice (rows, columns) of the pixels that a box covers in an image of `size` (height, width), edges rounded.

    `margin` adds that many pixels on every side, as far as the image goes.
    """
    left, top, right, bottom = (round(edge) for edge in to_pixels(box, *size))
    return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def _shorten(offset: float, by: float) -> float:
    """The offset brought nearer to zero by an amount, but not past it."""
    sign = 1.0 if offset > 0 else -1.0
    return sign * max(abs(offset) - by, 0.0)


MARGIN = 60
"""Thousandths of the image between two boxes after they were moved apart."""

SMALLEST = 20
"""Least side of a box that is made smaller, in thousandths of the image."""

Pair = tuple[int, int]


def separated(
    boxes: Sequence[Box],
    pairs: Sequence[Pair],
    directions: Mapping[Pair, str] | None = None,
    size: tuple[int, int] = (1, 1),
    scale: float = 1.0,
) -> list[Box] | None:
    """Move boxes inside the image until every pair has a gap of `MARGIN`. None where there is no room.

    Args:
        boxes: In thousandths of the image.
        pairs: Indices of boxes that must be apart, the lower index first.
        directions: The required relation of the first box of a pair to the second. Other pairs are moved the shortest
            way.
        size: (height, width) of the image, for directions.
        scale: Factor of the sides of boxes that are too close.
    """
    directions = directions or {}
    wrong = _wrong(boxes, pairs, directions, size)
    crowded = {index for pair in wrong for index in pair}
    moved = [_shrunk(box, scale) if index in crowded else box for index, box in enumerate(boxes)]
    for _ in range(100):
        wrong = _wrong(moved, pairs, directions, size)
        if not wrong:
            return moved
        for i, j in wrong:
            moved[i], moved[j] = _pushed(moved[i], moved[j], directions.get((i, j)))
    return None


def _wrong(
    boxes: Sequence[Box], pairs: Sequence[Pair], directions: Mapping[Pair, str], size: tuple[int, int]
) -> list[Pair]:
    """The pairs that are too close or lack their relation."""
    return [
        (i, j)
        for i, j in sorted({*pairs, *directions})
        if ((i, j) in pairs and max(gaps(boxes[i], boxes[j])) < MARGIN)
        or ((i, j) in directions and directions[i, j] not in box_relations(boxes[i], boxes[j], size))
    ]


def _pushed(a: Box, b: Box, direction: str | None) -> tuple[Box, Box]:
    """Two boxes moved apart on one axis, each by half of the distance as far as the image allows."""
    if direction in ("right of", "below"):
        second, first = _pushed(b, a, OPPOSITE[direction])
        return first, second
    room = [
        (MARGIN - gap, axis)
        for axis, gap in enumerate(gaps(a, b))
        if a[axis + 2] - a[axis] + b[axis + 2] - b[axis] + MARGIN < SIDE
        and (direction is None or axis == ("left of", "above").index(direction))
    ]
    if not room:
        return a, b
    _, axis = min(room)
    turned = direction is None and a[axis] + a[axis + 2] > b[axis] + b[axis + 2]
    low, high = (b, a) if turned else (a, b)
    need = MARGIN - (high[axis] - low[axis + 2])
    need = need if need > 0 else MARGIN  # apart, but not clearly in the direction: further
    after = min(need - min(need // 2, low[axis]), SIDE - 1 - high[axis + 2])
    before = min(need - after, low[axis])
    low, high = _shifted(low, axis, -before), _shifted(high, axis, after)
    return (high, low) if turned else (low, high)


def _shifted(box: Box, axis: int, by: int) -> Box:
    x1, y1, x2, y2 = box
    return (x1 + by, y1, x2 + by, y2) if axis == 0 else (x1, y1 + by, x2, y2 + by)


def _shrunk(box: Box, scale: float) -> Box:
    """A box of the same centre with scaled sides, but no side below `SMALLEST` that was above."""
    x1, y1, x2, y2 = box
    across, down = (side - max(round(side * scale), min(SMALLEST, side)) for side in (x2 - x1, y2 - y1))
    return x1 + across // 2, y1 + down // 2, x2 - (across - across // 2), y2 - (down - down // 2)
