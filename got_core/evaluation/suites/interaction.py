"""Does a change of a plan change nothing else? True plans and changed ones, generated from the same noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.language import pick, with_article
from got_core.data.scenes.render import PixelBox, Scene, SceneObject, relative_box
from got_core.detection.base import Detection
from got_core.detection.scenes import SceneDetector
from got_core.evaluation.answers import BLANK, NOISE, TRUE, UNCHANGED, Answer, chain_objects
from got_core.evaluation.generation import image_seed
from got_core.evaluation.metrics.boxes import match_boxes
from got_core.evaluation.metrics.scenes import IN_PLACE
from got_core.evaluation.results import Better
from got_core.evaluation.suites.cases import Case, CaseGeneration, CaseSuite, Images, Record
from got_core.pipelines.calls import GoTPipelineOutput
from got_core.planning.boxes import box_iou
from got_core.planning.plan import Plan

SEVERAL = ("two_object", "counting", "position", "color_attr")
"""Categories of captions with several objects, so that some stay unchanged."""

RESIZED_BY = 2
"""Pixels by which a resized side differs at least."""

BEFORE, AFTER, KEPT = "before", "after", "kept"
"""Images of a case: from the true plan, from the changed one, and from that with the rest kept."""

Changed = tuple[Plan, SceneObject | None]
"""The plan after a change, and the changed object as it will be; None where it is removed."""


class SceneChanges:
    """A scene, its true plan, and the changes that can be made to one of its objects.

    Args:
        scenes: The dataset.
        scene, plan: Of one sample.
        rng: Chooses the object and its change.
    """

    def __init__(self, scenes: ScenesDataset, scene: Scene, plan: Plan, rng: np.random.Generator) -> None:
        self.layout, self.vocabulary = scenes.composer.layout, scenes.vocabulary
        self.scene, self.plan, self.rng = scene, plan, rng
        self.index = int(rng.integers(len(scene.objects)))
        self.object = scene.objects[self.index]
        self.others = [entry for index, entry in enumerate(scene.objects) if index != self.index]

    def move(self) -> Changed | None:
        """To where there is room."""
        side = self.object.box[2] - self.object.box[0]
        box = self.layout.place(self.rng, [entry.box for entry in self.scene.objects], side=side)
        return None if box is None else self._moved(box)

    def resize(self) -> Changed | None:
        """About the same middle, as far as there is room."""
        x1, y1, x2, y2 = self.object.box
        sides = [s for s in range(self.layout.smallest, self.layout.largest + 1) if abs(s - (x2 - x1)) >= RESIZED_BY]
        for side in self.rng.permutation(sides).tolist():
            left, top = (min(max((a + b - side) // 2, 0), self.scene.size - side) for a, b in ((x1, x2), (y1, y2)))
            if self.layout.free(side, [entry.box for entry in self.others])[top, left]:
                return self._moved((left, top, left + side, top + side))
        return None

    def replace(self) -> Changed | None:
        """By another shape of the same colour."""
        shapes = [shape for shape in self.vocabulary.shapes if shape not in {e.shape for e in self.scene.objects}]
        shapes = shapes or [shape for shape in self.vocabulary.shapes if shape != self.object.shape]
        after = SceneObject(pick(self.rng, shapes), self.object.colour, self.object.box)
        return self.plan.replace(self.index, _phrase(after)), after

    def recolour(self) -> Changed | None:
        """In a colour that no other object has."""
        after = SceneObject(self.object.shape, self._new_colour(), self.object.box)
        return self.plan.recolour(self.index, after.colour), after

    def add(self) -> Changed | None:
        """One more object of a colour that no other has, where there is room."""
        box = self.layout.place(self.rng, [entry.box for entry in self.scene.objects])
        if box is None:
            return None
        after = SceneObject(pick(self.rng, self.vocabulary.shapes), self._new_colour(), box)
        return self.plan.add(_phrase(after), relative_box(box, self.scene.size), after.colour), after

    def remove(self) -> Changed | None:
        """The object."""
        return self.plan.remove(self.index), None

    def _moved(self, box: PixelBox) -> Changed:
        after = SceneObject(self.object.shape, self.object.colour, box)
        return self.plan.resize(self.index, relative_box(box, self.scene.size)), after

    def _new_colour(self) -> str:
        used = {entry.colour for entry in self.scene.objects}
        return pick(self.rng, [colour for colour in self.vocabulary.colours if colour not in used])


CHANGES: dict[str, Callable[[SceneChanges], Changed | None]] = {
    "replace": SceneChanges.replace,
    "move": SceneChanges.move,
    "resize": SceneChanges.resize,
    "recolour": SceneChanges.recolour,
    "add": SceneChanges.add,
    "remove": SceneChanges.remove,
}
"""By name, which is the category of its cases."""


def interaction_cases(number: int, size: int, seed: int, split: str) -> list[Case]:
    """Return each of `CHANGES` of `number` scenes, without those that find no room; the same for a seed."""
    scenes = ScenesDataset(size, number, seed, split, dict.fromkeys(SEVERAL, 1.0), balanced=True)
    cases = []
    for index in range(number):
        sketch, group = scenes.sketch(index), f"{index:05d}"
        plan = Plan(sketch.prompt, sketch.chain, (size, size))
        for kind, (name, change) in enumerate(CHANGES.items()):
            changes = SceneChanges(scenes, sketch.target, plan, np.random.default_rng([seed, index, kind]))
            changed = change(changes)
            if changed is None:
                continue
            images = {BEFORE: f"{group}-before", AFTER: f"{group}-{name}", KEPT: f"{group}-{name}-kept"}
            details = _details(name, changes, changed)
            noise = image_seed(seed, index)
            cases.append(Case(f"{group}-{name}", group, name, sketch.prompt, noise, images, details))
    return cases


def _details(name: str, changes: SceneChanges, changed: Changed) -> dict[str, Any]:
    """The chains, the prompt after the change, and which objects must be there, must not be there, and must stay."""
    plan, after = changed
    size = changes.scene.size
    stays: Sequence[SceneObject] = changes.scene.objects if name == "add" else changes.others
    gone = None if name in ("add", "resize", "replace", "recolour") else changes.object
    return {
        "chains": [changes.plan.chain, plan.chain],
        "prompt": plan.prompt,
        "result": None if after is None else _entry(after, size),
        "gone": None if gone is None else _entry(gone, size),
        "resized": _entry(changes.object, size) if name == "resize" else None,
        "stay": [_entry(entry, size) for entry in stays],
    }


def _entry(entry: SceneObject, size: int) -> dict[str, Any]:
    return {"shape": entry.shape, "color": entry.colour, "box": list(relative_box(entry.box, size))}


def _phrase(entry: SceneObject) -> str:
    return with_article(f"{entry.colour} {entry.shape}")


HIT = 0.5
"""A changed object is where it was planned if its box and the planned one have at least this IoU."""

STAYED = 0.9
"""An object has stayed if it has at least this IoU with itself before the change."""

SQUARE = (1, 1)
"""Height and width of drawn scenes, in any unit."""

METRICS: dict[str, Better] = {
    "as_requested": "higher",
    "iou": "higher",
    "iou_90": "higher",
    "as_requested_kept": "higher",
    "iou_kept": "higher",
    "iou_90_kept": "higher",
    "seen_before": "higher",
}
"""Whether the change is as requested; the mean IoU of unchanged objects with themselves before, and the fraction of
them that reach `STAYED`; the same with the rest kept; and the fraction of unchanged objects that are where they were
planned in the image before the change."""


class InteractionGeneration(CaseGeneration):
    """Generates the true plan of each scene, the changed ones from the same noise, and these with the rest kept."""

    def generate(self, units: Sequence[Sequence[Case]]) -> None:
        """Generate each scene's plans as one batch."""
        for cases in units:
            chains = [cases[0].details["chains"][0], *(case.details["chains"][1] for case in cases)]
            prompts = [cases[0].prompt, *(case.details["prompt"] for case in cases)]
            size = self.options.size
            before, *after = (Plan(prompt, chain, size) for prompt, chain in zip(prompts, chains, strict=True))
            seeds = [cases[0].seed] * len(chains)
            names = [cases[0].images[BEFORE], *(case.images[AFTER] for case in cases)]
            first, *_ = self.write([before, *after], seeds, names)
            previous = GoTPipelineOutput(torch.stack([first] * len(after)), (before,) * len(after), None)
            self.write(after, seeds[1:], [case.images[KEPT] for case in cases], previous)
            self.finish(cases[0].group, {"chains": dict(zip(names, chains, strict=True))})


