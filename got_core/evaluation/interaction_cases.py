"""Changes of true plans of drawn scenes: each of the six that can be made, with what is to be seen after it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from got_core.data.scene import Box, Scene, SceneObject, relative_box
from got_core.data.scene_language import pick, with_article
from got_core.data.scenes import ScenesDataset
from got_core.evaluation.cases import Case
from got_core.evaluation.drawing_folder import image_seed
from got_core.plans import Plan

SEVERAL = ("two_object", "counting", "position", "color_attr")
"""Categories of captions with several objects, so that there is a rest that stays."""

RESIZED_BY = 2
"""Pixels by which a resized side differs at least."""

BEFORE, AFTER, KEPT = "before", "after", "kept"
"""Pictures of a case: from the true plan, from the changed one, and from that with the rest held still."""

Changed = tuple[Plan, SceneObject | None]
"""The plan after a change, and the object that it is about as it will be; None where it is removed."""


class SceneChanges:
    """A scene, its true plan, and the changes that can be made to one of its objects.

    Args:
        scenes: The dataset.
        scene, plan: Of one sample.
        rng: The source of chance.
    """

    def __init__(self, scenes: ScenesDataset, scene: Scene, plan: Plan, rng: np.random.Generator) -> None:
        self.layout, self.vocabulary = scenes.composer.layout, scenes.vocabulary
        self.scene, self.plan, self.rng = scene, plan, rng
        self.index = int(rng.integers(len(scene.objects)))
        self.object = scene.objects[self.index]
        self.others = [entry for place, entry in enumerate(scene.objects) if place != self.index]

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

    def _moved(self, box: Box) -> Changed:
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
    """Each of `CHANGES` of so many scenes, but for those that have no room; the same for a seed."""
    scenes = ScenesDataset(size, number, seed, split, dict.fromkeys(SEVERAL, 1.0), balanced=True)
    found = []
    for place in range(number):
        sketch, group = scenes.sketch(place), f"{place:05d}"
        plan = Plan(sketch.prompt, sketch.chain, (size, size))
        for turn, (name, change) in enumerate(CHANGES.items()):
            changes = SceneChanges(scenes, sketch.target, plan, np.random.default_rng([seed, place, turn]))
            made = change(changes)
            if made is None:
                continue
            pictures = {BEFORE: f"{group}-before", AFTER: f"{group}-{name}", KEPT: f"{group}-{name}-kept"}
            details = _details(name, changes, made)
            seeded = image_seed(seed, place, 0)
            found.append(Case(f"{group}-{name}", group, name, sketch.prompt, seeded, pictures, details))
    return found


def _details(name: str, changes: SceneChanges, made: Changed) -> dict[str, Any]:
    """The chains, the prompt that is left, and what there shall be after the change, what not, and what stays."""
    plan, after = made
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
