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
"""Thousandths of the image below which the room between two objects is too little to keep them apart."""

ONE_PLACE = 0.5
"""Two boxes that share this much of what they cover together (IoU) stand in one place."""

SAME_BOX = 0.9
"""Boxes of an edit that are alike so far mean one object, which is changed twice."""


def clashes(plan: Plan, asked: Asked) -> tuple[PlanProblem, ...]:
    """Pairs of boxes that overlap or nearly touch.

    Where the whole prompt was read, all objects have to stand apart, but for those that may touch by its words ("on top
    of", "with") and are no flat figures. Otherwise, and in an edit, boxes may overlap, for a picture has things before
    one another: only those that stand in one place are told. Areas of an edit that are emptied are no objects.
    """
    return tuple(_told(plan, asked))


def apart(plan: Plan, asked: Asked) -> list[Pair]:
    """Places of the pairs of regions that have to stand apart."""
    if plan.source is not None or not asked.whole:
        return []
    found = match(asked.things, plan.regions)
    may_touch = set(asked.loose) | {frozenset((p.first, p.second)) for p in asked.placings if p.contact}
    of = {place: number for number, own in enumerate(found.of) for place in own}
    pairs = combinations(range(len(plan.regions)), 2)
    flat = [any(name.is_figure for name in names_in(region.phrase)) for region in plan.regions]
    return [
        (i, j) for i, j in pairs if (flat[i] and flat[j]) or frozenset((of.get(i, -1), of.get(j, -1))) not in may_touch
    ]


def _told(plan: Plan, asked: Asked) -> Iterator[PlanProblem]:
    regions, strict = plan.regions, set(apart(plan, asked))
    for i, j in combinations(range(len(regions)), 2):
        a, b = regions[i].box, regions[j].box
        common, room = shared(a, b), max(gaps(a, b))
        iou = common / (area(a) + area(b) - common)
        names = f"{_called(regions[i], i)} and {_called(regions[j], j)}"
        if (i, j) in strict:
            if common:
                yield PlanProblem(OVERLAP, f"the boxes of {names} overlap: move or shrink one", (i, j))
            elif room < TOO_CLOSE:
                yield PlanProblem(CLOSE, f"the boxes of {names} nearly touch: move them apart", (i, j))
        elif iou >= ONE_PLACE and not (plan.source is not None and _one_object(regions[i], regions[j], iou)):
            yield PlanProblem(OVERLAP, f"{names} are planned in one place: move one", (i, j))


def _one_object(a: Region, b: Region, iou: float) -> bool:
    """Whether two areas of an edit may be of one object, or one of them is emptied."""
    return iou >= SAME_BOX or any("background" in region.phrase.lower() for region in (a, b))


def _called(region: Region, place: int) -> str:
    return region.phrase or f"region {place}"
