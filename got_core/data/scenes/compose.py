"""Scenes that answer a request: objects chosen, placed and edited, and what scores need to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from got_core.data.scenes.language import Step, pick
from got_core.data.scenes.layout import ATTEMPTS, Layout
from got_core.data.scenes.render import PixelBox, Scene, SceneObject, relative_box
from got_core.data.scenes.requests import Caption, Edit, ObjectSpec, Requests, Vocabulary
from got_core.planning.boxes import box_relations


def generation_meta(drawing: Caption, scene: Scene) -> dict[str, Any]:
    """Metadata of a text-to-image sample; `include` and `exclude` are laid out as GenEval's.

    With a relation the second object comes first in `include`, and the first one's `position` points at it.
    """
    include = [_clause(thing) for thing in drawing.things]
    if drawing.relation is not None:
        include = [include[1], {**include[0], "position": [drawing.relation, 0]}]
    exclude = [{"class": thing.shape, "count": thing.count + 1} for thing in drawing.things if thing.count > 1]
    return {
        "kind": "t2i",
        "tag": drawing.tag,
        "include": include,
        "exclude": exclude,
        "objects": _entries(scene),
    }


def edit_meta(tag: str, source: Scene, target: Scene, steps: Sequence[Step]) -> dict[str, Any]:
    """Metadata of an edit sample.

    `include` asks for every object of the target and `exclude` for none of those that are gone. Each entry of `edits`
    has the operation, the object before and after (None where there is none), and `position`: the relation in which
    the object will stand and the box it is measured from (the anchor's, or the object's own former one), or None.
    """
    include = [{"class": entry.shape, "count": 1, "color": entry.colour} for entry in target.objects]
    places = {entry.shape: place for place, entry in enumerate(target.objects)}
    for step in steps:
        if step.edit.anchor is not None and step.after is not None:
            include[places[step.after.shape]]["position"] = [step.edit.relation, places[step.edit.anchor.shape]]
    gone = [entry.shape for entry in source.objects if entry.shape not in places]
    return {
        "kind": "edit",
        "tag": tag,
        "include": include,
        "exclude": [{"class": shape, "count": 1} for shape in gone],
        "objects": _entries(target),
        "source_objects": _entries(source),
        "edits": [_edit_entry(step, source.size) for step in steps],
    }


def _clause(thing: ObjectSpec) -> dict[str, Any]:
    clause: dict[str, Any] = {"class": thing.shape, "count": thing.count}
    return clause if thing.colour is None else {**clause, "color": thing.colour}


def _entry(entry: SceneObject, size: int) -> dict[str, Any]:
    return {"shape": entry.shape, "color": entry.colour, "box": list(relative_box(entry.box, size))}


def _entries(scene: Scene) -> list[dict[str, Any]]:
    return [_entry(entry, scene.size) for entry in scene.objects]


def _edit_entry(step: Step, size: int) -> dict[str, Any]:
    anchor = step.anchor
    return {
        "op": step.edit.op,
        "object": None if step.before is None else _entry(step.before, size),
        "result": None if step.after is None else _entry(step.after, size),
        "position": None if anchor is None else [step.edit.relation, list(relative_box(anchor.box, size))],
    }


LAYOUTS = 10
"""Layouts begun for edits before they are given up for others."""


@dataclass(frozen=True)
class EditedScene:
    """A scene before and after the steps."""

    source: Scene
    target: Scene
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Composer:
    """Makes scenes of one kind.

    Attributes:
        vocabulary: Shapes and colours that may occur, and how many objects.
        layout: Where boxes may stand.
        backgrounds: Names to choose the background from.
    """

    vocabulary: Vocabulary
    layout: Layout
    backgrounds: tuple[str, ...]

    def draw(self, drawing: Caption, rng: np.random.Generator) -> Scene:
        """A scene with what is asked and nothing else; colours left open are chosen, all different."""
        things = self._coloured(drawing.things, rng)
        boxes = self.layout.boxes(rng, sum(thing.count for thing in things), drawing.relation)
        if len(things) == 1:
            boxes.sort(key=lambda box: (box[0] + box[2], box[1]))
        each = [thing for thing in things for _ in range(thing.count)]
        return self._scene([_placed(thing, box) for thing, box in zip(each, boxes, strict=True)], rng)

    def edit(self, edits: Sequence[Edit], rng: np.random.Generator) -> EditedScene | None:
        """A scene that the edits can be made to, and what they make of it in sequence; None where no room was found."""
        for _ in range(LAYOUTS):
            things = self._source_things(edits, rng)
            boxes = self.layout.boxes(rng, len(things))
            objects = [_placed(thing, box) for thing, box in zip(things, boxes, strict=True)]
            steps = self._steps(edits, objects, rng)
            if steps is not None:
                source = self._scene(objects, rng)
                target = Scene(_applied(objects, steps), source.background, source.size)
                return EditedScene(source, target, tuple(steps))
        return None

    def follow(self, scene: Scene, edit: Edit, rng: np.random.Generator) -> EditedScene | None:
        """What an edit makes of a scene that is there; None where it has no room, or its objects are not in it."""
        there = {(entry.shape, entry.colour) for entry in scene.objects}
        if any((thing.shape, thing.colour) not in there for thing in (edit.before, edit.anchor) if thing):
            return None
        steps = self._steps([edit], scene.objects, rng)
        if steps is None:
            return None
        target = Scene(_applied(scene.objects, steps), scene.background, scene.size)
        return EditedScene(scene, target, tuple(steps))

    def sequence(self, requests: Sequence[Requests[Edit]], split: str, rng: np.random.Generator) -> list[Edit]:
        """Two or three edits that can be made one after another and concern different objects.

        All are of training's; for the test split the one drawn first, which may stand anywhere, is held out.
        """
        length = int(rng.integers(2, min(3, len(self.vocabulary.shapes)) + 1))
        while True:
            groups = pick(rng, requests)
            found = [pick(rng, pick(rng, groups.of_split(split)))]
            for _ in range(ATTEMPTS):
                candidate = pick(rng, pick(rng, pick(rng, requests).train))
                if not _independent(found, candidate):
                    continue
                found.insert(int(rng.integers(len(found) + 1)), candidate)
                if len(found) == length:
                    break
            if len(found) == length and self._feasible(found):
                return found

    def _scene(self, objects: Sequence[SceneObject], rng: np.random.Generator) -> Scene:
        return Scene(tuple(objects), pick(rng, self.backgrounds), self.layout.size)

    def _coloured(self, things: Sequence[ObjectSpec], rng: np.random.Generator) -> list[ObjectSpec]:
        used = {thing.colour for thing in things}
        unused = [colour for colour in self.vocabulary.colours if colour not in used]
        chosen = iter(rng.permutation(len(unused)))
        return [
            thing if thing.colour is not None else ObjectSpec(thing.shape, unused[int(next(chosen))], thing.count)
            for thing in things
        ]

    def _counts(self, edits: Sequence[Edit]) -> tuple[int, int]:
        """Fewest and most objects that the source may have, so that the scene is never empty or too full."""
        change, lowest, highest = 0, 0, 0
        for edit in edits:
            change += (edit.before is None) - (edit.after is None)
            lowest, highest = min(lowest, change), max(highest, change)
        shapes = {thing.shape for edit in edits for thing in (edit.before, edit.after) if thing}
        needed = {thing for edit in edits for thing in (edit.before, edit.anchor) if thing}
        spare = len(self.vocabulary.shapes) - len(shapes | {thing.shape for thing in needed})
        return max(len(needed), 1 - lowest), min(self.vocabulary.max_objects - highest, len(needed) + spare)

    def _feasible(self, edits: Sequence[Edit]) -> bool:
        fewest, most = self._counts(edits)
        return fewest <= most

    def _source_things(self, edits: Sequence[Edit], rng: np.random.Generator) -> list[ObjectSpec]:
        """What the edits concern and a few more objects, all of different shape and colour."""
        needed = list(dict.fromkeys(thing for edit in edits for thing in (edit.before, edit.anchor) if thing))
        named = needed + [edit.after for edit in edits if edit.after]
        shapes = [shape for shape in self.vocabulary.shapes if shape not in {thing.shape for thing in named}]
        colours = [colour for colour in self.vocabulary.colours if colour not in {thing.colour for thing in named}]
        fewest, most = self._counts(edits)
        extra = int(rng.integers(fewest, min(most, len(needed) + len(colours)) + 1)) - len(needed)
        chosen = zip(rng.permutation(len(shapes))[:extra], rng.permutation(len(colours))[:extra], strict=True)
        return needed + [ObjectSpec(shapes[int(s)], colours[int(c)]) for s, c in chosen]

    def _steps(
        self, edits: Sequence[Edit], objects: Sequence[SceneObject], rng: np.random.Generator
    ) -> list[Step] | None:
        """The edits with their boxes, or None where one has no room; areas of earlier edits stay free."""
        by_shape = {entry.shape: entry for entry in objects}
        taken = [entry.box for entry in objects]
        steps = []
        for edit in edits:
            before = by_shape[edit.before.shape] if edit.before else None
            anchor = by_shape[edit.anchor.shape] if edit.anchor else before
            box = before.box if before else None
            if edit.op in ("add", "move"):
                box = self._new_box(edit.relation, before, anchor, taken, rng)
                if box is None:
                    return None
                taken.append(box)
            after = _placed(edit.after, box) if edit.after and box else None
            steps.append(Step(edit, before, after, anchor if edit.relation else None))
        return steps

    def _new_box(
        self,
        relation: str | None,
        before: SceneObject | None,
        anchor: SceneObject | None,
        taken: Sequence[PixelBox],
        rng: np.random.Generator,
    ) -> PixelBox | None:
        """A box in relation to the anchor, or None: also where the object stands so already."""
        related = [] if relation is None or anchor is None else [(relation, anchor.box)]
        if before is not None and any(name in box_relations(before.box, box) for name, box in related):
            return None
        side = None if before is None else before.box[2] - before.box[0]
        return self.layout.place(rng, taken, related, side)


def _placed(thing: ObjectSpec, box: PixelBox) -> SceneObject:
    if thing.colour is None:
        raise ValueError(f"{thing} needs a colour before it can be placed")
    return SceneObject(thing.shape, thing.colour, box)


def _applied(objects: Sequence[SceneObject], steps: Sequence[Step]) -> tuple[SceneObject, ...]:
    """The objects once the steps are made; what is added comes last."""
    changed = {step.before: step.after for step in steps if step.before}
    kept = [changed.get(entry, entry) for entry in objects]
    added = [step.after for step in steps if step.before is None]
    return tuple(entry for entry in [*kept, *added] if entry is not None)


def _independent(edits: Sequence[Edit], candidate: Edit) -> bool:
    """Whether the candidate concerns other shapes and colours than the edits, anchors included."""
    old = [thing for edit in edits for thing in edit.things]
    return all(a.shape != b.shape and a.colour != b.colour for a in candidate.things for b in old)
