"""Boxes of a plan that get into each other's way."""

from collections.abc import Iterator
from itertools import combinations

from got_core.box_relations import area, gaps, shared
from got_core.box_separation import Pair
from got_core.chain_regions import Region
from got_core.nouns import names_in
from got_core.plan_matching import match
from got_core.plan_problems import CLOSE, OVERLAP, PlanProblem
from got_core.plans import Plan
from got_core.prompt_reading import Asked

TOO_CLOSE = 30
"""Thousandths of the image below which the room between two figures is too little to keep them apart."""

HALF = 0.5
"""Share of the smaller of two boxes that another one may cover; pictures have things before one another."""

ONE_PLACE = 0.8
"""Two boxes that share this much of what they cover together (IoU) stand in one place."""

SAME_BOX = 0.9
"""Boxes of an edit that are alike so far mean one object, which is changed twice."""


def clashes(plan: Plan, asked: Asked) -> tuple[PlanProblem, ...]:
    """Pairs of boxes that are in each other's way.

    - Flat figures, where the whole prompt was read: boxes that overlap or nearly touch.
    - Other objects that it lists or places: those of which half is covered. Nothing is said of those that may share a
      place by its words ("on top of", "with").
    - Where it was not read whole, and in an edit: those that stand in one place. Areas of an edit that are emptied are
      no objects.
    """
    return tuple(_told(plan, asked))


def apart(plan: Plan, asked: Asked) -> list[Pair]:
    """Places of the pairs of regions that have to stand apart, by a prompt that was read whole."""
    if plan.source is not None or not asked.whole:
        return []
    regions = plan.regions
    found = match(asked.things, regions)
    may_touch = set(asked.loose) | {frozenset((p.first, p.second)) for p in asked.placings if p.contact}
    of = {place: number for number, own in enumerate(found.of) for place in own}
    return [
        (i, j)
        for i, j in combinations(range(len(regions)), 2)
        if _figures(regions[i], regions[j]) or frozenset((of.get(i, -1), of.get(j, -1))) not in may_touch
    ]


def _told(plan: Plan, asked: Asked) -> Iterator[PlanProblem]:
    regions, wanted = plan.regions, set(apart(plan, asked))
    unread = plan.source is not None or not asked.whole
    for i, j in combinations(range(len(regions)), 2):
        one, other = regions[i], regions[j]
        common = shared(one.box, other.box)
        names = f"{_called(one, i)} and {_called(other, j)}"
        if (i, j) in wanted:
            flat = _figures(one, other)
            if common > (0 if flat else HALF * min(area(one.box), area(other.box))):
                yield PlanProblem(OVERLAP, f"the boxes of {names} overlap: move or shrink one", (i, j))
            elif flat and max(gaps(one.box, other.box)) < TOO_CLOSE:
                yield PlanProblem(CLOSE, f"the boxes of {names} nearly touch: move them apart", (i, j))
        elif unread:
            iou = common / (area(one.box) + area(other.box) - common)
            if iou >= ONE_PLACE and not (plan.source is not None and _one_object(one, other, iou)):
                yield PlanProblem(OVERLAP, f"{names} are planned in one place: move one", (i, j))


def _figures(a: Region, b: Region) -> bool:
    return all(any(name.is_figure for name in names_in(region.phrase)) for region in (a, b))


def _one_object(a: Region, b: Region, iou: float) -> bool:
    """Whether two areas of an edit may be of one object, or one of them is emptied."""
    return iou >= SAME_BOX or any("background" in region.phrase.lower() for region in (a, b))


def _called(region: Region, place: int) -> str:
    return region.phrase or f"region {place}"
