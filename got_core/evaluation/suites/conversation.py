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
from got_core.data.scenes.conversations import sample_conversation
from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import SINGLE_EDIT_TAGS
from got_core.data.visualization import to_pil
from got_core.detection.base import Detection
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.metrics.scenes import edit_succeeds, view_scenes
from got_core.evaluation.results import Better
from got_core.evaluation.suites.cases import Case, CaseDrawing, CaseSuite, OutputImages, Record
from got_core.evaluation.suites.generation import image_seed
from got_core.planning.boxes import AnyBox, box_relations
from got_core.planning.plan import Plan

Pixels = Float[Tensor, "3 H W"]


def turn_succeeds(meta: Mapping[str, Any], before: Pixels | None, after: Pixels, detector: SceneDetector) -> bool:
    """Whether a turn did what it asked for, whatever the others did.

    A caption: all its objects are there and no others. An edit: the rules of `scene_edits`, held against the picture it
    edits as that was drawn, not as it was meant; where its object or the one it is placed by was not drawn there, the
    turn has failed.

    Args:
        meta: Of the turn, as `got_core.data.scenes.compose` makes it.
        before: The picture that was edited; None for a caption.
        after: The picture after the turn.
        detector: Finds the objects.
    """
    if before is None:
        return _contents(detector(after[None])[0]) == _meant(meta["objects"])
    edits = [_as_drawn(edit, meta["source_objects"], detector(before[None])[0]) for edit in meta["edits"]]
    if any(edit is None for edit in edits):
        return False
    (view,) = view_scenes(detector, after[None], [""], [{**meta, "edits": edits}])
    return edit_succeeds(view)


def composed(turns: Sequence[Mapping[str, Any]], last: Pixels, detector: SceneDetector) -> bool:
    """Whether a picture is the scene that the edits were to make: its objects, no others, in the relations that last.

    A relation lasts when neither of its two objects was moved or removed by a later turn; that of a move to an
    object's own former place is not looked at here.

    Args:
        turns: Metadata of the edits, in order.
        last: The picture after all of them.
        detector: Finds the objects.
    """
    found, target = detector(last[None])[0], turns[-1]["objects"]
    if _contents(found) != _meant(target):
        return False
    at = {tuple(entry["box"]): _one(found, entry) for entry in target}
    size = last.shape[-2], last.shape[-1]
    for meta in turns:
        for edit in meta["edits"]:
            pair = _lasting(edit, at)
            if pair is not None and edit["position"][0] not in box_relations(*pair, size):
                return False
    return True


def _lasting(edit: Mapping[str, Any], at: Mapping[tuple[int, ...], AnyBox | None]) -> tuple[AnyBox, AnyBox] | None:
    """The drawn boxes of the objects that stand in an edit's relation; None where it has none that lasts."""
    if edit["position"] is None or edit["result"] is None:
        return None
    first, second = at.get(tuple(edit["result"]["box"])), at.get(tuple(edit["position"][1]))
    return None if first is None or second is None else (first, second)


def _as_drawn(
    edit: Mapping[str, Any], source: Sequence[Mapping[str, Any]], found: Sequence[Detection]
) -> dict[str, Any] | None:
    """An edit with the boxes of its object and anchor as they were drawn; None where one was not."""
    entry, position = edit["object"], edit["position"]
    if entry is not None:
        box = _one(found, entry)
        if box is None:
            return None
        entry = {**entry, "box": list(box)}
    if position is not None:
        relation, place = position
        anchor = _one(found, next(other for other in source if list(other["box"]) == list(place)))
        if anchor is None:
            return None
        position = [relation, list(anchor)]
    return {**edit, "object": entry, "position": position}


def _one(found: Sequence[Detection], wanted: Mapping[str, Any]) -> AnyBox | None:
    """The box of the object of a shape and colour."""
    return next((e.box for e in found if (e.label, e.colour) == (wanted["shape"], wanted["color"])), None)


