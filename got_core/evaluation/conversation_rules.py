"""When a turn of a conversation has succeeded, and when its last picture is what all of it asked for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.box_relations import box_relations
from got_core.evaluation.detection import Box, Detection
from got_core.evaluation.scene_detector import SceneDetector
from got_core.evaluation.scene_edits import edit_succeeds
from got_core.evaluation.scene_view import view_scenes

Image = Float[Tensor, "3 H W"]


def turn_succeeds(meta: Mapping[str, Any], before: Image | None, after: Image, detector: SceneDetector) -> bool:
    """Whether a turn did what it asked for, whatever the others did.

    A caption: all its objects are there and no others. An edit: the rules of `scene_edits`, held against the picture it
    edits as that was drawn, not as it was meant; where its object or the one it is placed by was not drawn there, the
    turn has failed.

    Args:
        meta: Of the turn, as `got_core.data.scene_meta` makes it.
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


def composed(turns: Sequence[Mapping[str, Any]], last: Image, detector: SceneDetector) -> bool:
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


def _lasting(edit: Mapping[str, Any], at: Mapping[tuple[int, ...], Box | None]) -> tuple[Box, Box] | None:
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


def _one(found: Sequence[Detection], wanted: Mapping[str, Any]) -> Box | None:
    """The box of the object of a shape and colour."""
    return next((e.box for e in found if (e.label, e.colour) == (wanted["shape"], wanted["color"])), None)


def _contents(found: Sequence[Detection]) -> Counter[tuple[str, str | None]]:
    return Counter((entry.label, entry.colour) for entry in found)


def _meant(objects: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, str | None]]:
    return Counter((entry["shape"], entry["color"]) for entry in objects)
