"""Checks a plan against its prompt, repairs its boxes, and chooses the best of several plans."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
from einops import rearrange

from got_core.chain.parser import Box, Region, format_chain
from got_core.planning.boxes import OPPOSITE, Pair, area, box_iou, box_relations, gaps, separated, shared_area
from got_core.planning.plan import MOST_BOXES, Plan
from got_core.planning.prompts import BASIC_COLOURS, NUMBERS, ObjectSpec, Requirements, names_in, read_prompt, words_of

MISSING = "missing object"
COUNT = "count"
COLOUR = "colour"
RELATION = "relation"
OVERLAP = "overlap"
CLOSE = "too close"
OUTSIDE = "outside"
MALFORMED = "malformed chain"
NO_BOX = "no box"
TOO_MANY = "too many boxes"


@dataclass(frozen=True)
class PlanProblem:
    """Something that is wrong with a plan.

    Attributes:
        kind: One of the constants above.
        message: In words that a user can act on.
        regions: Indices of the regions concerned; empty where it is about no region.
    """

    kind: str
    message: str
    regions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Matching:
    """Regions by objects.

    Attributes:
        of: For each object, the indices of its regions, in order.
        others: Indices of the regions that can be none of the objects.
    """

    of: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]


def match(objects: Sequence[ObjectSpec], regions: Sequence[Region]) -> Matching:
    """Assign each region to one object that it can be, or to none.

    Among objects of one name, a region goes to the first that lacks one and whose colour it has, then to the first that
    lacks one, then to the first of its colour, then to the first.
    """
    names = [names_in(region.phrase) for region in regions]
    possible = [
        [k for k, spec in enumerate(objects) if any(name.means(spec.name) for name in own_names)] for own_names in names
    ]
    own: list[list[int]] = [[] for _ in objects]
    left = [index for index, options in enumerate(possible) if options]
    for coloured, lacking in ((True, True), (False, True), (True, False), (False, False)):
        for index in list(left):
            fitting = (
                k
                for k in possible[index]
                if (not coloured or objects[k].colour in colours_of(regions[index]))
                and (not lacking or len(own[k]) < objects[k].count)
            )
            if (chosen := next(fitting, None)) is not None:
                own[chosen].append(index)
                left.remove(index)
    others = tuple(index for index, options in enumerate(possible) if not options)
    return Matching(tuple(tuple(sorted(indices)) for indices in own), others)


def colours_of(region: Region) -> frozenset[str]:
    """Return the basic colours that a region's words name.

    A colour after the box does not count: it may only be the colour of the box in the layout mask.
    """
    return BASIC_COLOURS.intersection(words_of(region.phrase.lower().replace("grey", "gray")))


def unmet(plan: Plan, required: Requirements) -> list[PlanProblem]:
    """List objects that are missing, too many or of another colour, and relations that do not hold.

    A missing object is no problem where a region in unknown words may be it; neither is a wrong number where one box
    holds several, nor a colour where the plan's words name none. A relation fails where no two regions of its objects
    have it.
    """
    regions = plan.regions
    matching = match(required.objects, regions)
    others = [regions[index] for index in matching.others]
    problems: list[PlanProblem] = []
    for spec, own in zip(required.objects, matching.of, strict=True):
        problems += _object_problems(spec, {index: regions[index] for index in own}, others)
    for wanted in required.relations:
        pairs = [(a, b) for a in matching.of[wanted.first] for b in matching.of[wanted.second] if a != b]
        planned = (box_relations(regions[a].box, regions[b].box, plan.size) for a, b in pairs)
        if pairs and not any(wanted.relation in relations for relations in planned):
            first, second = (required.objects[index].words for index in (wanted.first, wanted.second))
            opposite = OPPOSITE[wanted.relation]
            a, b = pairs[0]
            contrary = opposite in box_relations(regions[a].box, regions[b].box, plan.size)
            how = f"is planned {opposite} it" if contrary else "its box is not clearly so"
            problems.append(PlanProblem(RELATION, f"{first} should be {wanted.relation} {second}, but {how}", pairs[0]))
    return problems


def _object_problems(spec: ObjectSpec, own: dict[int, Region], others: Sequence[Region]) -> Iterator[PlanProblem]:
    """What is wrong with the regions of one object, by index; `others` are those that are no object's."""
    unsure = any(not spec.name.kinds or not any(n.kinds for n in names_in(region.phrase)) for region in others)
    if not own:
        if spec.certain and not unsure:
            yield PlanProblem(MISSING, f"{spec.words} is requested, but no box says where")
        return
    too_few = len(own) < spec.count and not unsure and not any(map(_is_group, own.values()))
    if too_few or (len(own) > spec.count and spec.exact):
        boxes = "1 box" if len(own) == 1 else f"{len(own)} boxes"
        yield PlanProblem(COUNT, f"{spec.words}: {boxes} instead of {spec.count}", tuple(own))
    colours = {index: colours_of(region) for index, region in own.items()}
    wrong = {index: names for index, names in colours.items() if names and spec.colour not in names}
    if spec.colour and wrong and len(own) - len(wrong) < spec.count:
        planned = " and ".join(sorted(frozenset().union(*wrong.values())))
        yield PlanProblem(COLOUR, f"{spec.words} is requested, but is planned {planned}", tuple(wrong))


