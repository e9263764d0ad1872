"""Samples beside GenEval's and the edits': turns of conversations, pictures to be kept, captions of more objects."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from got_core.data.scene import Box, Scene
from got_core.data.scene_language import PREFIXES, instruction, listing, pick, prompt
from got_core.data.scene_layout import relation_holds
from got_core.data.scene_requests import Drawing, Edit, Thing, Vocabulary, split_edits

FOLLOW_UP = "follow_up"
"""An edit of what an earlier turn was about, which is mostly called "it"; the turns before are told."""

NEXT_TURN = "next_turn"
"""Any single edit, after whatever may have led to the picture: a caption, and edits of objects there or gone."""

KEEP = "keep"
"""Nothing is to be changed; the chain describes the whole picture, which is what a vision tower learns most from."""

SEVERAL = "several"
"""A caption of objects that GenEval's categories do not have, but a plan that is changed by hand may: three or more, or
two of one shape or colour."""

DISTINCT_SHAPES = 0.5
"""Share of captions of three objects or more in which no shape comes twice, as far as there are shapes."""

FURTHER_TAGS = (FOLLOW_UP, KEEP, NEXT_TURN, SEVERAL)

FOLLOWED_UP = ("remove", "recolour", "replace", "move")
"""Operations on an object that is there already."""

Standing = dict[Thing, Box | None]
"""The objects of a picture and their places in pixels, where these are known."""

NO_CHANGE = ("describe the picture", "keep the picture as it is", "change nothing")

CALLED_IT = 0.75
"""Share of follow-ups that say "it"."""

WITH_CAPTION = 0.8
"""Share of conversations that began with a picture that was drawn from a caption; the others' was brought along."""

EDITS_BEFORE = (0.5, 0.35, 0.15)
"""How often a turn comes after no edit, one, and two."""


def keep_words(rng: np.random.Generator) -> str:
    """One way to ask for no change."""
    return pick(rng, NO_CHANGE)


def several_things(vocabulary: Vocabulary, rng: np.random.Generator) -> list[Thing]:
    """Different things: three or more, or two that have their shape or their colour in common."""
    every = [Thing(shape, colour) for shape in vocabulary.shapes for colour in vocabulary.colours]
    order = [every[int(place)] for place in rng.permutation(len(every))]
    number = int(rng.integers(2, vocabulary.max_objects + 1))
    if number == 2:
        first = order[0]
        return [first, next(t for t in order[1:] if t.shape == first.shape or t.colour == first.colour)]
    if number <= len(vocabulary.shapes) and rng.random() < DISTINCT_SHAPES:
        return list({thing.shape: thing for thing in order}.values())[:number]
    return order[:number]


def follow_up_words(edit: Edit, rng: np.random.Generator) -> str:
    """One way to ask for an edit of the object that the turn before was about."""
    return instruction([edit], rng, "it" if rng.random() < CALLED_IT else None)


def requests_before(
    source: Scene, vocabulary: Vocabulary, rng: np.random.Generator, about: Thing | None = None
) -> tuple[str, ...] | None:
    """What may have been asked before an edit of a picture: most often a caption first, then edits that led to it.

    Args:
        source: The picture as it stands.
        vocabulary: Of the scenes.
        rng: The source of chance.
        about: An object that the last edit has made what it is; None leaves open what was asked for.

    Returns:
        At least one request, the first one first; None where none of training's leads to what is asked for.

    Raises:
        ValueError: `about` is no object of the picture.
    """
    there: Standing = {Thing(entry.shape, entry.colour): entry.box for entry in source.objects}
    if about is not None and about not in there:
        raise ValueError(f"{about} is no object that is there")
    edits = int(rng.choice(len(EDITS_BEFORE), p=EDITS_BEFORE))
    told: list[str] = []
    for place in range(edits if about is None else max(edits, 1)):
        request = _request_before(there, vocabulary, rng, about if place == 0 else None)
        if request is None:
            break
        told.insert(0, instruction([request], rng))
        there = _undone(there, request)
    if about is not None and not told:
        return None
    if not told or rng.random() < WITH_CAPTION:
        things = list(there)
        told.insert(0, _caption([things[place] for place in rng.permutation(len(things))], rng))
    return tuple(told)


def _caption(things: Sequence[Thing], rng: np.random.Generator) -> str:
    """In the words of GenEval's captions, which name no more than two."""
    if len(things) <= 2:
        return prompt(Drawing("color_attr", tuple(things)), rng)
    return pick(rng, PREFIXES) + listing(things)


def _request_before(
    there: Standing, vocabulary: Vocabulary, rng: np.random.Generator, about: Thing | None
) -> Edit | None:
    """An edit of training's after which the objects stand as they do; None where there is none."""
    groups: tuple[tuple[Edit, ...], ...]
    if about is None:
        about = pick(rng, list(there))
        groups = (*_leading_to(about, vocabulary, frozenset(there)), _removals(vocabulary, frozenset(there)))
    else:
        groups = _leading_to(about, vocabulary, frozenset(there))
    true = [tuple(request for request in group if _holds(request, there)) for group in groups]
    found = [group for group in true if group]
    return pick(rng, pick(rng, found)) if found else None


def _holds(request: Edit, there: Standing) -> bool:
    """Whether what a request made stands to its anchor as it says; of former places nothing is known."""
    if request.anchor is None or request.after is None or request.relation is None:
        return True
    box, anchor = there[request.after], there[request.anchor]
    return box is not None and anchor is not None and relation_holds(request.relation, box, anchor)


def _undone(there: Standing, request: Edit) -> Standing:
    """The objects before a request. Only what was recoloured or replaced is known to have stood where it stands."""
    box = there[request.after] if request.after is not None and request.op != "move" else None
    others = {thing: place for thing, place in there.items() if thing != request.after}
    return others if request.before is None else {**others, request.before: box}


@cache
def _leading_to(thing: Thing, vocabulary: Vocabulary, there: frozenset[Thing]) -> tuple[tuple[Edit, ...], ...]:
    """Training's requests after which the thing is there as it is, among the others, by operation.

    What the thing was made of cannot be mistaken for one of the others.
    """
    others = there - {thing}
    ops = ("recolour", "replace", "move", *(("add",) if others else ()))
    return tuple(
        tuple(
            request
            for group in split_edits(vocabulary, op).train
            for request in group
            if request.after == thing
            and (request.anchor is None or request.anchor in others)
            and (request.before is None or _distinct(request.before, others))
        )
        for op in ops
    )


@cache
def _removals(vocabulary: Vocabulary, there: frozenset[Thing]) -> tuple[Edit, ...]:
    """Training's requests that may have left the things."""
    requests = [request for group in split_edits(vocabulary, "remove").train for request in group]
    if len(there) >= vocabulary.max_objects:
        return ()
    return tuple(r for r in requests if r.before is not None and _distinct(r.before, there))


def _distinct(thing: Thing, others: frozenset[Thing]) -> bool:
    return all(thing.shape != other.shape and thing.colour != other.colour for other in others)
