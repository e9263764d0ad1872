"""Does only what was changed change? True plans and changed ones, drawn from one noise and looked at by a detector."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from got_core.evaluation.case_drawing import CaseDrawing
from got_core.evaluation.case_suites import CaseSuite
from got_core.evaluation.cases import Case, Pictures, Record
from got_core.evaluation.detection import Detection, box_iou
from got_core.evaluation.interaction_cases import AFTER, BEFORE, KEPT, interaction_cases
from got_core.evaluation.layout import match_boxes
from got_core.evaluation.results_file import Better
from got_core.evaluation.scene_detector import SceneDetector
from got_core.evaluation.scene_edits import IN_PLACE
from got_core.pipeline_output import GoTPipelineOutput
from got_core.plans import Plan

HIT = 0.5
"""A changed object is where it was planned when its box and the planned one overlap so well (IoU)."""

STAYED = 0.9
"""A region has stayed when it overlaps its former self at least so well: the goal."""

SQUARE = (1, 1)
"""Height and width of drawn scenes, in any unit."""

FIGURES: dict[str, Better] = {
    "as_asked": "higher",
    "iou": "higher",
    "iou_90": "higher",
    "as_asked_kept": "higher",
    "iou_kept": "higher",
    "iou_90_kept": "higher",
    "seen_before": "higher",
}
"""Whether the change came out as asked; the mean IoU of what was not changed with its former self, and the share of it
that reaches `STAYED`; the same with the rest held still; and the share of what was not changed that has a former self,
for it was drawn where it was planned."""


class InteractionDrawing(CaseDrawing):
    """Draws the true plan of each scene, the changed ones from the same noise, and these with the rest held still."""

    def draw_groups(self, groups: Sequence[Sequence[Case]]) -> None:
        """Draw each scene's plans as one batch."""
        for cases in groups:
            chains = [cases[0].details["chains"][0], *(case.details["chains"][1] for case in cases)]
            prompts = [cases[0].prompt, *(case.details["prompt"] for case in cases)]
            asked = zip(prompts, chains, strict=True)
            before, *after = (Plan(prompt, chain, self.manner.size) for prompt, chain in asked)
            seeds = [cases[0].seed] * len(chains)
            names = [cases[0].pictures[BEFORE], *(case.pictures[AFTER] for case in cases)]
            first, *_ = self.draw([before, *after], seeds, names)
            former = GoTPipelineOutput(torch.stack([first] * len(after)), (before,) * len(after), None)
            self.draw(after, seeds[1:], [case.pictures[KEPT] for case in cases], former)
            self.finish(cases[0].group, {"chains": dict(zip(names, chains, strict=True))})


def measure(case: Case, pictures: Pictures, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """All figures of a change."""
    before, after, kept = (detector(pictures[name][None])[0] for name in (BEFORE, AFTER, KEPT))
    stay = case.details["stay"]
    found = {"seen_before": len(_selves(stay, before)) / len(stay)} if stay else {}
    for end, seen in {"": after, "_kept": kept}.items():
        found[f"as_asked{end}"] = float(as_asked(case.details, seen))
        overlaps = stayed(_selves(stay, before), seen)
        if overlaps:
            found[f"iou{end}"] = sum(overlaps) / len(overlaps)
            found[f"iou_90{end}"] = sum(iou >= STAYED for iou in overlaps) / len(overlaps)
    return found


def as_asked(details: Mapping[str, Any], found: Sequence[Detection]) -> bool:
    """Whether the object is there in its shape and colour where it was planned, and none where it shall be gone.

    One that was resized must overlap its new box better than its former one.
    """
    result, gone, resized = details["result"], details["gone"], details["resized"]
    results = [] if result is None else [entry for entry in found if _is(entry, result)]
    if resized is not None:
        former, new = resized["box"], result["box"]
        results = [entry for entry in results if box_iou(entry.box, new) > box_iou(entry.box, former)]
    if result is not None and not results:
        return False
    others = [entry for entry in found if entry not in results]
    return gone is None or not any(box_iou(entry.box, gone["box"]) >= IN_PLACE for entry in others)


def stayed(selves: Sequence[Detection], after: Sequence[Detection]) -> list[float]:
    """The IoU of each object with what it has become; 0 where that has another shape or colour."""
    overlaps = [0.0] * len(selves)
    for pair in match_boxes([entry.box for entry in selves], [entry.box for entry in after], SQUARE):
        one, other = selves[pair.planned], after[pair.found]
        overlaps[pair.planned] = pair.iou if (one.label, one.colour) == (other.label, other.colour) else 0.0
    return overlaps


def _selves(regions: Sequence[Mapping[str, Any]], found: Sequence[Detection]) -> list[Detection]:
    """The objects that were drawn where regions plan one, whatever they look like."""
    matched = match_boxes([region["box"] for region in regions], [entry.box for entry in found], SQUARE)
    return [found[pair.found] for pair in matched if pair.iou >= HIT]


def _is(entry: Detection, wanted: Mapping[str, Any]) -> bool:
    alike = (entry.label, entry.colour) == (wanted["shape"], wanted["color"])
    return alike and box_iou(entry.box, wanted["box"]) >= HIT


INTERACTION = CaseSuite(
    name="interaction",
    figures=FIGURES,
    shares=frozenset({"as_asked", "iou_90", "as_asked_kept", "iou_90_kept", "seen_before"}),
    cases=interaction_cases,
    drawing=InteractionDrawing,
    measure=measure,
)
