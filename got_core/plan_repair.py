"""Repairs of a plan's geometry: boxes are moved, swapped and, where there is no room, made smaller. Objects stay."""

from collections.abc import Iterator, Sequence

from got_core.box_relations import OPPOSITE
from got_core.box_separation import Pair, separated
from got_core.chain import format_chain
from got_core.chain_regions import Box
from got_core.plan_layout import apart, clashes
from got_core.plan_matching import match
from got_core.plan_problems import RELATION, PlanProblem
from got_core.plans import Plan
from got_core.prompt_reading import Asked, read_prompt

SIZES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""What is left of the sides of boxes that have no room, the largest first."""


def repairs(plan: Plan, problems: Sequence[PlanProblem]) -> Iterator[Plan]:
    """Plans that may have fewer problems, the smallest change first.

    The chain as it was read, malformed boxes written out; two objects swapped that stand the wrong way round; boxes
    that overlap, nearly touch or stand otherwise than asked moved apart, at their own sizes where there is room. Areas
    of an edit stay: they are where the picture has its objects.
    """
    boxes = [region.box for region in plan.regions]
    if plan.problems:
        yield plan.with_chain(format_chain(plan.read()))
    if plan.source is not None:
        return
    for problem in problems:
        if problem.kind == RELATION:
            i, j = problem.regions
            swapped = list(boxes)
            swapped[i], swapped[j] = boxes[j], boxes[i]
            yield from _with_boxes(plan, swapped)
    asked = read_prompt(plan.prompt)
    clashing = [(i, j) for i, j in (entry.regions for entry in clashes(plan, asked))]
    directions = _directions(plan, asked)
    if clashing or any(problem.kind == RELATION for problem in problems):
        pairs = sorted({*apart(plan, asked), *clashing})
        for share in SIZES:
            for wanted in (directions, {}) if directions else ({},):
                moved = separated(boxes, pairs, wanted, plan.size, share)
                if moved is not None:
                    yield from _with_boxes(plan, moved)


def _directions(plan: Plan, asked: Asked) -> dict[Pair, str]:
    """How regions shall stand to one another, where each thing has one; the lower place first."""
    of = match(asked.things, plan.regions).of
    found: dict[Pair, str] = {}
    for placing in asked.placings:
        match of[placing.first], of[placing.second]:
            case (i,), (j,) if i != j:
                found[min(i, j), max(i, j)] = placing.relation if i < j else OPPOSITE[placing.relation]
    return found


def _with_boxes(plan: Plan, boxes: Sequence[Box]) -> Iterator[Plan]:
    """The plan with other boxes; none where its chain is too malformed to be rewritten."""
    former = [region.box for region in plan.regions]
    try:
        for place, box in enumerate(boxes):
            plan = plan if box == former[place] else plan.resize(place, box)
    except ValueError:
        return
    yield plan
