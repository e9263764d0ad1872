"""What can be asked of drawn scenes: every request of each category, and which of them are held out for testing."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, permutations, product
from typing import Generic, TypeVar

import numpy as np

from got_core.planning.boxes import RELATIONS

GENERATION_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six categories, by its own names."""

SINGLE_EDIT_TAGS = ("add", "remove", "recolour", "replace", "move")
EDIT_TAGS = (*SINGLE_EDIT_TAGS, "multi_turn")

PREFIXES = ("", "a picture of ", "a photo of ", "an image of ", "draw ")

HELD_OUT = 0.15
"""Share of the requests of each category that only the test split asks for."""

HOLD_OUT_SALT = b"2026-11-23 b"
"""Which requests are held out follows from this; another salt makes a test that no setting has been chosen on."""

FEWEST_HELD_OUT = 2
"""Requests held out, where the category has twice as many."""


@dataclass(frozen=True)
class ObjectSpec:
    """An object as words name it; its colour is left open where it is None."""

    shape: str
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Caption:
    """What a text-to-image prompt asks for.

    Attributes:
        tag: One of `GENERATION_TAGS`.
        things: What is named, in order.
        relation: How the first stands to the second, or None.
        prefix: The words before it, where they tell requests apart; None leaves them open.
    """

    tag: str
    things: tuple[ObjectSpec, ...]
    relation: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class Edit:
    """What one instruction, or one part of a multi-turn instruction, asks for.

    Attributes:
        op: One of `SINGLE_EDIT_TAGS`.
        before: The object concerned as it is; None when one is added.
        after: The object as it will be; None when it is removed.
        relation: How `after` will stand to the anchor, or None.
        anchor: Another object, or None: a move is then measured from where the object was.
    """

    op: str
    before: ObjectSpec | None
    after: ObjectSpec | None
    relation: str | None = None
    anchor: ObjectSpec | None = None

    @property
    def things(self) -> tuple[ObjectSpec, ...]:
        """Every object named: before, after and anchor, where there are such."""
        return tuple(thing for thing in (self.before, self.after, self.anchor) if thing is not None)


R = TypeVar("R", Caption, Edit)


