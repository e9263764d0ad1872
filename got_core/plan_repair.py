"""Repairs of a plan's geometry: boxes are moved, swapped and, where there is no room, made smaller. Objects stay."""

from collections.abc import Iterator, Sequence

from got_core.box_relations import gaps
from got_core.chain import format_chain
from got_core.chain_regions import SIDE, Box
from got_core.plan_layout import Pair, apart, clashes
from got_core.plan_problems import RELATION, PlanProblem
from got_core.plans import Plan
from got_core.prompt_reading import read_prompt

MARGIN = 60
"""Thousandths of the image that are left between two boxes that were too close."""

ROUNDS = 100
"""Times that all pairs are pushed apart before it is given up at that size."""

SIZES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""What is left of the sides of boxes that have no room, the largest that has room first."""

SMALLEST = 20
"""Thousandths of the image that a side is left with at least."""

Boxes = list[Box]


def repairs(plan: Plan, problems: Sequence[PlanProblem]) -> Iterator[Plan]:
    """Plans that may have fewer problems, the smallest change first.

    The chain as it was read, malformed boxes written out; two objects swapped that stand the wrong way round; boxes
    that overlap or nearly touch set apart, at their own sizes where there is room.
    """
    boxes = [region.box for region in plan.regions]
    if plan.problems:
        yield plan.with_chain(format_chain(plan.read()))
    for problem in problems:
        if problem.kind == RELATION:
            i, j = problem.regions
            swapped = list(boxes)
            swapped[i], swapped[j] = boxes[j], boxes[i]
            yield from _with_boxes(plan, swapped)
    asked = read_prompt(plan.prompt)
    clashing = [] if plan.source is not None else [(i, j) for i, j in (entry.regions for entry in clashes(plan, asked))]
    for share in SIZES if clashing else ():
        moved = separated(boxes, sorted({*apart(plan, asked), *clashing}), share)
        if moved is not None:
            yield from _with_boxes(plan, moved)


def separated(boxes: Sequence[Box], pairs: Sequence[Pair], share: float = 1.0) -> Boxes | None:
    """Boxes pushed apart inside the image until every pair has `MARGIN` between it; None where there is no room.

    Args:
        boxes: Where they stand.
        pairs: Which have to stand apart.
        share: What is left of the sides of those that do not.
    """
    crowded = {place for i, j in pairs if max(gaps(boxes[i], boxes[j])) < MARGIN for place in (i, j)}
    moved = [_shrunk(box, share) if place in crowded else box for place, box in enumerate(boxes)]
    for _ in range(ROUNDS):
        close = [(i, j) for i, j in pairs if max(gaps(moved[i], moved[j])) < MARGIN]
        if not close:
            return moved
        for i, j in close:
            moved[i], moved[j] = _pushed(moved[i], moved[j])
    return None


def _with_boxes(plan: Plan, boxes: Sequence[Box]) -> Iterator[Plan]:
    """The plan with other boxes; none where its chain is too malformed to be rewritten."""
    former = [region.box for region in plan.regions]
    try:
        for place, box in enumerate(boxes):
            plan = plan if box == former[place] else plan.resize(place, box)
    except ValueError:
        return
    yield plan


def _pushed(a: Box, b: Box) -> tuple[Box, Box]:
    """Two boxes moved apart along the axis that takes least, by halves as far as the image goes."""
    room = [
        (MARGIN - gap, axis)
        for axis, gap in enumerate(gaps(a, b))
        if a[axis + 2] - a[axis] + b[axis + 2] - b[axis] + MARGIN < SIDE
    ]
    if not room:
        return a, b
    need, axis = min(room)
    turned = a[axis] + a[axis + 2] > b[axis] + b[axis + 2]
    low, high = (b, a) if turned else (a, b)
    need = MARGIN - (high[axis] - low[axis + 2])
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