def _is_group(region: Region) -> bool:
    """Whether a region's phrase means several objects ("two dogs", "dogs")."""
    words = words_of(region.phrase)
    numbers = [NUMBERS.get(word, int(word) if word.isdigit() else 1) for word in words]
    return any(number > 1 for number in numbers) or (bool(words) and names_in(region.phrase)[-1].plural)


TOO_CLOSE = 30
"""Thousandths of the image: flat shapes with a smaller gap between them cannot be kept apart."""

COVERED = 0.5
"""Fraction of the smaller of two boxes that another one may cover; images have objects in front of one another."""


MOST_CLASHES = 1_000
"""More pairs of colliding boxes are not listed."""


def clashes(plan: Plan, required: Requirements) -> list[PlanProblem]:
    """List pairs of boxes that collide, up to `MOST_CLASHES`.

    - Flat shapes, where the whole prompt was understood: boxes that overlap or nearly touch.
    - Other objects that it names: boxes of which half is covered, except pairs that may share a position by its words
      ("on top of", "with").
    - Where it was not understood completely, and in an edit: boxes at the same position (IoU of 0.8). Boxes of an edit
      with an IoU of 0.9 mean one object that is changed twice, and areas that become empty are no objects.
    """
    return list(islice(_clashes(plan, required), MOST_CLASHES))


def _clashes(plan: Plan, required: Requirements) -> Iterator[PlanProblem]:
    regions = plan.regions
    must_be_apart, flat_regions = _separation(plan, required), [_flat(region) for region in regions]
    for i, j in _near(regions):
        first, second = regions[i], regions[j]
        names = f"{first.phrase or f'region {i}'} and {second.phrase or f'region {j}'}"
        if must_be_apart(i, j):
            flat = flat_regions[i] and flat_regions[j]
            allowed = 0 if flat else COVERED * min(area(first.box), area(second.box))
            if shared_area(first.box, second.box) > allowed:
                yield PlanProblem(OVERLAP, f"the boxes of {names} overlap: move or shrink one", (i, j))
            elif flat and max(gaps(first.box, second.box)) < TOO_CLOSE:
                yield PlanProblem(CLOSE, f"the boxes of {names} nearly touch: move them apart", (i, j))
        elif plan.source is not None or not required.complete:
            iou = box_iou(first.box, second.box)
            emptied = any("background" in region.phrase.lower() for region in (first, second))
            if iou >= 0.8 and not (plan.source is not None and (iou >= 0.9 or emptied)):
                yield PlanProblem(OVERLAP, f"{names} are planned at the same position: move one", (i, j))


def _near(regions: Sequence[Region]) -> list[Pair]:
    """List the pairs of regions, in order, whose boxes overlap or have a gap of less than `TOO_CLOSE`."""
    if not regions:
        return []
    x1, y1, x2, y2 = rearrange(np.array([region.box for region in regions]), "n side -> side n")
    gap = np.maximum(*(np.maximum(low[:, None] - high, low - high[:, None]) for low, high in ((x1, x2), (y1, y2))))
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(gap < TOO_CLOSE, 1))]


def apart(plan: Plan, required: Requirements) -> list[Pair]:
    """List the pairs of regions, as indices, that must not overlap, by a prompt that was understood completely."""
    must_be_apart = _separation(plan, required)
    return [pair for pair in combinations(range(len(plan.regions)), 2) if must_be_apart(*pair)]


def _separation(plan: Plan, required: Requirements) -> Callable[[int, int], bool]:
    """Return the rule of `apart`, for two indices."""
    if plan.source is not None or not required.complete:
        return lambda i, j: False
    regions = plan.regions
    object_of = {i: number for number, own in enumerate(match(required.objects, regions).of) for i in own}
    flat = [_flat(region) for region in regions]

    def must_be_apart(i: int, j: int) -> bool:
        pair = frozenset((object_of.get(i, -1), object_of.get(j, -1)))
        return (flat[i] and flat[j]) or pair not in required.may_touch

    return must_be_apart


def _flat(region: Region) -> bool:
    return any(name.is_flat for name in names_in(region.phrase))


MOST_REARRANGED = 24
"""Plans of more boxes are not rearranged: it would take long and rarely succeed."""


