"""What can be requested of rendered scenes: every request of each category, and which requests are held out."""

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
"""Fraction of the requests of each category that only the test split has."""

HOLD_OUT_SALT = b"2026-11-23 b"
"""Selects which requests are held out. Another salt makes a test split that no setting has been chosen on."""


@dataclass(frozen=True)
class ObjectSpec:
    """An object as words name it. Its colour is open where it is None."""

    shape: str
    colour: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Caption:
    """The content of a text-to-image prompt.

    Attributes:
        tag: One of `GENERATION_TAGS`.
        objects: The objects that it names, in order.
        relation: The relation of the first object to the second, or None.
        prefix: The words before the content, where they distinguish requests. None leaves them open.
    """

    tag: str
    objects: tuple[ObjectSpec, ...]
    relation: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class Edit:
    """The content of one instruction, or of one part of a multi-turn instruction.

    Attributes:
        op: One of `SINGLE_EDIT_TAGS`.
        before: The edited object as it is. None when one is added.
        after: The object as it will be. None when it is removed.
        relation: The relation of `after` to the anchor, or None.
        anchor: Another object, or None: then a move is measured from the object's own position.
    """

    op: str
    before: ObjectSpec | None
    after: ObjectSpec | None
    relation: str | None = None
    anchor: ObjectSpec | None = None

    @property
    def objects(self) -> tuple[ObjectSpec, ...]:
        """Every object that is named: before, after and anchor, where they exist."""
        return tuple(spec for spec in (self.before, self.after, self.anchor) if spec is not None)


R = TypeVar("R", Caption, Edit)


@dataclass(frozen=True)
class Vocabulary:
    """The shapes and colours of scenes, and the largest number of objects in a scene."""

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    max_objects: int


@cache
def captions(vocabulary: Vocabulary) -> dict[str, tuple[tuple[Caption, ...], ...]]:
    """List every text-to-image request by tag, in groups that are sampled equally often."""
    plain = [ObjectSpec(shape) for shape in vocabulary.shapes]
    coloured = [ObjectSpec(shape, colour) for shape, colour in product(vocabulary.shapes, vocabulary.colours)]
    counted = [ObjectSpec(spec.shape, count=n) for spec in plain for n in range(2, vocabulary.max_objects + 1)]
    pairs = list(permutations(plain, 2))
    coloured_pairs = _distinct_pairs(coloured)
    return {
        "single_object": (tuple(Caption("single_object", (s,), prefix=p) for s, p in product(plain, PREFIXES)),),
        "two_object": (tuple(Caption("two_object", pair) for pair in pairs),),
        "counting": (
            tuple(Caption("counting", (spec,)) for spec in counted),
            tuple(Caption("counting", (replace(s, colour=c),)) for s, c in product(counted, vocabulary.colours)),
        ),
        "colors": (tuple(Caption("colors", (spec,)) for spec in coloured),),
        "position": (
            tuple(Caption("position", pair, relation) for pair, relation in product(pairs, RELATIONS)),
            tuple(Caption("position", pair, relation) for pair, relation in product(coloured_pairs, RELATIONS)),
        ),
        "color_attr": (tuple(Caption("color_attr", pair) for pair in coloured_pairs),),
    }


@cache
def edits(vocabulary: Vocabulary) -> dict[str, tuple[tuple[Edit, ...], ...]]:
    """List every request for a single edit by operation, in groups that are sampled equally often."""
    specs = [ObjectSpec(shape, colour) for shape, colour in product(vocabulary.shapes, vocabulary.colours)]
    pairs = _distinct_pairs(specs)
    recoloured = [(s, ObjectSpec(s.shape, c)) for s, c in product(specs, vocabulary.colours) if c != s.colour]
    related = [(spec, relation, anchor) for (spec, anchor), relation in product(pairs, RELATIONS)]
    return {
        "add": (
            tuple(Edit("add", None, spec) for spec in specs),
            tuple(Edit("add", None, spec, relation, anchor) for spec, relation, anchor in related),
        ),
        "remove": (tuple(Edit("remove", spec, None) for spec in specs),),
        "recolour": (tuple(Edit("recolour", before, after) for before, after in recoloured),),
        "replace": (tuple(Edit("replace", before, after) for before, after in pairs),),
        "move": (
            tuple(Edit("move", spec, spec, relation) for spec, relation in product(specs, RELATIONS)),
            tuple(Edit("move", spec, spec, relation, anchor) for spec, relation, anchor in related),
        ),
    }


