"""Checks a plan against its prompt, repairs its geometry, and chooses the best of several plans."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from got_core.chain.parser import Box, Region, format_chain
from got_core.planning.boxes import OPPOSITE, Pair, area, box_iou, box_relations, gaps, separated, shared
from got_core.planning.plan import Plan
from got_core.planning.prompts import (
    BASIC_COLOURS,
    NUMBERS,
    Name,
    ObjectSpec,
    Placing,
    Requirements,
    names_in,
    read_prompt,
    words_of,
)

MISSING = "missing object"
COUNT = "count"
COLOUR = "colour"
RELATION = "relation"
OVERLAP = "overlap"
CLOSE = "too close"
OUTSIDE = "outside"
MALFORMED = "malformed chain"
NO_BOX = "no box"

KINDS = (MISSING, COUNT, COLOUR, RELATION, OVERLAP, CLOSE, OUTSIDE, MALFORMED, NO_BOX)
"""All kinds of problems."""


@dataclass(frozen=True)
class PlanProblem:
    """Something that is wrong with a plan.

    Attributes:
        kind: Of `KINDS`.
        message: In words that a user can act on.
        regions: Places of the regions concerned, counted from 0; none where it is not about one.
    """

    kind: str
    message: str
    regions: tuple[int, ...] = ()


@dataclass(frozen=True)
class Matching:
    """Regions by things.

    Attributes:
        of: For each thing, the places of its regions, in order.
        others: Places of the regions that stand for none.
    """

    of: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]


def match(things: Sequence[ObjectSpec], regions: Sequence[Region]) -> Matching:
    """Give each region to one thing that it can stand for, or to none.

    Among things of one name a region goes to the first that lacks one and whose colour it has, then to the first that
    lacks one, then to the first of its colour, then to the first.
    """
    named = [names_in(region.phrase) for region in regions]
    own: list[list[int]] = [[] for _ in things]
    left = []
    for place, names in enumerate(named):
        if not any(_can_be(names, thing) for thing in things):
            left.append(place)
    for coloured, lacking in ((True, True), (False, True), (True, False), (False, False)):
        for place, names in enumerate(named):
            if place in left or any(place in found for found in own):
                continue
            fitting = [
                number
                for number, thing in enumerate(things)
                if _can_be(names, thing)
                and (not coloured or thing.colour in colours_of(regions[place]))
                and (not lacking or len(own[number]) < thing.count)
            ]
            if fitting:
                own[fitting[0]].append(place)
    return Matching(tuple(tuple(sorted(found)) for found in own), tuple(left))


def colours_of(region: Region) -> frozenset[str]:
    """The basic colours that a region's words name; a colour behind its box may only be what the box is painted in."""
    return BASIC_COLOURS.intersection(words_of(region.phrase.lower().replace("grey", "gray")))


def is_group(region: Region) -> bool:
    """Whether a region's phrase means several things ("two dogs", "dogs")."""
    words = words_of(region.phrase)
    numbers = [NUMBERS.get(word, int(word) if word.isdigit() else 1) for word in words]
    return any(number > 1 for number in numbers) or (bool(words) and names_in(region.phrase)[-1].plural)


def could_be(region: Region, thing: ObjectSpec) -> bool:
    """Whether a region that was given to no thing may yet mean it, in words that are not known."""
    return not thing.name.kinds or not any(name.kinds for name in names_in(region.phrase))


def _can_be(names: Sequence[Name], thing: ObjectSpec) -> bool:
    return any(name.means(thing.name) for name in names)


def unmet(plan: Plan, asked: Requirements) -> tuple[PlanProblem, ...]:
    """Objects that are missing, too many or of another colour, and relations that do not hold.

    Of an object nothing is said where a region in unknown words may mean it, of its number where one box holds several,
    and of its colour where the plan's words name none. A relation fails where no two regions of its things keep it.
    """
    regions = plan.regions
    found = match(asked.things, regions)
    problems = [
        p for thing, own in zip(asked.things, found.of, strict=True) for p in _thing(thing, own, found, regions)
    ]
    for placing in asked.placings:
        problems += _relation(placing, asked, found, plan)
    return tuple(problems)


