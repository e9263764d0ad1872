"""Conversations of three turns about drawn scenes: a caption and two edits, each held out from training."""

from dataclasses import dataclass

import numpy as np

from got_core.data.scenes.compose import EditedScene
from got_core.data.scenes.dataset import FOLLOWED_UP, ScenesDataset
from got_core.data.scenes.language import Step, instruction, pick, prompt
from got_core.data.scenes.render import Scene
from got_core.data.scenes.requests import SINGLE_EDIT_TAGS, Caption, Edit, ObjectSpec, split_captions

TRIES = 20_000
"""Conversations begun before it is given up to find one."""

SAME_OBJECT = 0.5
"""Share of conversations whose last turn is about what the one before has made, and calls it "it"."""

CAPTIONS = {1: "colors", 2: "color_attr"}
"""The category of a caption by the number of its objects."""


@dataclass(frozen=True)
class SceneConversation:
    """A conversation and what is to be seen after each turn.

    Attributes:
        requests: Caption and two instructions.
        scenes: One for each turn.
        steps: What the instructions change.
        it: Whether the last one speaks of "it".
    """

    requests: tuple[str, str, str]
    scenes: tuple[Scene, Scene, Scene]
    steps: tuple[Step, Step]
    it: bool


def talk(scenes: ScenesDataset, rng: np.random.Generator) -> SceneConversation:
    """A conversation of a dataset's kind, whose turns its split asks for.

    Args:
        scenes: With all single edits among its tasks.
        rng: The source of chance.

    Raises:
        ValueError: None was found.
    """
    it = rng.random() < SAME_OBJECT
    for _ in range(TRIES):
        first = _edit(scenes, pick(rng, SINGLE_EDIT_TAGS), rng)
        made = scenes.composer.edit([first], rng)
        caption = None if made is None else _caption(scenes, made.source, rng)
        if made is None or caption is None:
            continue
        second = _edit(scenes, pick(rng, FOLLOWED_UP if it else SINGLE_EDIT_TAGS), rng)
        if it != (second.before is not None and second.before == first.after) or not _fits(second, made, scenes):
            continue
        then = scenes.composer.follow(made.target, second, rng)
        if then is not None:
            words = instruction([first], rng), instruction([second], rng, "it" if it else None)
            pictures = made.source, made.target, then.target
            return SceneConversation((prompt(caption, rng), *words), pictures, (made.steps[0], then.steps[0]), it)
    raise ValueError(f"no conversation was found in {TRIES} tries")


def _edit(scenes: ScenesDataset, op: str, rng: np.random.Generator) -> Edit:
    return pick(rng, pick(rng, scenes.edits[op].of_split(scenes.split)))


def _caption(scenes: ScenesDataset, scene: Scene, rng: np.random.Generator) -> Caption | None:
    """A request of the split for the objects of a scene, in any order; None where it has none."""
    tag = CAPTIONS.get(len(scene.objects))
    if tag is None:
        return None
    groups = split_captions(scenes.vocabulary, tag).of_split(scenes.split)
    objects = frozenset(ObjectSpec(entry.shape, entry.colour) for entry in scene.objects)
    found = [request for group in groups for request in group if frozenset(request.things) == objects]
    return pick(rng, found) if found else None


def _fits(edit: Edit, made: EditedScene, scenes: ScenesDataset) -> bool:
    """Whether an edit leaves a scene of one object of a shape and a colour, neither empty nor too full."""
    others = [e for e in made.target.objects if edit.before is None or e.shape != edit.before.shape]
    after = [] if edit.after is None else [edit.after]
    alike = any(e.shape == thing.shape or e.colour == thing.colour for e in others for thing in after)
    return not alike and 1 <= len(others) + len(after) <= scenes.vocabulary.max_objects
