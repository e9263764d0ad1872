"""Conversations of three turns: a caption, then two edits, each of the image of the turn before."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from got_core.data.scenes.compose import edit_meta
from got_core.data.scenes.dataset import ScenesDataset, sample_conversation
from got_core.data.scenes.requests import SINGLE_EDIT_TAGS
from got_core.detection.base import Detection
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.answers import BLANK, NOISE, TRUE, UNCHANGED, Answer
from got_core.evaluation.generation import image_seed
from got_core.evaluation.metrics.scenes import edit_succeeds, view_scenes
from got_core.evaluation.results import Better
from got_core.evaluation.suites.cases import Case, CaseGeneration, CaseSuite, Images, Record
from got_core.planning.boxes import AnyBox, box_relations
from got_core.planning.plan import Plan
from got_core.types import to_pil

Pixels = Float[Tensor, "3 H W"]


def turn_succeeds(meta: Mapping[str, Any], before: Pixels | None, after: Pixels, detector: SceneDetector) -> bool:
    """Return whether a turn did what it should, whatever the others did.

    A caption: all its objects are there and no others. An edit: the rules of `edit_succeeds`, compared with the image
    that it edits as that was generated, not as it was intended: all objects that were generated there must stay, but
    its own. If its object, or the one that it is placed relative to, is not in that image, the turn has failed.

    Args:
        meta: Of the turn, as `got_core.data.scenes.compose` makes it.
        before: The edited image; None for a caption.
        after: The image after the turn.
        detector: Detects the objects.
    """
    if before is None:
        return _contents(detector(after[None])[0]) == _intended(meta["objects"])
    generated = detector(before[None])[0]
    edits = [_as_generated(edit, meta["source_objects"], generated) for edit in meta["edits"]]
    if any(edit is None for edit in edits):
        return False
    objects = [{"shape": entry.label, "color": entry.colour, "box": list(entry.box)} for entry in generated]
    seen = {**meta, "edits": edits, "source_objects": objects}
    (view,) = view_scenes(detector, after[None], [""], [seen], before[None])
    return edit_succeeds(view)


def composed(turns: Sequence[Mapping[str, Any]], last: Pixels, detector: SceneDetector) -> bool:
    """Return whether an image is the scene that all edits lead to: its objects, no others, in the relations that last.

    A relation lasts if neither of its two objects was moved or removed by a later turn; that of a move relative to an
    object's own previous box is not tested here.

    Args:
        turns: Metadata of the edits, in order.
        last: The image after all of them.
        detector: Detects the objects.
    """
    detected, target = detector(last[None])[0], turns[-1]["objects"]
    if _contents(detected) != _intended(target):
        return False
    at = {tuple(entry["box"]): _one(detected, entry) for entry in target}
    size = last.shape[-2], last.shape[-1]
    for meta in turns:
        for edit in meta["edits"]:
            pair = _lasting(edit, at)
            if pair is not None and edit["position"][0] not in box_relations(*pair, size):
                return False
    return True


def _lasting(edit: Mapping[str, Any], at: Mapping[tuple[int, ...], AnyBox | None]) -> tuple[AnyBox, AnyBox] | None:
    """The detected boxes of the objects of an edit's relation; None where it has none that lasts."""
    if edit["position"] is None or edit["result"] is None:
        return None
    first, second = at.get(tuple(edit["result"]["box"])), at.get(tuple(edit["position"][1]))
    return None if first is None or second is None else (first, second)


def _as_generated(
    edit: Mapping[str, Any], source: Sequence[Mapping[str, Any]], detected: Sequence[Detection]
) -> dict[str, Any] | None:
    """An edit with the boxes of its object and anchor as they were generated; None where one was not."""
    entry, position = edit["object"], edit["position"]
    if entry is not None:
        box = _one(detected, entry)
        if box is None:
            return None
        entry = {**entry, "box": list(box)}
    if position is not None:
        relation, planned = position
        anchor = _one(detected, next(other for other in source if list(other["box"]) == list(planned)))
        if anchor is None:
            return None
        position = [relation, list(anchor)]
    return {**edit, "object": entry, "position": position}


def _one(detected: Sequence[Detection], wanted: Mapping[str, Any]) -> AnyBox | None:
    """The box of the object of a shape and colour."""
    return next((e.box for e in detected if (e.label, e.colour) == (wanted["shape"], wanted["color"])), None)