def _thing(thing: ObjectSpec, own: Sequence[int], found: Matching, regions: Sequence[Region]) -> Iterator[PlanProblem]:
    unsure = any(could_be(regions[place], thing) for place in found.others)
    if not own:
        if thing.certain and not unsure:
            yield PlanProblem(MISSING, f"{thing.words} is asked for, but no box says where")
        return
    grouped = any(is_group(regions[place]) for place in own) and len(own) < thing.count
    if len(own) < thing.count and not (grouped or unsure):
        yield PlanProblem(COUNT, f"{thing.words}: {_boxes(len(own))} instead of {thing.count}", tuple(own))
    if len(own) > thing.count and thing.exact:
        yield PlanProblem(COUNT, f"{thing.words}: {_boxes(len(own))} instead of {thing.count}", tuple(own))
    named = {place: colours for place in own if (colours := colours_of(regions[place]))}
    wrong = {place: colours for place, colours in named.items() if thing.colour not in colours}
    if thing.colour and wrong and len(own) - len(wrong) < thing.count:
        planned = " and ".join(sorted(frozenset().union(*wrong.values())))
        yield PlanProblem(COLOUR, f"{thing.words} is asked for, but is planned {planned}", tuple(wrong))


def _relation(placing: Placing, asked: Requirements, found: Matching, plan: Plan) -> Iterator[PlanProblem]:
    first, second = found.of[placing.first], found.of[placing.second]
    pairs = [(a, b) for a in first for b in second if a != b]
    regions = plan.regions
    kept = [box_relations(regions[a].box, regions[b].box, plan.size) for a, b in pairs]
    if pairs and not any(placing.relation in held for held in kept):
        words = asked.things[placing.first].words, asked.things[placing.second].words
        turned = OPPOSITE[placing.relation] in kept[0]
        how = f"is planned {OPPOSITE[placing.relation]} it" if turned else "its box is not clearly so"
        text = f"{words[0]} shall be {placing.relation} {words[1]}, but {how}"
        yield PlanProblem(RELATION, text, pairs[0])


def _boxes(number: int) -> str:
    return "1 box" if number == 1 else f"{number} boxes"


TOO_CLOSE = 30
"""Thousandths of the image below which the room between two figures is too little to keep them apart."""

HALF = 0.5
"""Share of the smaller of two boxes that another one may cover; pictures have things before one another."""

ONE_PLACE = 0.8
"""Two boxes that share this much of what they cover together (IoU) stand in one place."""

SAME_BOX = 0.9
"""Boxes of an edit that are alike so far mean one object, which is changed twice."""


def clashes(plan: Plan, asked: Requirements) -> tuple[PlanProblem, ...]:
    """Pairs of boxes that are in each other's way.

    - Flat figures, where the whole prompt was read: boxes that overlap or nearly touch.
    - Other objects that it lists or places: those of which half is covered. Nothing is said of those that may share a
      place by its words ("on top of", "with").
    - Where it was not read whole, and in an edit: those that stand in one place. Areas of an edit that are emptied are
      no objects.
    """
    return tuple(_told(plan, asked))


def apart(plan: Plan, asked: Requirements) -> list[Pair]:
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


def _told(plan: Plan, asked: Requirements) -> Iterator[PlanProblem]:
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
            iou = box_iou(one.box, other.box)
            if iou >= ONE_PLACE and not (plan.source is not None and _one_object(one, other, iou)):
                yield PlanProblem(OVERLAP, f"{names} are planned in one place: move one", (i, j))


def _figures(a: Region, b: Region) -> bool:
    return all(any(name.is_number_word for name in names_in(region.phrase)) for region in (a, b))


def _one_object(a: Region, b: Region, iou: float) -> bool:
    """Whether two areas of an edit may be of one object, or one of them is emptied."""
    return iou >= SAME_BOX or any("background" in region.phrase.lower() for region in (a, b))


def _called(region: Region, place: int) -> str:
    return region.phrase or f"region {place}"


