"""Boxes pushed apart: until every pair that has to has room between it, and stands as it is meant to."""

from collections.abc import Mapping, Sequence

from got_core.box_relations import OPPOSITE, box_relations, gaps
from got_core.chain_regions import SIDE, Box

MARGIN = 60
"""Thousandths of the image that are left between two boxes that were too close."""

ROUNDS = 100
"""Times that all pairs are pushed before it is given up at that size."""

SMALLEST = 20
"""Thousandths of the image that a side is left with at least."""

Pair = tuple[int, int]

_AXES = {"left of": 0, "above": 1}


def separated(
    boxes: Sequence[Box],
    pairs: Sequence[Pair],
    directions: Mapping[Pair, str] | None = None,
    size: tuple[int, int] = (1, 1),
    share: float = 1.0,
) -> list[Box] | None:
    """Boxes moved inside the image until every pair has `MARGIN` between it; None where there is no room.

    Args:
        boxes: Where they stand.
        pairs: Which have to stand apart, the lower place first.
        directions: How the first of a pair shall stand to the second; others are pushed the way that takes least.
        size: (height, width) of the image, for directions.
        share: What is left of the sides of those that are too close.
    """
    directions = directions or {}
    wrong = _wrong(boxes, pairs, directions, size)
    crowded = {place for pair in wrong for place in pair}
    moved = [_shrunk(box, share) if place in crowded else box for place, box in enumerate(boxes)]
    for _ in range(ROUNDS):
        wrong = _wrong(moved, pairs, directions, size)
        if not wrong:
            return moved
        for i, j in wrong:
            moved[i], moved[j] = _pushed(moved[i], moved[j], directions.get((i, j)))
    return None


def _wrong(
    boxes: Sequence[Box], pairs: Sequence[Pair], directions: Mapping[Pair, str], size: tuple[int, int]
) -> list[Pair]:
    """The pairs that are too close or stand otherwise than they shall."""
    return [
        (i, j)
        for i, j in sorted({*pairs, *directions})
        if ((i, j) in pairs and max(gaps(boxes[i], boxes[j])) < MARGIN)
        or ((i, j) in directions and directions[i, j] not in box_relations(boxes[i], boxes[j], size))
    ]


def _pushed(a: Box, b: Box, direction: str | None) -> tuple[Box, Box]:
    """Two boxes moved apart on one axis, each by half as far as the image goes."""
    if direction in ("right of", "below"):
        second, first = _pushed(b, a, OPPOSITE[direction])
        return first, second
    room = [
        (MARGIN - gap, axis)
        for axis, gap in enumerate(gaps(a, b))
        if a[axis + 2] - a[axis] + b[axis + 2] - b[axis] + MARGIN < SIDE
        and (direction is None or axis == _AXES[direction])
    ]
    if not room:
        return a, b
    _, axis = min(room)
    turned = direction is None and a[axis] + a[axis + 2] > b[axis] + b[axis + 2]
    low, high = (b, a) if turned else (a, b)
    need = MARGIN - (high[axis] - low[axis + 2])
    need = need if need > 0 else MARGIN  # apart, but not clearly so in the direction: further
    after = min(need - min(need // 2, low[axis]), SIDE - 1 - high[axis + 2])
    before = min(need - after, low[axis])
    low, high = _shifted(low, axis, -before), _shifted(high, axis, after)
    return (high, low) if turned else (low, high)


def _shifted(box: Box, axis: int, by: int) -> Box:
    x1, y1, x2, y2 = box
    return (x1 + by, y1, x2 + by, y2) if axis == 0 else (x1, y1 + by, x2, y2 + by)


def _shrunk(box: Box, share: float) -> Box:
    """A box about the same middle with that share of its sides, but no side below `SMALLEST` that was above."""
    x1, y1, x2, y2 = box
    across, down = (side - max(round(side * share), min(SMALLEST, side)) for side in (x2 - x1, y2 - y1))
    return x1 + across // 2, y1 + down // 2, x2 - (across - across // 2), y2 - (down - down // 2)
