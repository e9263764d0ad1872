"""What scores need to know of a drawn scene: GenEval's clauses and the objects, ready for JSON."""

from collections.abc import Sequence
from typing import Any

from got_core.data.scene import Scene, SceneObject, relative_box
from got_core.data.scene_language import Step
from got_core.data.scene_requests import Drawing, Thing


def drawing_meta(drawing: Drawing, scene: Scene) -> dict[str, Any]:
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


def _clause(thing: Thing) -> dict[str, Any]:
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