SIZES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""What is left of the sides of boxes that have no room, the largest first."""


MOST_BOXES = 24
"""Plans of more boxes are not moved about: it would take long, and hardly find room."""


def repairs(plan: Plan, problems: Sequence[PlanProblem]) -> Iterator[Plan]:
    """Plans that may have fewer problems, the smallest change first.

    The chain as it was read, malformed boxes written out; two objects swapped that stand the wrong way round; boxes
    that overlap, nearly touch or stand otherwise than asked moved apart, at their own sizes where there is room. Areas
    of an edit stay: they are where the picture has its objects.
    """
    boxes = [region.box for region in plan.regions]
    if plan.problems:
        yield plan.with_chain(format_chain(plan.read()))
    if plan.source is not None or len(boxes) > MOST_BOXES:
        return
    contradicted = dict.fromkeys((i, j) for i, j in (p.regions for p in problems if p.kind == RELATION))
    for i, j in contradicted:
        swapped = list(boxes)
        swapped[i], swapped[j] = boxes[j], boxes[i]
        yield from _with_boxes(plan, swapped)
    asked = read_prompt(plan.prompt)
    clashing = [(i, j) for i, j in (p.regions for p in clashes(plan, asked))]
    directions = _directions(plan, asked)
    if clashing or contradicted:
        pairs = sorted({*apart(plan, asked), *clashing})
        for wanted in (directions, {}) if directions else ({},):
            tried = (separated(boxes, pairs, wanted, plan.size, share) for share in SIZES)
            yield from _with_boxes(plan, next((moved for moved in tried if moved is not None), boxes))


def _directions(plan: Plan, asked: Requirements) -> dict[Pair, str]:
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


__all__ = ["PlanProblem", "plan_problems", "repaired"]

_OUTSIDE = "outside 0 to"
"""What the chain's reader says of a box that leaves the image."""


def plan_problems(plan: Plan) -> tuple[PlanProblem, ...]:
    """What is wrong with a plan; empty where nothing is.

    - The chain: malformed parts, boxes outside the image, no box at all.
    - Text-to-image, as far as the prompt can be read (`got_core.planning.prompts`): objects that are missing, too few
      or too many, of another colour, or not in the relation asked for. Of what cannot be read nothing is said.
    - Boxes: pairs that overlap or nearly touch (`clashes`).
    """
    told = [PlanProblem(OUTSIDE if _OUTSIDE in text else MALFORMED, text) for text in plan.problems]
    asked = read_prompt("" if plan.source is not None else plan.prompt)
    if not plan.regions:
        what = "which area is to change" if plan.source is not None else "where anything is drawn"
        told.append(PlanProblem(NO_BOX, f"the plan has no box, so nothing says {what}"))
    elif plan.source is None:
        told += unmet(plan, asked)
    return (*told, *clashes(plan, asked))


def repaired(plan: Plan) -> Plan:
    """The plan with fewer problems where moving, swapping or shrinking boxes helps, else as it is.

    Objects are neither added nor removed. Repairing what is repaired changes nothing.
    """
    problems = plan_problems(plan)
    while problems:
        best, left = plan, problems
        for each in repairs(plan, problems):
            if left and len(found := plan_problems(each)) < len(left):
                best, left = each, found
        if len(left) >= len(problems):
            break
        plan, problems = best, left
    return plan


SAMPLED_AT = 1.0
"""Temperature of further plans where the first is greedy."""

Writer = Callable[[Sequence[int]], Sequence[Plan]]
"""Writes a further chain for the plan in each of those places; a place stands as often as chains are wanted."""


def choose_plans(firsts: Sequence[Plan], number: int, write: Writer) -> list[Plan]:
    """For each plan the one with the fewest problems of it and `number` - 1 others; of several the first.

    Others are written, all in one batch, only where the first has a problem: elsewhere none could be better.
    """
    wanting = [place for place, plan in enumerate(firsts) if number > 1 and plan_problems(plan)]
    if not wanting:
        return list(firsts)
    others = list(write([place for place in wanting for _ in range(number - 1)]))
    best = list(firsts)
    for turn, place in enumerate(wanting):
        own = others[turn * (number - 1) : (turn + 1) * (number - 1)]
        best[place] = min([firsts[place], *own], key=lambda plan: len(plan_problems(plan)))
    return best