def _contents(found: Sequence[Detection]) -> Counter[tuple[str, str | None]]:
    return Counter((entry.label, entry.colour) for entry in found)


def _meant(objects: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str | None]]:
    return Counter((entry["shape"], entry["color"]) for entry in objects)


TURNS = ("1", "2", "3")
"""What a case's pictures are called."""

METRICS: dict[str, Better] = {
    "success": "higher",
    "all_turns": "higher",
    "turn_1": "higher",
    "turn_2": "higher",
    "turn_3": "higher",
}
"""Whether the last picture is the composed scene; whether every turn did what it asked for; and which did."""

IT, ANOTHER = "it", "another object"
"""What the last turn is about: what the one before has made, or something else."""


def conversation_cases(number: int, size: int, seed: int, split: str) -> list[Case]:
    """So many conversations; the same for a seed."""
    scenes = ScenesDataset(size, 1, seed, split, dict.fromkeys(SINGLE_EDIT_TAGS, 1.0))
    found = []
    for place in range(number):
        made = sample_conversation(scenes, np.random.default_rng([seed, len(scenes.split), place]))
        name = f"{place:05d}"
        metas = [
            edit_meta(step.edit.op, before, after, (step,))
            for (before, after), step in zip(pairwise(made.scenes), made.steps, strict=True)
        ]
        caption = {"kind": "t2i", "objects": metas[0]["source_objects"]}
        details = {"requests": made.requests, "turns": [caption, *metas]}
        pictures = {turn: f"{name}-{turn}" for turn in TURNS}
        prompt = "; ".join(made.requests)
        found.append(
            Case(name, name, IT if made.says_it else ANOTHER, prompt, image_seed(seed, place, 0), pictures, details)
        )
    return found


class ConversationDrawing(CaseDrawing):
    """Draws conversations side by side, turn by turn."""

    def draw_groups(self, groups: Sequence[Sequence[Case]]) -> None:
        """Plan and draw each turn of all conversations as one batch."""
        cases = [case for (case,) in groups]
        chains: list[list[str]] = [[] for _ in cases]
        pictures: list[Image.Image] | None = None
        for turn, name in enumerate(TURNS):
            before: Sequence[Image.Image | None] = pictures or [None] * len(cases)
            plans = self.pipeline.write([self._turn(*each, turn) for each in zip(cases, before, strict=True)])
            seeds = [case.seed + turn for case in cases]
            keep = pictures if self.manner.keep_rest else None
            drawn = self.draw(plans, seeds, [case.pictures[name] for case in cases], keep)
            pictures = [to_pil(image * 2 - 1) for image in drawn]
            for own, plan in zip(chains, plans, strict=True):
                own.append(plan.chain)
        for case, own in zip(cases, chains, strict=True):
            self.finish(case.group, {"chains": own})

    def _turn(self, case: Case, picture: Image.Image | None, turn: int) -> Plan:
        """What is asked in a turn, of the picture as it stands and with what was asked before."""
        requests = case.details["requests"]
        plan = self.pipeline.given_plan("", requests[turn], picture)
        return replace(plan, earlier=tuple(requests[:turn]))


def measure(case: Case, pictures: OutputImages, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """All figures of a conversation."""
    turns = case.details["turns"]
    images = [pictures[name] for name in TURNS]
    done = [turn_succeeds(turns[0], None, images[0], detector)]
    done += [turn_succeeds(turns[k], images[k - 1], images[k], detector) for k in (1, 2)]
    found = {f"turn_{name}": float(success) for name, success in zip(TURNS, done, strict=True)}
    return {"success": float(composed(turns[1:], images[-1], detector)), "all_turns": float(all(done)), **found}


CONVERSATION = CaseSuite(
    name="conversation",
    figures=METRICS,
    shares=frozenset(METRICS),
    cases=conversation_cases,
    drawing=ConversationDrawing,
    measure=measure,
)
