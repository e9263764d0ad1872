"""How one box stands to another: GenEval's rule for directions, and how much room is between the two."""

from collections.abc import Sequence
from math import hypot

Box = Sequence[float | int]
"""(x1, y1, x2, y2) in 0 to 1000, relative to image width and height."""

RELATIONS = ("left of", "right of", "above", "below")

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

SHRINK = 0.1
"""GenEval: the offset of two centres is shortened on each axis by this share of the summed sizes."""

DIRECTION = 0.5
"""GenEval: a relation holds where the shortened offset over the unshortened distance exceeds this."""


def box_relations(
    a: Box, b: Box, size: tuple[int, int] = (1, 1), shrink: float = SHRINK, direction: float = DIRECTION
) -> frozenset[str]:
    """Where box `a` lies relative to box `b`: none, one or two of `RELATIONS`.

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


def gaps(a: Box, b: Box) -> tuple[float, float]:
    """The room between two boxes across and down; negative where they share that much on an axis."""
    return max(a[0] - b[2], b[0] - a[2]), max(a[1] - b[3], b[1] - a[3])


def shared(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(across, 0) * max(down, 0)


def area(box: Box) -> float:
    """Of a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def _shorten(offset: float, by: float) -> float:
    """The offset brought nearer to zero by an amount, but not past it."""
    sign = 1.0 if offset > 0 else -1.0
    return sign * max(abs(offset) - by, 0.0)
