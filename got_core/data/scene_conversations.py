"""Samples beside GenEval's and the edits': turns of a conversation, and pictures to be described and kept."""

from functools import cache

import numpy as np

from got_core.data.scene import Scene
from got_core.data.scene_language import PREFIXES, instruction, listing, pick
from got_core.data.scene_requests import Edit, Thing, Vocabulary, split_edits

FOLLOW_UP = "follow_up"
"""An edit of what an earlier turn was about, which is mostly called "it"; the turns before are told."""

NEXT_TURN = "next_turn"
"""Any single edit, after a caption of what the picture shows or a request about some object of it."""

KEEP = "keep"
"""Nothing is to be changed; the chain describes the whole picture, which is what a vision tower learns most from."""

CONVERSATION_TAGS = (FOLLOW_UP, KEEP, NEXT_TURN)

FOLLOWED_UP = ("remove", "recolour", "replace", "move")
"""Operations on an object that is there already."""

NO_CHANGE = ("describe the picture", "keep the picture as it is", "change nothing")

CALLED_IT = 0.75
"""Share of follow-ups that say "it"."""

WITH_CAPTION = 0.5
"""Share of conversations that began with a picture that was drawn from a caption."""


def keep_words(rng: np.random.Generator) -> str:
    """One way to ask for no change."""
    return pick(rng, NO_CHANGE)


def follow_up_words(edit: Edit, rng: np.random.Generator) -> str:
    """One way to ask for an edit of the object that the turn before was about."""
    return instruction([edit], rng, "it" if rng.random() < CALLED_IT else None)


def requests_before(source: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> tuple[str, ...]:
    """What may have been asked before any edit of a picture: a caption of it, or what made one of its objects so."""
    if rng.random() < WITH_CAPTION:
        return (
            pick(rng, PREFIXES) + listing([source.objects[place] for place in rng.permutation(len(source.objects))]),
        )
    entry = pick(rng, source.objects)
    thing = Thing(entry.shape, entry.colour)
    return earlier_requests(Edit("recolour", thing, thing), source, vocabulary, rng)


def earlier_requests(edit: Edit, source: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> tuple[str, ...]:
    """What may have been asked before an edit: a request that made its object what it is, perhaps a caption first.

    Args:
        edit: Of `FOLLOWED_UP`.
        source: The picture as it stands.
        vocabulary: Of the scenes.
        rng: The source of chance.

    Raises:
        ValueError: The edit is of no object that is there.
    """
    if edit.before is None:
        raise ValueError(f"{edit} concerns no object that is there")
    others = [Thing(entry.shape, entry.colour) for entry in source.objects if entry.shape != edit.before.shape]
    request = pick(rng, pick(rng, _leading_to(edit.before, vocabulary, frozenset(other.shape for other in others))))
    drawn = others if request.before is None else [*others, request.before]
    caption = rng.random() < WITH_CAPTION
    order = rng.permutation(len(drawn)) if caption else ()
    first = [listing([drawn[int(place)] for place in order])] if len(order) else []
    return (*first, instruction([request], rng))


@cache
def _leading_to(thing: Thing, vocabulary: Vocabulary, others: frozenset[str]) -> tuple[tuple[Edit, ...], ...]:
    """Training's requests after which the thing is there as it is, without another object's place, by operation.

    `others` are the shapes of the other objects: what the thing was made of cannot be mistaken for one of them.
    """
    found = []
    for op in ("add", "recolour", "replace", "move"):
        requests = [request for group in split_edits(vocabulary, op).train for request in group]
        fitting = (r for r in requests if r.after == thing and r.anchor is None)
        found.append(tuple(r for r in fitting if r.before is None or r.before.shape not in others))
    return tuple(group for group in found if group)