@dataclass(frozen=True)
class Vocabulary:
    """Shapes, colours and the most objects a scene may have."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    max_objects: int


@cache
def drawings(vocabulary: Vocabulary) -> dict[str, tuple[tuple[Caption, ...], ...]]:
    """Every text-to-image request by tag, in groups that are drawn from equally often."""
    plain = [ObjectSpec(shape) for shape in vocabulary.shapes]
    coloured = [ObjectSpec(shape, colour) for shape, colour in product(vocabulary.shapes, vocabulary.colours)]
    counted = [ObjectSpec(thing.shape, count=n) for thing in plain for n in range(2, vocabulary.max_objects + 1)]
    pairs = list(permutations(plain, 2))
    coloured_pairs = _distinct_pairs(coloured)
    return {
        "single_object": (tuple(Caption("single_object", (t,), prefix=p) for t, p in product(plain, PREFIXES)),),
        "two_object": (tuple(Caption("two_object", pair) for pair in pairs),),
        "counting": (
            tuple(Caption("counting", (thing,)) for thing in counted),
            tuple(Caption("counting", (replace(t, colour=c),)) for t, c in product(counted, vocabulary.colours)),
        ),
        "colors": (tuple(Caption("colors", (thing,)) for thing in coloured),),
        "position": (
            tuple(Caption("position", pair, relation) for pair, relation in product(pairs, RELATIONS)),
            tuple(Caption("position", pair, relation) for pair, relation in product(coloured_pairs, RELATIONS)),
        ),
        "color_attr": (tuple(Caption("color_attr", pair) for pair in coloured_pairs),),
    }


@cache
def edits(vocabulary: Vocabulary) -> dict[str, tuple[tuple[Edit, ...], ...]]:
    """Every request for a single edit by operation, in groups that are drawn from equally often."""
    things = [ObjectSpec(shape, colour) for shape, colour in product(vocabulary.shapes, vocabulary.colours)]
    pairs = _distinct_pairs(things)
    recoloured = [(t, ObjectSpec(t.shape, c)) for t, c in product(things, vocabulary.colours) if c != t.colour]
    return {
        "add": (
            tuple(Edit("add", None, thing) for thing in things),
            tuple(
                Edit("add", None, thing, relation, anchor) for (thing, anchor), relation in product(pairs, RELATIONS)
            ),
        ),
        "remove": (tuple(Edit("remove", thing, None) for thing in things),),
        "recolour": (tuple(Edit("recolour", before, after) for before, after in recoloured),),
        "replace": (tuple(Edit("replace", before, after) for before, after in pairs),),
        "move": (
            tuple(Edit("move", thing, thing, relation) for thing, relation in product(things, RELATIONS)),
            tuple(
                Edit("move", thing, thing, relation, anchor) for (thing, anchor), relation in product(pairs, RELATIONS)
            ),
        ),
    }


def _distinct_pairs(things: Sequence[ObjectSpec]) -> list[tuple[ObjectSpec, ObjectSpec]]:
    return [(a, b) for a, b in permutations(things, 2) if a.shape != b.shape and a.colour != b.colour]


@dataclass(frozen=True)
class Requests(Generic[R]):
    """The groups of requests of one tag; group k of `train` and of `test` belong together."""

    train: tuple[tuple[R, ...], ...]
    test: tuple[tuple[R, ...], ...]

    def of_split(self, split: str) -> tuple[tuple[R, ...], ...]:
        """The groups that a split asks for: those held out for "test", else those of training."""
        return self.test if split == "test" else self.train


@cache
def split_captions(vocabulary: Vocabulary, tag: str) -> Requests[Caption]:
    """The text-to-image requests of a tag, each in train or test and never in both.

    Raises:
        ValueError: Nothing can be held out, because some word would then be missing from training.
    """
    return _split(drawings(vocabulary)[tag], vocabulary, tag)


@cache
def split_edits(vocabulary: Vocabulary, op: str) -> Requests[Edit]:
    """The requests for a single edit, split likewise.

    Raises:
        ValueError: As `split_captions`.
    """
    return _split(edits(vocabulary)[op], vocabulary, op)


def _split(groups: Sequence[Sequence[R]], vocabulary: Vocabulary, tag: str) -> Requests[R]:
    parts = [_hold_out(group) for group in groups]
    if not all(test for _, test in parts):
        raise ValueError(
            f"task {tag!r} has too few combinations with {len(vocabulary.shapes)} shapes, {len(vocabulary.colours)} "
            f"colours and max_objects={vocabulary.max_objects} to hold one out for the test: allow more, or leave "
            f"{tag!r} out of tasks"
        )
    return Requests(train=tuple(train for train, _ in parts), test=tuple(test for _, test in parts))


def _hold_out(group: Sequence[R]) -> tuple[tuple[R, ...], tuple[R, ...]]:
    """(train, test): held out one by one is the request whose rarest words stay most frequent in training.

    Among equals it is the one of lowest digest; a request whose words would no longer occur in training never is.
    """
    wanted = max(round(HELD_OUT * len(group)), min(FEWEST_HELD_OUT, len(group) // 2))
    train = sorted(group, key=_digest)
    words: list[list[str]] = [sorted(_words(request)) for request in train]
    names = {word: place for place, word in enumerate(sorted(set(chain.from_iterable(words))))}
    width = max(map(len, words))
    rows = [[names[word] for word in found] for found in words]
    used = np.array([row + [len(names)] * (width - len(row)) for row in rows])
    left = np.bincount(used.ravel(), minlength=len(names) + 1)
    places = np.arange(len(train))
    test: set[R] = set()
    while len(test) < wanted:
        left[-1] = len(train) * width  # no word: sorted behind all others
        rarest_first = np.sort(left[used[places]], axis=1)
        best = np.arange(len(places))
        for column in rarest_first.T:
            counts = np.where(column[best] == left[-1], 0, column[best])
            best = best[counts == counts.max()]
        if rarest_first[best[0], 0] == 1:
            break
        held = places[best[0]]
        test.add(train[held])
        left[used[held]] -= 1
        places = np.delete(places, best[0])
    return tuple(r for r in group if r not in test), tuple(r for r in group if r in test)


def _words(request: Caption | Edit) -> set[str]:
    others = (request.relation, request.prefix) if isinstance(request, Caption) else (request.relation,)
    named = [word for t in request.things for word in (t.shape, t.colour, f"{t.count} of them")]
    return {word for word in (*named, *others) if word is not None}


def _digest(request: Caption | Edit) -> bytes:
    """Hash a request to the same bytes in every process and version.

    What is held out follows from the hash, so classes are hashed under the names that they had at first.
    """
    text = repr(request).replace("Caption(", "Drawing(").replace("ObjectSpec(", "Thing(")
    return hashlib.blake2b(text.encode(), digest_size=8, salt=HOLD_OUT_SALT).digest()