def measure(case: Case, images: Images, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """Return all scores of a change."""
    before, after, kept = (detector(images[name][None])[0] for name in (BEFORE, AFTER, KEPT))
    stay = case.details["stay"]
    scores = {"seen_before": len(_present(stay, before)) / len(stay)} if stay else {}
    for end, detected in {"": after, "_kept": kept}.items():
        scores[f"as_requested{end}"] = float(as_requested(case.details, detected))
        overlaps = stayed(_present(stay, before), detected)
        if overlaps:
            scores[f"iou{end}"] = sum(overlaps) / len(overlaps)
            scores[f"iou_90{end}"] = sum(iou >= STAYED for iou in overlaps) / len(overlaps)
    return scores


def as_requested(details: Mapping[str, Any], detected: Sequence[Detection]) -> bool:
    """Return whether the object has its shape and colour where it was planned, and is gone where it was removed.

    One that was resized must overlap its new box more than its previous one.
    """
    result, gone, resized = details["result"], details["gone"], details["resized"]
    results = [] if result is None else [entry for entry in detected if _is(entry, result)]
    if resized is not None:
        old, new = resized["box"], result["box"]
        results = [entry for entry in results if box_iou(entry.box, new) > box_iou(entry.box, old)]
    if result is not None and not results:
        return False
    others = [entry for entry in detected if entry not in results]
    return gone is None or not any(box_iou(entry.box, gone["box"]) >= IN_PLACE for entry in others)


def stayed(before: Sequence[Detection], after: Sequence[Detection]) -> list[float]:
    """Return the IoU of each object with itself after the change; 0 if that has another shape or colour."""
    overlaps = [0.0] * len(before)
    for pair in match_boxes([entry.box for entry in before], [entry.box for entry in after], SQUARE):
        one, other = before[pair.planned], after[pair.detected]
        overlaps[pair.planned] = pair.iou if (one.label, one.colour) == (other.label, other.colour) else 0.0
    return overlaps


def _present(regions: Sequence[Mapping[str, Any]], detected: Sequence[Detection]) -> list[Detection]:
    """The objects that are where regions plan one, whatever they look like."""
    matched = match_boxes([region["box"] for region in regions], [entry.box for entry in detected], SQUARE)
    return [detected[pair.detected] for pair in matched if pair.iou >= HIT]


def _is(entry: Detection, wanted: Mapping[str, Any]) -> bool:
    alike = (entry.label, entry.colour) == (wanted["shape"], wanted["color"])
    return alike and box_iou(entry.box, wanted["box"]) >= HIT


def answers(case: Case) -> dict[str, dict[str, Answer]]:
    """Return answers to a change: the true image before it left unchanged, blank images, noise, and the true images."""
    before, after = (Answer(tuple(chain_objects(chain))) for chain in case.details["chains"])
    return {
        UNCHANGED: dict.fromkeys((BEFORE, AFTER, KEPT), before),
        BLANK: dict.fromkeys((BEFORE, AFTER, KEPT), Answer()),
        NOISE: {name: Answer(noise=seed) for seed, name in enumerate((BEFORE, AFTER, KEPT))},
        TRUE: {BEFORE: before, AFTER: after, KEPT: after},
    }


INTERACTION = CaseSuite(
    name="interaction",
    metrics=METRICS,
    fractions=frozenset({"as_requested", "iou_90", "as_requested_kept", "iou_90_kept", "seen_before"}),
    cases=interaction_cases,
    generation=InteractionGeneration,
    measure=measure,
    answers=answers,
)

evaluate = INTERACTION.evaluate
