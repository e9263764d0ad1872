"""Reads a caption: objects with colours and counts, and their relations."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile

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
"""Names of the same kind of object stand together, between semicolons."""

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

_UNCHANGED = frozenset(["sheep", "skis", "scissors", "aircraft", "cattle", "glasses"])
"""Words that may mean one object or several."""

_GROUPS = [[name.strip() for name in group.split(",")] for group in " ".join(_KINDS.split()).split(";")]

KNOWN = {
    name: frozenset(kind for kind, group in enumerate(_GROUPS) if name in group)
    for name in chain.from_iterable(_GROUPS)
}
"""The kinds of each known name, as indices."""

_FLAT = frozenset[int]().union(
    *(KNOWN[f] for f in ("circle", "square", "triangle", "diamond", "cross", "star", "rectangle", "ring", "oval"))
)


@dataclass(frozen=True)
class Name:
    """A name of an object in a text.

    Attributes:
        words: Of the text.
        kinds: Indices of its kinds; empty where it is not known.
        plural: Whether it certainly means several objects.
    """

    words: tuple[str, ...]
    kinds: frozenset[int]
    plural: bool

    @property
    def is_flat(self) -> bool:
        """Whether it is a flat shape, such as a circle, which is never in, on or behind another one."""
        return bool(self.kinds & _FLAT)

    def means(self, other: "Name") -> bool:
        """Return whether both can mean the same object: a common kind, or the same word where one is not known."""
        if self.kinds and other.kinds:
            return bool(self.kinds & other.kinds)
        return not forms(self.words[-1]).isdisjoint(forms(other.words[-1]))


def words_of(text: str) -> list[str]:
    """List the words of a text in lower case, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:['’-][a-z0-9]+)*", text.lower())


def forms(word: str) -> frozenset[str]:
    """Return the word, and its singular if it is a plural."""
    endings = (("s", ""), ("es", ""), ("ies", "y"))
    cut = {word.removesuffix(end) + new for end, new in endings if word.endswith(end) and len(word) > len(end) + 1}
    return frozenset({word, _IRREGULAR.get(word, word), *cut})


def _known_name(words: Sequence[str]) -> Name | None:
    """The known name that all the words make together, in the singular or plural."""
    *before, last = words
    if " ".join(words) in KNOWN:
        return Name(tuple(words), KNOWN[" ".join(words)], last in _IRREGULAR)
    kinds = [KNOWN[name] for form in forms(last) if (name := " ".join([*before, form])) in KNOWN]
    return Name(tuple(words), frozenset().union(*kinds), last not in _UNCHANGED) if kinds else None


def name_of(words: Sequence[str]) -> Name:
    """Return the name that words make; known by the last two words or the last one ("a red bus")."""
    for known in (_known_name(words[-2:]), _known_name(words[-1:])):
        if known is not None:
            return known
    last = words[-1]
    plural = last in _IRREGULAR or (last.endswith("s") and last[-2:] not in ("ss", "us", "is"))
    return Name((last,), frozenset(), plural)


def names_in(text: str) -> list[Name]:
    """List all names in a text, known or not. Each word is in one of them; two words before one."""
    words, names = words_of(text), list[Name]()
    while words:
        names.append(_known_name(words[:2]) or name_of(words[:1]))
        words = words[len(names[-1].words) :]
    return names


BASIC_COLOURS = frozenset(words_of("red orange yellow green blue purple pink brown black white gray cyan"))
"""Colour words without another meaning."""

NUMBERS = {
    word: number
    for number, word in enumerate(words_of("one two three four five six seven eight nine ten eleven twelve"), start=1)
}

PREFIX = re.compile(
    r"^(?:please )?(?:(?:draw|paint|generate|create|make|show|render|sketch|imagine)(?: me| us)? )?"
    r"(?:(?:an?|the) (?:\w+ )?(?:photo|photograph|picture|image|drawing|painting|illustration|rendering|sketch|scene)"
    r" (?:of|with|showing|that shows) )?(?:there (?:is|are) )?"
)
"""What a caption may begin with before it names an object."""

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
"""A sentence that gives an object its colour: "the bench is red"."""

CONTACT = re.compile("over|on top of|atop|under|underneath|beneath")
"""Relations in which two objects may touch."""

_LOOSE = r"(?:together with|along with|as well as|with|next to|beside|near)"
CUT = re.compile(
    rf"\s*(?:\b{_LINK}(?P<relation>{'|'.join(RELATION_WORDS.values())})\b|\b{_LINK}(?P<loose>{_LOOSE})\b"
    r"|(?P<plain>,? ?\band\b|,|&))\s*"
)
"""What separates two objects: a relation, a loose connection, which says little of their positions, or a plain one."""

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


@dataclass(frozen=True)
class ObjectSpec:
    """An object that a prompt requires.

    Attributes:
        name: What it is.
        colour: Of `BASIC_COLOURS`, or None.
        count: How many; 1 is "at least one" unless it is exact.
        exact: Whether the prompt gives a number.
        certain: Whether the words can mean nothing but an object.
        words: The words of the prompt, for people.
    """

    name: Name
    colour: str | None
    count: int
    exact: bool
    certain: bool
    words: str


@dataclass(frozen=True)
class RelationSpec:
    """The required relation of one object to another.

    Attributes:
        first, second: Their indices among the objects.
        relation: Of the first to the second, one of `got_core.planning.boxes.RELATIONS`.
    """

    first: int
    second: int
    relation: str


@dataclass(frozen=True)
class Requirements:
    """What a prompt requires, as far as it was understood.

    Attributes:
        objects: In the order of the prompt.
        relations: Of these objects.
        may_touch: Pairs of objects that may touch or overlap ("a man with a hat", "a cat on top of a couch").
        complete: Whether every sentence was understood.
    """

    objects: tuple[ObjectSpec, ...] = ()
    relations: tuple[RelationSpec, ...] = ()
    may_touch: frozenset[frozenset[int]] = frozenset()
    complete: bool = False


def read_prompt(prompt: str) -> Requirements:
    """Read a caption: objects with colours and counts, and their relations. Skip sentences that are not understood.

    Example:
        >>> [(spec.words, spec.count) for spec in read_prompt("two dogs left of a red bench").objects]
        [('two dogs', 2), ('a red bench', 1)]
    """
    sentences = [
        text for part in re.split(r"[.;:!?\n]+", prompt.lower().replace("grey", "gray")) if (text := part.strip())
    ]
    required, complete = Requirements(), bool(sentences)
    for sentence in sentences:
        extended = _with_sentence(required, " ".join(sentence.split()))
        complete = complete and extended is not None
        required = extended or required
    return replace(required, complete=complete)


def _with_sentence(required: Requirements, text: str) -> Requirements | None:
    """The requirements with those of one more sentence. None where it is not understood."""
    text = COLOURED.sub(r"the \2 \1", PREFIX.sub("", text, count=1))
    cuts = list(CUT.finditer(text))
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    if cuts and not pieces[0] and cuts[0]["relation"] and len(pieces) == 3 and cuts[1]["plain"]:
        return _with_sentence(required, f"{pieces[2]} {cuts[0]['relation']} {pieces[1]}")  # "left of a dog, a cat"
    objects, relations, may_touch = list(required.objects), list(required.relations), set(required.may_touch)
    subject, owner = 0, -1
    current: int | None = None
    for index, piece in enumerate(pieces):
        cut, before = (cuts[index - 1], current) if index else (None, None)
        if not piece and index and index + 1 < len(pieces) and cuts[index]["relation"]:
            continue  # "left of a dog and above a cat": the first object stays the subject
        current = _add_object(objects, piece)
        if current is None:
            return None
        if cut is not None and before is not None and (words := cut["relation"]):
            subject = subject if not pieces[index - 1] else before
            relation = next(name for name, pattern in RELATION_WORDS.items() if re.fullmatch(pattern, words))
            relations.append(RelationSpec(subject, current, relation))
            if CONTACT.fullmatch(words):
                may_touch.add(frozenset((subject, current)))
            for related in (subject, current):
                objects[related] = replace(objects[related], certain=True)
            owner = -1
        elif cut is not None and before is not None and (cut["loose"] or owner >= 0):
            owner = before if cut["loose"] else owner  # "a knight with a sword and a shield" has both
            may_touch.add(frozenset((owner, current)))
    return Requirements(tuple(objects), tuple(relations), frozenset(may_touch))


def _add_object(objects: list[ObjectSpec], text: str) -> int | None:
    """Add the named object, unless "the" refers to an earlier one. Returns its index; None where it is not a name."""
    new = _object_spec(text)
    if new is None:
        return None
    for index, old in enumerate(objects if text.startswith("the ") else ()):
        if old.name.means(new.name) and (old.colour == new.colour or None in (old.colour, new.colour)):
            objects[index] = replace(old, colour=old.colour or new.colour, certain=old.certain or new.certain)
            return index
    objects.append(new)
    return len(objects) - 1


def _object_spec(text: str) -> ObjectSpec | None:
    words = words_of(text) if re.fullmatch(r"[a-z0-9'’ -]+", text) else []
    articles = list(takewhile(lambda word: word in ("a", "an", "the"), words))
    rest = words[len(articles) :]
    count = NUMBERS.get(rest[0], int(rest[0]) if rest[0].isdigit() else None) if len(rest) > 1 else None
    rest = rest if count is None else rest[1:]
    colours = [word for word in rest[:-1] if word in BASIC_COLOURS]
    named = [word for word in rest[:-1] if word not in BASIC_COLOURS] + rest[-1:]
    if not 1 <= len(named) <= 3 or len(articles) > 1 or count == 0 or not _is_name(named):
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
