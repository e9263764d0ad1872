"""Which regions of a chain stand for which of the things that its prompt asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

from got_core.chain_regions import Region
from got_core.nouns import Name, names_in, words_of
from got_core.prompt_reading import BASIC_COLOURS, NUMBERS, Thing


@dataclass(frozen=True)
class Matching:
    """Regions by things.

    Attributes:
        of: For each thing, the places of its regions, in order.
        others: Places of the regions that stand for none.
    """

    of: tuple[tuple[int, ...], ...]
    others: tuple[int, ...]


def match(things: Sequence[Thing], regions: Sequence[Region]) -> Matching:
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


def could_be(region: Region, thing: Thing) -> bool:
    """Whether a region that was given to no thing may yet mean it, in words that are not known."""
    return not thing.name.kinds or not any(name.kinds for name in names_in(region.phrase))


def _can_be(names: Sequence[Name], thing: Thing) -> bool:
    return any(name.means(thing.name) for name in names)