def repairs(plan: Plan, problems: Sequence[PlanProblem]) -> Iterator[Plan]:
    """Yield plans that may have fewer problems, the smallest change first.

    These are: the chain with malformed boxes written as they were read; two objects of the opposite relation swapped;
    boxes that overlap, nearly touch or lack their relation moved apart, at their own sizes or the largest that fit.
    Areas of an edit stay, because they are where the objects of the image are.
    """
    boxes = [region.box for region in plan.regions]
    if plan.problems:
        yield plan.with_chain(format_chain(plan.read()))
    if plan.source is not None or len(boxes) > MOST_REARRANGED:
        return
    contradicted = dict.fromkeys((i, j) for i, j in (p.regions for p in problems if p.kind == RELATION))
    for i, j in contradicted:
        swapped = list(boxes)
        swapped[i], swapped[j] = boxes[j], boxes[i]
        yield from _with_boxes(plan, swapped)
    required = read_prompt(plan.prompt)
    clashing = [(i, j) for i, j in (p.regions for p in clashes(plan, required))]
    directions = _directions(plan, required)
    if clashing or contradicted:
        pairs = sorted({*apart(plan, required), *clashing})
        for wanted in (directions, {}) if directions else ({},):
            moved = (separated(boxes, pairs, wanted, plan.size, scale) for scale in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5))
            yield from _with_boxes(plan, next((candidate for candidate in moved if candidate is not None), boxes))


def _directions(plan: Plan, required: Requirements) -> dict[Pair, str]:
    """The required relations of regions, the lower index first, where each object has one region."""
    of = match(required.objects, plan.regions).of
    directions: dict[Pair, str] = {}
    for spec in required.relations:
        match of[spec.first], of[spec.second]:
            case (i,), (j,) if i != j:
                directions[min(i, j), max(i, j)] = spec.relation if i < j else OPPOSITE[spec.relation]
    return directions


def _with_boxes(plan: Plan, boxes: Sequence[Box]) -> Iterator[Plan]:
    """The plan with other boxes; none where its chain is too malformed to be rewritten."""
    before = [region.box for region in plan.regions]
    try:
        for index, box in enumerate(boxes):
            plan = plan if box == before[index] else plan.resize(index, box)
    except ValueError:
        return
    yield plan


def plan_problems(plan: Plan) -> tuple[PlanProblem, ...]:
    """List what is wrong with a plan; empty where nothing is.

    - The chain: malformed parts, boxes outside the image, no box at all.
    - Text-to-image, as far as the prompt is understood (`got_core.planning.prompts`): objects that are missing, too few
      or too many, of another colour, or not in the requested relation.
    - Boxes: pairs that overlap or nearly touch (`clashes`).

    Of a plan with more than `MOST_BOXES` boxes only that is reported.
    """
    if (count := len(plan.regions)) > MOST_BOXES:
        return (PlanProblem(TOO_MANY, f"the plan has {count:,} boxes; at most {MOST_BOXES:,} are checked"),)
    problems = [PlanProblem(OUTSIDE if "outside 0 to" in text else MALFORMED, text) for text in plan.problems]
    required = read_prompt("" if plan.source is not None else plan.prompt)
    if not plan.regions:
        what = "which area is to change" if plan.source is not None else "where any object is"
        problems.append(PlanProblem(NO_BOX, f"the plan has no box, so nothing says {what}"))
    elif plan.source is None:
        problems += unmet(plan, required)
    return (*problems, *clashes(plan, required))


def repaired(plan: Plan) -> Plan:
    """Return the plan with fewer problems where moving, swapping or shrinking boxes helps, else as it is.

    Objects are neither added nor removed. A plan that was repaired is not changed by another repair.
    """
    problems = plan_problems(plan)
    while problems:
        best, left = plan, problems
        for candidate in repairs(plan, problems):
            if left and len(remaining := plan_problems(candidate)) < len(left):
                best, left = candidate, remaining
        if len(left) >= len(problems):
            break
        plan, problems = best, left
    return plan


def repairable(plan: Plan) -> bool:
    """Return whether `repaired` changes a plan, in the time that its first step takes."""
    problems = plan_problems(plan)
    return any(len(plan_problems(candidate)) < len(problems) for candidate in repairs(plan, problems))


SAMPLED_AT = 1.0
"""Temperature of further plans where the first is greedy."""

Writer = Callable[[Sequence[int]], Sequence[Plan]]
"""Writes one further plan for each index of a plan. An index occurs as often as plans are wanted for it."""


def choose_plans(firsts: Sequence[Plan], number: int, write: Writer) -> list[Plan]:
    """Choose, for each plan, the one with the fewest problems of it and `number` - 1 others; of several the first.

    Others are written, all in one batch, only where the first has a problem: elsewhere none could be better.
    """
    wanting = [index for index, plan in enumerate(firsts) if number > 1 and plan_problems(plan)]
    others = list(write([index for index in wanting for _ in range(number - 1)])) if wanting else []
    best = list(firsts)
    for turn, index in enumerate(wanting):
        own = others[turn * (number - 1) : (turn + 1) * (number - 1)]
        best[index] = min([firsts[index], *own], key=lambda plan: len(plan_problems(plan)))
    return best
