"""Reads a caption: objects with colours and counts, and their relations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

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
    def is_number_word(self) -> bool:
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


BASIC_COLOURS = frozenset(words_of("red orange yellow green blue purple pink brown black white gray cyan"))
"""What a colour is called where nothing else can be meant."""

NUMBERS = {
    word: number
    for number, word in enumerate(words_of("one two three four five six seven eight nine ten eleven twelve"), start=1)
}

PREFIX = re.compile(
    r"^(?:please )?(?:(?:draw|paint|generate|create|make|show|render|sketch|imagine)(?: me| us)? )?"
    r"(?:(?:an?|the) (?:\w+ )?(?:photo|photograph|picture|image|drawing|painting|illustration|rendering|sketch|scene)"
    r" (?:of|with|showing|that shows) )?(?:there (?:is|are) )?"
)
"""What a caption may begin with before it names anything."""

_LINK = (
    r"(?:(?:which|that) )?(?:(?:is|are|stands?|lies?|sits?) )?"
    r"(?:(?:placed|located|positioned|standing|lying|sitting) )?"
)
RELATION_WORDS = {
    "left of": r"(?:(?:to|on|at) the )?left(?:[ -]hand)?(?: side)? of",
    "right of": r"(?:(?:to|on|at) the )?right(?:[ -]hand)?(?: side)? of",
    "above": r"(?:above|over|on top of|atop)",
    "below": r"(?:below|under|underneath|beneath)",
}
"""Wordings of each of `got_core.planning.boxes.RELATIONS`."""

COLOURED = re.compile(rf"^(?:an?|the) ([\w -]+?) (?:is|are) ({'|'.join(sorted(BASIC_COLOURS))})$")
"""A sentence that gives a thing its colour: "the bench is red"."""

CONTACT = re.compile("over|on top of|atop|under|underneath|beneath")
"""Relations in which two things may well touch."""

_LOOSE = r"(?:together with|along with|as well as|with|next to|beside|near)"
CUT = re.compile(
    rf"\s*(?:\b{_LINK}(?P<relation>{'|'.join(RELATION_WORDS.values())})\b|\b{_LINK}(?P<loose>{_LOOSE})\b"
    r"|(?P<plain>,? ?\band\b|,|&))\s*"
)
"""What stands between two things: a relation, a loose joint, which says little of their places, or a plain one."""

ARTICLES = frozenset(["a", "an", "the"])
STOP = frozenset(
    words_of(
        """
        a an the and or but no not without in on at of by from into onto to for as than like between among around
        through across along behind inside outside front near while who which that this these those there is are was
        were be has have had it its his her their they he she you we i my your our each every both all some many
        several few other another any
        """
    )
)
"""Words that are in no name: with one of them a sentence is more than a list."""


MOST_WORDS = 3
"""Of a name, adjectives included."""


@dataclass(frozen=True)
class ObjectSpec:
    """An object that is asked for.

    Attributes:
        name: What it is.
        colour: Of `BASIC_COLOURS`, or None.
        count: How many; 1 is "at least one" unless it is exact.
        exact: Whether a number is asked for.
        certain: Whether nothing but an object can be meant.
        words: As the prompt has it, for people.
    """

    name: Name
    colour: str | None
    count: int
    exact: bool
    certain: bool
    words: str


@dataclass(frozen=True)
class Placing:
    """How one thing shall stand to another.

    Attributes:
        first, second: Their places among the things.
        relation: Of `got_core.planning.boxes.RELATIONS`: the first is so of the second.
        contact: Whether the two may well touch ("on top of").
    """

    first: int
    second: int
    relation: str
    contact: bool


@dataclass(frozen=True)
class Requirements:
    """What was read of a prompt.

    Attributes:
        things: Objects, in order.
        placings: How they stand.
        loose: Pairs of things that may well touch or share a place ("a man with a hat").
        whole: Whether every sentence was read.
    """

    things: tuple[ObjectSpec, ...] = ()
    placings: tuple[Placing, ...] = ()
    loose: frozenset[frozenset[int]] = frozenset()
    whole: bool = False


def read_prompt(prompt: str) -> Requirements:
    """Read a caption, as the head of this module describes; what is not understood is left out."""
    sentences = [
        text for part in re.split(r"[.;:!?\n]+", prompt.lower().replace("grey", "gray")) if (text := part.strip())
    ]
    asked, whole = Requirements(), bool(sentences)
    for sentence in sentences:
        read = _sentence(asked, " ".join(sentence.split()))
        whole = whole and read is not None
        asked = read or asked
    return replace(asked, whole=whole)


def _sentence(asked: Requirements, text: str) -> Requirements | None:
    """What is asked with one more sentence; None where that is not understood."""
    text = COLOURED.sub(r"the \2 \1", PREFIX.sub("", text, count=1))
    cuts = list(CUT.finditer(text))
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    if cuts and not pieces[0] and cuts[0]["relation"] and len(pieces) == 3 and cuts[1]["plain"]:
        return _sentence(asked, f"{pieces[2]} {cuts[0]['relation']} {pieces[1]}")  # "left of a dog, a cat"
    found, subject, owner = _Found(asked), 0, -1
    place: int | None = None
    for index, piece in enumerate(pieces):
        cut, before = (cuts[index - 1], place) if index else (None, None)
        if not piece and index and index + 1 < len(pieces) and cuts[index]["relation"]:
            continue  # "left of a dog and above a cat": the first thing stays the one that is placed
        place = found.thing(piece)
        if place is None:
            return None
        if cut is not None and before is not None and cut["relation"]:
            subject = subject if not pieces[index - 1] else before
            found.place(subject, place, cut["relation"])
            owner = -1
        elif cut is not None and before is not None and (cut["loose"] or owner >= 0):
            owner = before if cut["loose"] else owner  # "a knight with a sword and a shield" has both
            found.loose.add(frozenset((owner, place)))
    return found.asked()


class _Found:
    """What was read so far."""

    def __init__(self, asked: Requirements) -> None:
        self.things, self.placings, self.loose = list(asked.things), list(asked.placings), set(asked.loose)

    def asked(self) -> Requirements:
        return Requirements(tuple(self.things), tuple(self.placings), frozenset(self.loose))

    def place(self, first: int, second: int, words: str) -> None:
        """Note that one thing is placed by another, for which both must be objects."""
        relation = next(name for name, pattern in RELATION_WORDS.items() if re.fullmatch(pattern, words))
        self.placings.append(Placing(first, second, relation, bool(CONTACT.fullmatch(words))))
        for place in (first, second):
            self.things[place] = replace(self.things[place], certain=True)

    def thing(self, text: str) -> int | None:
        """The place of a thing that is named; None where the words are more or less than a name."""
        new = _thing(text)
        if new is None:
            return None
        for place, old in enumerate(self.things if text.startswith("the ") else ()):
            if old.name.means(new.name) and (old.colour == new.colour or None in (old.colour, new.colour)):
                self.things[place] = replace(old, colour=old.colour or new.colour, certain=old.certain or new.certain)
                return place
        self.things.append(new)
        return len(self.things) - 1


def _thing(text: str) -> ObjectSpec | None:
    words = words_of(text) if re.fullmatch(r"[a-z0-9'’ -]+", text) else []
    articles = list(takewhile(lambda word: word in ARTICLES, words))
    rest = words[len(articles) :]
    count = NUMBERS.get(rest[0], int(rest[0]) if rest[0].isdigit() else None) if len(rest) > 1 else None
    rest = rest if count is None else rest[1:]
    colours = [word for word in rest[:-1] if word in BASIC_COLOURS]
    named = [word for word in rest[:-1] if word not in BASIC_COLOURS] + rest[-1:]
    if not named or len(named) > MOST_WORDS or len(articles) > 1 or count == 0 or not _is_name(named):
        return None
    name = name_of(named)
    colour = colours[0] if len(colours) == 1 else None
    if not (articles or count or colours or name.kinds):
        return None
    return ObjectSpec(name, colour, count or 1, count is not None, bool(name.kinds or colours or count), text)


def _is_name(words: Sequence[str]) -> bool:
    """Whether words can be a name with adjectives, and no more than that."""
    *before, last = words
    if last in BASIC_COLOURS and not name_of([last]).kinds:
        return False
    if any(word in STOP or word in NUMBERS or word.isdigit() for word in words):
        return False
    if name_of(words).kinds:
        return True
    return not (before and last.endswith(("ing", "ly"))) and not any(name.kinds for name in names_in(" ".join(before)))
