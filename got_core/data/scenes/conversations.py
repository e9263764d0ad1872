"""Conversations of three turns about rendered scenes: a caption and two edits, each held out from training."""

from dataclasses import dataclass

import numpy as np

from got_core.data.scenes.compose import EditedScene
from got_core.data.scenes.dataset import FOLLOWED_UP, ScenesDataset
from got_core.data.scenes.language import Step, instruction, pick, prompt
from got_core.data.scenes.render import Scene
from got_core.data.scenes.requests import SINGLE_EDIT_TAGS, Caption, Edit, ObjectSpec, split_captions

TRIES = 20_000
"""Conversations that are begun at most."""


@dataclass(frozen=True)
class SceneConversation:
    """A conversation and the scene after each turn.

    Attributes:
        requests: Caption and two instructions.
        scenes: One for each turn.
        steps: The edits of the instructions.
        says_it: Whether the last instruction edits the result of the one before, and calls it "it".
    """

    requests: tuple[str, str, str]
    scenes: tuple[Scene, Scene, Scene]
    steps: tuple[Step, Step]
    says_it: bool


def sample_conversation(scenes: ScenesDataset, rng: np.random.Generator) -> SceneConversation:
    """Sample a conversation of a dataset's kind whose requests are of the dataset's split.

    Args:
        scenes: With all single edits among its tasks.
        rng: The generator of random numbers.

    Raises:
        ValueError: None was found.
    """
    says_it = rng.random() < 0.5
    for _ in range(TRIES):
        first = _edit(scenes, pick(rng, SINGLE_EDIT_TAGS), rng)
        made = scenes.composer.edit([first], rng)
        caption = None if made is None else _caption(scenes, made.source, rng)
        if made is None or caption is None:
            continue
        second = _edit(scenes, pick(rng, FOLLOWED_UP if says_it else SINGLE_EDIT_TAGS), rng)
        same = second.before is not None and second.before == first.after
        if says_it != same or not _fits(second, made, scenes):
            continue
        then = scenes.composer.follow(made.target, second, rng)
        if then is not None:
            words = instruction([first], rng), instruction([second], rng, "it" if says_it else None)
            return SceneConversation(
                requests=(prompt(caption, rng), *words),
                scenes=(made.source, made.target, then.target),
                steps=(made.steps[0], then.steps[0]),
                says_it=says_it,
            )
    raise ValueError(f"no conversation was found in {TRIES} attempts")


def _edit(scenes: ScenesDataset, op: str, rng: np.random.Generator) -> Edit:
    return pick(rng, pick(rng, scenes.edits[op].of_split(scenes.split)))


def _caption(scenes: ScenesDataset, scene: Scene, rng: np.random.Generator) -> Caption | None:
    """Sample a request of the split for the objects of a scene, in any order. None where the split has no such."""
    tag = {1: "colors", 2: "color_attr"}.get(len(scene.objects))
    if tag is None:
        return None
    groups = split_captions(scenes.vocabulary, tag).of_split(scenes.split)
    objects = frozenset(ObjectSpec(item.shape, item.colour) for item in scene.objects)
    matching = [request for group in groups for request in group if frozenset(request.objects) == objects]
    return pick(rng, matching) if matching else None


def _fits(edit: Edit, made: EditedScene, scenes: ScenesDataset) -> bool:
    """Whether the scene after an edit has one object of a shape and a colour, and is neither empty nor too full."""
    others = [o for o in made.target.objects if edit.before is None or o.shape != edit.before.shape]
    after = [] if edit.after is None else [edit.after]
    alike = any(o.shape == spec.shape or o.colour == spec.colour for o in others for spec in after)
    return not alike and 1 <= len(others) + len(after) <= scenes.vocabulary.max_objects
