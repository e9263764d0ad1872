"""What a plan lacks of what its prompt asks for, as far as that could be read."""

from collections.abc import Iterator, Sequence

from got_core.box_relations import OPPOSITE, box_relations
from got_core.chain_regions import Region
from got_core.plan_matching import Matching, colours_of, could_be, is_group, match
from got_core.plan_problems import COLOUR, COUNT, MISSING, RELATION, PlanProblem
from got_core.plans import Plan
from got_core.prompt_reading import Asked, Placing, Thing


def unmet(plan: Plan, asked: Asked) -> tuple[PlanProblem, ...]:
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


def _thing(thing: Thing, own: Sequence[int], found: Matching, regions: Sequence[Region]) -> Iterator[PlanProblem]:
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


def _relation(placing: Placing, asked: Asked, found: Matching, plan: Plan) -> Iterator[PlanProblem]:
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