def _distinct_pairs(specs: Sequence[ObjectSpec]) -> list[tuple[ObjectSpec, ObjectSpec]]:
    return [(a, b) for a, b in permutations(specs, 2) if a.shape != b.shape and a.colour != b.colour]


@dataclass(frozen=True)
class Requests(Generic[R]):
    """The groups of requests of one tag. Group k of `train` and group k of `test` belong together."""

    train: tuple[tuple[R, ...], ...]
    test: tuple[tuple[R, ...], ...]

    def of_split(self, split: str) -> tuple[tuple[R, ...], ...]:
        """Return the groups of a split: those held out for "test", else those of training."""
        return self.test if split == "test" else self.train


@cache
def split_captions(vocabulary: Vocabulary, tag: str) -> Requests[Caption]:
    """Split the text-to-image requests of a tag. Each is in train or test and never in both.

    Raises:
        ValueError: Nothing can be held out, because some word would then be missing from training.
    """
    return _split(captions(vocabulary)[tag], vocabulary, tag)


@cache
def split_edits(vocabulary: Vocabulary, op: str) -> Requests[Edit]:
    """Split the requests for a single edit in the same way.

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
    """Divide a group into (train, test).

    One by one, the request is held out whose rarest words stay most frequent in training; among equals, the one of
    lowest digest. A request whose words would no longer occur in training is never held out.
    """
    wanted = max(round(HELD_OUT * len(group)), min(2, len(group) // 2))
    train = sorted(group, key=_digest)
    words: list[list[str]] = [sorted(_words(request)) for request in train]
    numbers = {word: number for number, word in enumerate(sorted(set(chain.from_iterable(words))))}
    width = max(map(len, words))
    used = np.array([[numbers[word] for word in row] + [len(numbers)] * (width - len(row)) for row in words])
    counts = np.bincount(used.ravel(), minlength=len(numbers) + 1)
    left = np.arange(len(train))
    test: set[R] = set()
    while len(test) < wanted:
        counts[-1] = len(train) * width  # no word: sorted behind all others
        rarest_first = np.sort(counts[used[left]], axis=1)
        best = np.arange(len(left))
        for column in rarest_first.T:
            frequencies = np.where(column[best] == counts[-1], 0, column[best])
            best = best[frequencies == frequencies.max()]
        if rarest_first[best[0], 0] == 1:
            break
        held = left[best[0]]
        test.add(train[held])
        counts[used[held]] -= 1
        left = np.delete(left, best[0])
    return tuple(r for r in group if r not in test), tuple(r for r in group if r in test)


def _words(request: Caption | Edit) -> set[str]:
    others = (request.relation, request.prefix) if isinstance(request, Caption) else (request.relation,)
    named = [word for spec in request.objects for word in (spec.shape, spec.colour, f"{spec.count} of them")]
    return {word for word in (*named, *others) if word is not None}


def _digest(request: Caption | Edit) -> bytes:
    """Hash a request to the same bytes in every process and version.

    What is held out follows from the hash, so classes and fields are hashed under the names that they had at first.
    """
    text = repr(request)
    for name, first in (("Caption(", "Drawing("), ("ObjectSpec(", "Thing("), (" objects=", " things=")):
        text = text.replace(name, first)
    return hashlib.blake2b(text.encode(), digest_size=8, salt=HOLD_OUT_SALT).digest()
