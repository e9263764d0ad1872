"""Scenes that satisfy a request: objects chosen, positioned and edited, and the metadata that scores need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from got_core.data.scenes.language import Step, pick
from got_core.data.scenes.render import PixelBox, Scene, SceneObject, relative_box
from got_core.data.scenes.requests import Caption, Edit, ObjectSpec, Requests, Vocabulary
from got_core.planning.boxes import box_relations, relation_strength

ATTEMPTS = 200
"""Layouts that are tried at most."""


@dataclass(frozen=True)
class Layout:
    """Samples boxes for a square image.

    Attributes:
        size: Side of the image in pixels.
        smallest, largest: Sides of an object's box in pixels, inclusive.
        gap: Least number of pixels between two boxes.
    """

    size: int = 32
    smallest: int = 9
    largest: int = 15
    gap: int = 3

    def free(
        self, side: int, taken: Sequence[PixelBox], relations: Sequence[tuple[str, PixelBox]] = ()
    ) -> Bool[ndarray, "rows columns"]:
        """Mark the upper left corners (y, x) at which a box of a side clears the taken ones and has every relation."""
        corners = np.arange(self.size - side + 1)
        allowed = np.ones((len(corners), len(corners)), dtype=bool)
        for x1, y1, x2, y2 in taken:
            reach = side + self.gap - 1
            allowed[max(y1 - reach, 0) : y2 + self.gap, max(x1 - reach, 0) : x2 + self.gap] = False
        for relation, anchor in relations:
            centres = (corners + side / 2)[None, :], (corners + side / 2)[:, None]
            # clearly above 0.5, so that the relation also holds for a detected box that is off by a pixel
            allowed &= relation_strength(relation, centres, side, anchor) >= 0.65
        return allowed

    def place(
        self,
        rng: np.random.Generator,
        taken: Sequence[PixelBox] = (),
        relations: Sequence[tuple[str, PixelBox]] = (),
        side: int | None = None,
    ) -> PixelBox | None:
        """Sample one more box beside the taken ones, evenly among those allowed. None where nothing fits.

        Args:
            rng: The generator of random numbers.
            taken: Boxes to keep clear of.
            relations: (relation, anchor) pairs that must clearly hold for the new box.
            side: Its side in pixels. Sampled when None.
        """
        side = int(rng.integers(self.smallest, self.largest + 1)) if side is None else side
        allowed = np.flatnonzero(self.free(side, taken, relations))
        if len(allowed) == 0:
            return None
        y, x = divmod(int(allowed[rng.integers(len(allowed))]), self.size - side + 1)
        return x, y, x + side, y + side

    def boxes(self, rng: np.random.Generator, count: int, relation: str | None = None) -> list[PixelBox]:
        """Sample `count` boxes that do not touch; with a relation, the first clearly has it to the second.

        Raises:
            ValueError: So many boxes do not fit the image.
        """
        for _ in range(ATTEMPTS):
            boxes: list[PixelBox] = []
            while len(boxes) < count:
                related = [(relation, boxes[0])] if relation is not None and len(boxes) == 1 else []
                box = self.place(rng, boxes, related)
                if box is None:
                    break
                boxes.append(box)
            else:
                return boxes if relation is None else [boxes[1], boxes[0], *boxes[2:]]
        raise ValueError(
            f"{count} objects of {self.smallest} to {self.largest} px with gaps of {self.gap} px "
            f"do not fit a scene of {self.size} px"
        )


def generation_meta(caption: Caption, scene: Scene) -> dict[str, Any]:
    """Make the metadata of a text-to-image sample; `include` and `exclude` have GenEval's form.

    With a relation the second object comes first in `include`, and the first one's `position` refers to it.
    """
    include: list[dict[str, Any]] = [
        {"class": spec.shape, "count": spec.count} | ({} if spec.colour is None else {"color": spec.colour})
        for spec in caption.objects
    ]
    if caption.relation is not None:
        include = [include[1], {**include[0], "position": [caption.relation, 0]}]
    exclude = [{"class": spec.shape, "count": spec.count + 1} for spec in caption.objects if spec.count > 1]
    return {"kind": "t2i", "tag": caption.tag, "include": include, "exclude": exclude, "objects": _entries(scene)}


def edit_meta(tag: str, source: Scene, target: Scene, steps: Sequence[Step]) -> dict[str, Any]:
    """Make the metadata of an edit sample.

    `include` requires every object of the target, and `exclude` none of those that are gone. Each entry of `edits`
    has the operation, the object before and after (None where it does not exist), and `position`: the relation of the
    object to an anchor and the anchor's box (or the object's own box before the edit), or None.
    """
    include: list[dict[str, Any]] = [{"class": item.shape, "count": 1, "color": item.colour} for item in target.objects]
    indices = {item.shape: index for index, item in enumerate(target.objects)}
    for step in steps:
        if step.edit.anchor is not None and step.after is not None:
            include[indices[step.after.shape]]["position"] = [step.edit.relation, indices[step.edit.anchor.shape]]
    return {
        "kind": "edit",
        "tag": tag,
        "include": include,
        "exclude": [{"class": item.shape, "count": 1} for item in source.objects if item.shape not in indices],
        "objects": _entries(target),
        "source_objects": _entries(source),
        "edits": [_edit_entry(step, source.size) for step in steps],
    }


def _entry(item: SceneObject, size: int) -> dict[str, Any]:
    return {"shape": item.shape, "color": item.colour, "box": list(relative_box(item.box, size))}


def _entries(scene: Scene) -> list[dict[str, Any]]:
    return [_entry(item, scene.size) for item in scene.objects]


def _edit_entry(step: Step, size: int) -> dict[str, Any]:
    anchor = step.anchor
    return {
        "op": step.edit.op,
        "object": None if step.before is None else _entry(step.before, size),
        "result": None if step.after is None else _entry(step.after, size),
        "position": None if anchor is None else [step.edit.relation, list(relative_box(anchor.box, size))],
    }


@dataclass(frozen=True)
class EditedScene:
    """A scene before and after the steps."""

    source: Scene
    target: Scene
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Composer:
    """Samples scenes of one kind.

    Attributes:
        vocabulary: Shapes and colours that may occur, and how many objects.
        layout: Samples boxes.
        backgrounds: Names that the background is sampled from.
    """

    vocabulary: Vocabulary
    layout: Layout
    backgrounds: tuple[str, ...]

    def compose(self, caption: Caption, rng: np.random.Generator) -> Scene:
        """Sample a scene with the objects of a caption and no others. Open colours are sampled, all different."""
        specs = self._coloured(caption.objects, rng)
        boxes = self.layout.boxes(rng, sum(spec.count for spec in specs), caption.relation)
        if len(specs) == 1:
            boxes.sort(key=lambda box: (box[0] + box[2], box[1]))
        each = [spec for spec in specs for _ in range(spec.count)]
        return self._scene([_at(spec, box) for spec, box in zip(each, boxes, strict=True)], rng)

    def edit(self, edits: Sequence[Edit], rng: np.random.Generator) -> EditedScene | None:
        """Sample a scene that the edits fit, and make them in sequence. None where no room was found."""
        for _ in range(10):
            specs = self._source_objects(edits, rng)
            boxes = self.layout.boxes(rng, len(specs))
            objects = [_at(spec, box) for spec, box in zip(specs, boxes, strict=True)]
            steps = self._steps(edits, objects, rng)
            if steps is not None:
                return _edited(self._scene(objects, rng), steps)
        return None

    def follow(self, scene: Scene, edit: Edit, rng: np.random.Generator) -> EditedScene | None:
        """Edit a given scene. None where the edit has no room, or its objects are not in the scene."""
        present = {(item.shape, item.colour) for item in scene.objects}
        if any((spec.shape, spec.colour) not in present for spec in (edit.before, edit.anchor) if spec):
            return None
        steps = self._steps([edit], scene.objects, rng)
        return None if steps is None else _edited(scene, steps)

    def sequence(self, requests: Sequence[Requests[Edit]], split: str, rng: np.random.Generator) -> list[Edit]:
        """Sample two or three edits that can be made one after another and involve different objects.

        All are training's. In the test split the one that is sampled first is held out; it may come at any position.
        """
        length = int(rng.integers(2, min(3, len(self.vocabulary.shapes)) + 1))
        while True:
            groups = pick(rng, requests)
            edits = [pick(rng, pick(rng, groups.of_split(split)))]
            for _ in range(ATTEMPTS):
                candidate = pick(rng, pick(rng, pick(rng, requests).train))
                if not _independent(edits, candidate):
                    continue
                edits.insert(int(rng.integers(len(edits) + 1)), candidate)
                if len(edits) == length:
                    break
            fewest, most = self._counts(edits)
            if len(edits) == length and fewest <= most:
                return edits

    def _scene(self, objects: Sequence[SceneObject], rng: np.random.Generator) -> Scene:
        return Scene(tuple(objects), pick(rng, self.backgrounds), self.layout.size)

    def _coloured(self, specs: Sequence[ObjectSpec], rng: np.random.Generator) -> list[ObjectSpec]:
        used = {spec.colour for spec in specs}
        unused = [colour for colour in self.vocabulary.colours if colour not in used]
        chosen = iter(rng.permutation(len(unused)))
        return [spec if spec.colour else replace(spec, colour=unused[int(next(chosen))]) for spec in specs]

    def _counts(self, edits: Sequence[Edit]) -> tuple[int, int]:
        """Fewest and most objects that the source may have, so that the scene is never empty or too full."""
        change, lowest, highest = 0, 0, 0
        for edit in edits:
            change += (edit.before is None) - (edit.after is None)
            lowest, highest = min(lowest, change), max(highest, change)
        needed = {spec for edit in edits for spec in (edit.before, edit.anchor) if spec}
        spare = len(self.vocabulary.shapes) - len({spec.shape for edit in edits for spec in edit.objects})
        return max(len(needed), 1 - lowest), min(self.vocabulary.max_objects - highest, len(needed) + spare)

    def _source_objects(self, edits: Sequence[Edit], rng: np.random.Generator) -> list[ObjectSpec]:
        """The objects of the edits and a few more, all of different shape and colour."""
        needed = list(dict.fromkeys(spec for edit in edits for spec in (edit.before, edit.anchor) if spec))
        named = needed + [edit.after for edit in edits if edit.after]
        shapes = [shape for shape in self.vocabulary.shapes if shape not in {spec.shape for spec in named}]
        colours = [colour for colour in self.vocabulary.colours if colour not in {spec.colour for spec in named}]
        fewest, most = self._counts(edits)
        extra = int(rng.integers(fewest, min(most, len(needed) + len(colours)) + 1)) - len(needed)
        chosen = zip(rng.permutation(len(shapes))[:extra], rng.permutation(len(colours))[:extra], strict=True)
        return needed + [ObjectSpec(shapes[int(s)], colours[int(c)]) for s, c in chosen]

    def _steps(
        self, edits: Sequence[Edit], objects: Sequence[SceneObject], rng: np.random.Generator
    ) -> list[Step] | None:
        """The edits with their boxes. None where one has no room, or its object already has the relation.

        Areas of earlier edits stay free.
        """
        by_shape = {item.shape: item for item in objects}
        taken = [item.box for item in objects]
        steps = []
        for edit in edits:
            before = by_shape[edit.before.shape] if edit.before else None
            anchor = by_shape[edit.anchor.shape] if edit.anchor else before
            box = before.box if before else None
            if edit.op in ("add", "move"):
                related = [(edit.relation, anchor.box)] if edit.relation and anchor else []
                if box is not None and any(relation in box_relations(box, other) for relation, other in related):
                    return None
                box = self.layout.place(rng, taken, related, None if box is None else box[2] - box[0])
                if box is None:
                    return None
                taken.append(box)
            after = _at(edit.after, box) if edit.after and box else None
            steps.append(Step(edit, before, after, anchor if edit.relation else None))
        return steps


def _at(spec: ObjectSpec, box: tuple[int, int, int, int]) -> SceneObject:
    assert spec.colour is not None
    return SceneObject(spec.shape, spec.colour, box)


def _edited(source: Scene, steps: Sequence[Step]) -> EditedScene:
    """Make the steps. Added objects come last."""
    changed = {step.before: step.after for step in steps if step.before}
    objects = [changed.get(item, item) for item in source.objects]
    objects += [step.after for step in steps if step.before is None]
    target = replace(source, objects=tuple(item for item in objects if item is not None))
    return EditedScene(source, target, tuple(steps))


def _independent(edits: Sequence[Edit], candidate: Edit) -> bool:
    """Whether the candidate involves other shapes and colours than the edits, anchors included."""
    others = [spec for edit in edits for spec in edit.objects]
    return all(a.shape != b.shape and a.colour != b.colour for a in candidate.objects for b in others)