def _contents(detected: Sequence[Detection]) -> Counter[tuple[str, str | None]]:
    return Counter((entry.label, entry.colour) for entry in detected)


def _intended(objects: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str | None]]:
    return Counter((entry["shape"], entry["color"]) for entry in objects)


TURNS = ("1", "2", "3")
"""Names of a case's images."""

METRICS: dict[str, Better] = {
    "success": "higher",
    "all_turns": "higher",
    "turn_1": "higher",
    "turn_2": "higher",
    "turn_3": "higher",
}
"""Whether the last image is the scene that all edits lead to; whether every turn did what it should; and which did."""

IT, ANOTHER = "it", "another object"
"""What the last turn edits: the object that the turn before has made, or another one."""


def conversation_cases(number: int, size: int, seed: int, split: str) -> list[Case]:
    """Return `number` conversations; the same for a seed."""
    scenes = ScenesDataset(size, 1, seed, split, dict.fromkeys(SINGLE_EDIT_TAGS, 1.0))
    cases = []
    for index in range(number):
        made = sample_conversation(scenes, np.random.default_rng([seed, len(scenes.split), index]))
        name = f"{index:05d}"
        metas = [
            edit_meta(step.edit.op, before, after, (step,))
            for (before, after), step in zip(pairwise(made.scenes), made.steps, strict=True)
        ]
        caption = {"kind": "t2i", "objects": metas[0]["source_objects"]}
        details = {"requests": made.requests, "turns": [caption, *metas]}
        images = {turn: f"{name}-{turn}" for turn in TURNS}
        category, prompt = IT if made.says_it else ANOTHER, "; ".join(made.requests)
        cases.append(Case(name, name, category, prompt, image_seed(seed, index), images, details))
    return cases


class ConversationGeneration(CaseGeneration):
    """Generates conversations side by side, turn by turn."""

    def generate(self, units: Sequence[Sequence[Case]]) -> None:
        """Plan and generate each turn of all conversations as one batch."""
        cases = [case for (case,) in units]
        chains: list[list[str]] = [[] for _ in cases]
        images: list[Image.Image] | None = None
        for turn, name in enumerate(TURNS):
            before: Sequence[Image.Image | None] = images or [None] * len(cases)
            plans = self.pipeline.write([self._turn(*each, turn) for each in zip(cases, before, strict=True)])
            seeds = [case.seed + turn for case in cases]
            keep = images if self.options.keep_rest else None
            generated = self.write(plans, seeds, [case.images[name] for case in cases], keep)
            images = [to_pil(image * 2 - 1) for image in generated]
            for own, plan in zip(chains, plans, strict=True):
                own.append(plan.chain)
        for case, own in zip(cases, chains, strict=True):
            self.finish(case.group, {"chains": own})

    def _turn(self, case: Case, image: Image.Image | None, turn: int) -> Plan:
        """The request of a turn with the current image and the earlier requests."""
        requests = case.details["requests"]
        plan = self.pipeline.given_plan("", requests[turn], image)
        return replace(plan, earlier=tuple(requests[:turn]))


def measure(case: Case, images: Images, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """Return all scores of a conversation."""
    turns = case.details["turns"]
    shown = [images[name] for name in TURNS]
    done = [turn_succeeds(turns[0], None, shown[0], detector)]
    done += [turn_succeeds(turns[k], shown[k - 1], shown[k], detector) for k in (1, 2)]
    scores = {f"turn_{name}": float(success) for name, success in zip(TURNS, done, strict=True)}
    return {"success": float(composed(turns[1:], shown[-1], detector)), "all_turns": float(all(done)), **scores}


def answers(case: Case) -> dict[str, dict[str, Answer]]:
    """Return answers to a conversation: the true first image unchanged, blank images, noise, and the true images."""
    true = [Answer(tuple(meta["objects"])) for meta in case.details["turns"]]
    noise = [Answer(noise=turn) for turn in range(len(TURNS))]
    images = {UNCHANGED: [true[0]] * len(TURNS), BLANK: [Answer()] * len(TURNS), NOISE: noise, TRUE: true}
    return {name: dict(zip(TURNS, own, strict=True)) for name, own in images.items()}


CONVERSATION = CaseSuite(
    name="conversation",
    metrics=METRICS,
    fractions=frozenset(METRICS),
    cases=conversation_cases,
    generation=ConversationGeneration,
    measure=measure,
    answers=answers,
)

evaluate = CONVERSATION.evaluate
