"""Names of things: the common ones with words that mean the same, in the singular and in the plural.

Of two names that are known and have no kind in common it can be said that they mean different things. Of a name that
is not known nothing can be said, but that it is the same as itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_KINDS = """
circle, disc, disk; square; triangle; diamond, rhombus; cross; star; rectangle; ring; oval, ellipse; cube, box; ball,
sphere; person, man, woman, boy, girl, child, kid, lady, guy, human, adult, baby, rider, player; bicycle, bike; car,
automobile, sedan, suv, taxi; motorcycle, motorbike; airplane, plane, aeroplane, jet, airliner, aircraft; bus, coach;
train, locomotive, tram; truck, lorry, pickup, van; boat, ship, sailboat, yacht, canoe, kayak; traffic light,
stoplight; fire hydrant, hydrant; stop sign; parking meter; bench; bird, parrot, duck, eagle, owl, pigeon, seagull,
gull, sparrow; cat, kitten, kitty; dog, puppy, hound; horse, pony, mare, foal; sheep, lamb, ram, ewe; cow, bull,
cattle, calf, ox; elephant; bear; zebra; giraffe; backpack, rucksack, bag; umbrella, parasol; handbag, hand bag,
purse, bag; tie, necktie; suitcase, luggage, bag, briefcase; frisbee, disc, disk; ski, skis; snowboard; ball, sports
ball, soccer ball, football, basketball, tennis ball, baseball; kite; baseball bat, bat; baseball glove, glove, mitt;
skateboard; surfboard; tennis racket, racket, racquet; bottle, flask; wine glass, glass, goblet; cup, mug, teacup,
glass; fork; knife; spoon; bowl, dish; banana; apple; sandwich, burger, hamburger; orange; broccoli; carrot; hot dog,
hotdog; pizza; donut, doughnut; cake, cupcake; chair, armchair, stool, seat; couch, sofa, settee; plant, potted plant,
houseplant, flowerpot; bed; table, dining table, desk; toilet; tv, television, screen, monitor; laptop, computer,
notebook; mouse, computer mouse; remote, tv remote, remote control; keyboard, computer keyboard; phone, cell phone,
cellphone, mobile phone, smartphone; microwave, microwave oven; oven, stove; toaster; sink, basin, washbasin;
refrigerator, fridge; book; clock, watch; vase, pot; scissors; teddy bear, teddy; hair drier, hair dryer, hairdryer,
dryer; toothbrush; house; tree; flower, rose, tulip; hat, cap; lamp; door; window
"""
"""What means the same stands between semicolons."""

_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "knives": "knife",
    "mice": "mouse",
    "geese": "goose",
    "oxen": "ox",
    "calves": "calf",
    "wolves": "wolf",
    "leaves": "leaf",
    "loaves": "loaf",
}

_ENDINGS = (("s", ""), ("es", ""), ("ies", "y"))

_UNCHANGED = frozenset(["sheep", "skis", "scissors", "aircraft", "cattle", "glasses"])
"""Words that may mean one thing or several."""

LONGEST = 2
"""Words that a known name has at most."""

_WORD = re.compile(r"[a-z0-9]+(?:['’-][a-z0-9]+)*")


def _known() -> dict[str, frozenset[int]]:
    """The kinds of each known name, by number."""
    found: dict[str, set[int]] = {}
    for number, group in enumerate(" ".join(_KINDS.split()).split(";")):
        for name in group.split(","):
            found.setdefault(name.strip(), set()).add(number)
    return {name: frozenset(kinds) for name, kinds in found.items()}


KNOWN = _known()

_FIGURES = frozenset().union(
    *(KNOWN[name] for name in ("circle", "square", "triangle", "diamond", "cross", "star", "rectangle", "ring", "oval"))
)


@dataclass(frozen=True)
class Name:
    """A name of a thing as it stands in a text.

    Attributes:
        words: Of the text.
        kinds: By number; empty where it is not known.
        plural: Whether it means several things for sure.
    """

    words: tuple[str, ...]
    kinds: frozenset[int]
    plural: bool

    @property
    def is_figure(self) -> bool:
        """Whether it is a flat figure, such as a circle, which is never in, on or behind another one."""
        return bool(self.kinds & _FIGURES)

    def means(self, other: "Name") -> bool:
        """Whether both can mean the same thing: a kind in common, or the same word where one is not known."""
        if self.kinds and other.kinds:
            return bool(self.kinds & other.kinds)
        return not forms(self.words[-1]).isdisjoint(forms(other.words[-1]))


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def forms(word: str) -> frozenset[str]:
    """The word, and what it would be in the singular were it a plural."""
    cut = {word.removesuffix(end) + new for end, new in _ENDINGS if word.endswith(end) and len(word) > len(end) + 1}
    return frozenset({word, _IRREGULAR.get(word, word), *cut})


def name_of(words: Sequence[str]) -> Name:
    """The name that words make; known by its last words alone where all of them are not ("a red bus")."""
    for length in range(min(LONGEST, len(words)), 0, -1):
        *before, last = words[-length:]
        if (name := " ".join([*before, last])) in KNOWN:
            return Name(tuple(words[-length:]), KNOWN[name], last in _IRREGULAR)
        kinds = [KNOWN[name] for form in sorted(forms(last)) if (name := " ".join([*before, form])) in KNOWN]
        if kinds:
            return Name(tuple(words[-length:]), frozenset().union(*kinds), last not in _UNCHANGED)
    last = words[-1]
    return Name(
        (last,), frozenset(), last in _IRREGULAR or (last.endswith("s") and last[-2:] not in ("ss", "us", "is"))
    )


def names_in(text: str) -> list[Name]:
    """All names in a text, known or not, each word in one of them; of two that begin together the longer."""
    words, found, place = words_of(text), [], 0
    while place < len(words):
        length = next(
            (n for n in range(LONGEST, 0, -1) if _is_known(words[place : place + n]) and place + n <= len(words)), 1
        )
        found.append(name_of(words[place : place + length]))
        place += length
    return found


def _is_known(words: Sequence[str]) -> bool:
    return bool(words) and any(" ".join([*words[:-1], form]) in KNOWN for form in forms(words[-1]))
