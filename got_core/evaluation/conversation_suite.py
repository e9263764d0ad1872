"""Conversations of three turns: a caption, then two edits, each of the picture that was drawn in the turn before."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from PIL import Image

from got_core.data.scene_meta import edit_meta
from got_core.data.scene_requests import SINGLE_EDIT_TAGS
from got_core.data.scene_talks import talk
from got_core.data.scenes import ScenesDataset
from got_core.evaluation.case_drawing import CaseDrawing
from got_core.evaluation.case_suites import CaseSuite
from got_core.evaluation.cases import Case, Pictures, Record
from got_core.evaluation.conversation_rules import composed, turn_succeeds
from got_core.evaluation.drawing_folder import image_seed
from got_core.evaluation.results_file import Better
from got_core.evaluation.scene_detector import SceneDetector
from got_core.pictures import to_picture
from got_core.plans import Plan

TURNS = ("1", "2", "3")
"""What a case's pictures are called."""

FIGURES: dict[str, Better] = {
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
        made = talk(scenes, np.random.default_rng([seed, len(scenes.split), place]))
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
            Case(name, name, IT if made.it else ANOTHER, prompt, image_seed(seed, place, 0), pictures, details)
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
            pictures = [to_picture(image * 2 - 1) for image in drawn]
            for own, plan in zip(chains, plans, strict=True):
                own.append(plan.chain)
        for case, own in zip(cases, chains, strict=True):
            self.finish(case.group, {"chains": own})

    def _turn(self, case: Case, picture: Image.Image | None, turn: int) -> Plan:
        """What is asked in a turn, of the picture as it stands and with what was asked before."""
        requests = case.details["requests"]
        plan = self.pipeline.given_plan("", requests[turn], picture)
        return replace(plan, earlier=tuple(requests[:turn]))


def measure(case: Case, pictures: Pictures, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """All figures of a conversation."""
    turns = case.details["turns"]
    images = [pictures[name] for name in TURNS]
    done = [turn_succeeds(turns[0], None, images[0], detector)]
    done += [turn_succeeds(turns[k], images[k - 1], images[k], detector) for k in (1, 2)]
    found = {f"turn_{name}": float(success) for name, success in zip(TURNS, done, strict=True)}
    return {"success": float(composed(turns[1:], images[-1], detector)), "all_turns": float(all(done)), **found}


CONVERSATION = CaseSuite(
    name="conversation",
    figures=FIGURES,
    shares=frozenset(FIGURES),
    cases=conversation_cases,
    drawing=ConversationDrawing,
    measure=measure,
)
