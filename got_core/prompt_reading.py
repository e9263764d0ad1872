"""What a caption asks for: objects with colours and counts, and how they stand to one another.

Read are captions of GenEval's kind and of drawn scenes, after "a photo of", "draw" and the like, or "there is":

    a red circle, two blue squares and a green triangle         lists; also joined by "with", "next to", "beside"
    three clocks, 3 clocks, dogs                                counts; a plural alone asks for no number
    a dog (is) to the left of a bench                           left of, right of, above, over, on top of, below, under,
                                                                beneath, underneath, in all usual wordings
    a dog left of a bench and above a cat. The bench is red.    several sentences, each read for itself

A sentence is read as a whole or not at all: any word that does not fit (another preposition, a verb, "it") makes all of
it unread. An object is `certain` if nothing but a thing can be meant: its name is known, or it has a colour, a number
or a place beside another. "a beautiful morning" is none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from got_core.nouns import Name, name_of, names_in, words_of

BASIC_COLOURS = frozenset(words_of("red orange yellow green blue purple pink brown black white gray cyan"))
"""What a colour is called where nothing else can be meant."""

NUMBERS = {
    word: number
    for number, word in enumerate(words_of("one two three four five six seven eight nine ten eleven twelve"), start=1)
}

MOST_WORDS = 3
"""Of a name, adjectives included."""

_PREFIX = re.compile(
    r"^(?:please )?(?:(?:draw|paint|generate|create|make|show|render|sketch|imagine)(?: me| us)? )?"
    r"(?:(?:an?|the) (?:\w+ )?(?:photo|photograph|picture|image|drawing|painting|illustration|rendering|sketch|scene)"
    r" (?:of|with|showing|that shows) )?(?:there (?:is|are) )?"
)
_LINK = (
    r"(?:(?:which|that) )?(?:(?:is|are|stands?|lies?|sits?) )?"
    r"(?:(?:placed|located|positioned|standing|lying|sitting) )?"
)
_RELATIONS = {
    "left of": r"(?:(?:to|on|at) the )?left(?:[ -]hand)?(?: side)? of",
    "right of": r"(?:(?:to|on|at) the )?right(?:[ -]hand)?(?: side)? of",
    "above": r"(?:above|over|on top of|atop)",
    "below": r"(?:below|under|underneath|beneath)",
}
_COLOURED = re.compile(rf"^(?:an?|the) ([\w -]+?) (?:is|are) ({'|'.join(sorted(BASIC_COLOURS))})$")
_CONTACT = re.compile("over|on top of|atop|under|underneath|beneath")
_LOOSE = r"(?:together with|along with|as well as|with|next to|beside|near)"
_CUT = re.compile(
    rf"\s*(?:\b{_LINK}(?P<relation>{'|'.join(_RELATIONS.values())})\b|\b{_LINK}(?P<loose>{_LOOSE})\b"
    r"|(?P<plain>,? ?\band\b|,|&))\s*"
)
_ARTICLES = frozenset(["a", "an", "the"])
_STOP = frozenset(
    words_of(
        """
        a an the and or but no not without in on at of by from into onto to for as than like between among around
        through across along behind inside outside front near while who which that this these those there is are was
        were be has have had it its his her their they he she you we i my your our each every both all some many
        several few other another any
        """
    )
)


@dataclass(frozen=True)
class Thing:
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
        relation: Of `got_core.box_relations.RELATIONS`: the first is so of the second.
        contact: Whether the two may well touch ("on top of").
    """

    first: int
    second: int
    relation: str
    contact: bool


@dataclass(frozen=True)
class Asked:
    """What was read of a prompt.

    Attributes:
        things: Objects, in order.
        placings: How they stand.
        loose: Pairs of things that may well touch or share a place ("a man with a hat").
        whole: Whether every sentence was read.
    """

    things: tuple[Thing, ...] = ()
    placings: tuple[Placing, ...] = ()
    loose: frozenset[frozenset[int]] = frozenset()
    whole: bool = False


def read_prompt(prompt: str) -> Asked:
    """Read a caption, as the head of this module describes; what is not understood is left out."""
    sentences = [
        text for part in re.split(r"[.;:!?\n]+", prompt.lower().replace("grey", "gray")) if (text := part.strip())
    ]
    asked, whole = Asked(), bool(sentences)
    for sentence in sentences:
        read = _sentence(asked, " ".join(sentence.split()))
        whole = whole and read is not None
        asked = read or asked
    return replace(asked, whole=whole)


def _sentence(asked: Asked, text: str) -> Asked | None:
    """What is asked with one more sentence; None where that is not understood."""
    text = _COLOURED.sub(r"the \2 \1", _PREFIX.sub("", text, count=1))
    cuts = list(_CUT.finditer(text))
    starts, ends = [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in zip(starts, ends, strict=True)]
    if cuts and not pieces[0] and cuts[0]["relation"] and len(pieces) == 3 and cuts[1]["plain"]:
        return _sentence(asked, f"{pieces[2]} {cuts[0]['relation']} {pieces[1]}")  # "left of a dog, a cat"
    found, subject = _Found(asked), 0
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
        elif cut is not None and before is not None and cut["loose"]:
            found.loose.add(frozenset((before, place)))
    return found.asked()


class _Found:
    """What was read so far."""

    def __init__(self, asked: Asked) -> None:
        self.things, self.placings, self.loose = list(asked.things), list(asked.placings), set(asked.loose)

    def asked(self) -> Asked:
        return Asked(tuple(self.things), tuple(self.placings), frozenset(self.loose))

    def place(self, first: int, second: int, words: str) -> None:
        """Note that one thing is placed by another, for which both must be objects."""
        relation = next(name for name, pattern in _RELATIONS.items() if re.fullmatch(pattern, words))
        self.placings.append(Placing(first, second, relation, bool(_CONTACT.fullmatch(words))))
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


def _thing(text: str) -> Thing | None:
    words = words_of(text) if re.fullmatch(r"[a-z0-9'’ -]+", text) else []
    articles = list(takewhile(lambda word: word in _ARTICLES, words))
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
    return Thing(name, colour, count or 1, count is not None, bool(name.kinds or colours or count), text)


def _is_name(words: Sequence[str]) -> bool:
    """Whether words can be a name with adjectives, and no more than that."""
    *before, last = words
    if last in BASIC_COLOURS and not name_of([last]).kinds:
        return False
    if any(word in _STOP or word in NUMBERS or word.isdigit() for word in words):
        return False
    if name_of(words).kinds:
        return True
    return not (before and last.endswith(("ing", "ly"))) and not any(name.kinds for name in names_in(" ".join(before)))
