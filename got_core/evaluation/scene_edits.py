"""When an edit of a drawn scene has succeeded, and how much of the rest was kept.

Metadata name for each edit the object before and after (`object`, `result`) and, if asked for, the relation that the
result must have to a box (`position`). The places of added and moved objects are the model's to choose, so they are
judged by what the instruction says, not by where the ground truth happens to have them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import reduce

from got_core.evaluation.detection import Box, Detection, box_iou, pixels_of
from got_core.evaluation.geneval import relations
from got_core.evaluation.scene_view import SceneView

IN_PLACE = 0.3
"""Two boxes overlap by at least this (intersection over union) when their objects count as in the same place."""

KEPT_WITHIN = 0.1
"""A pixel is kept when no channel differs by more than this share of the range from black to white."""

MARGIN = 1
"""Pixels around a changed box that are not looked at: edges are smooth."""


def edit_succeeds(view: SceneView) -> bool:
    """Whether every edit asked for was made.

    - Added: an object of the class and colour is there; in the relation asked for, if any.
    - Removed: no object of any class is in its place.
    - Recoloured, replaced: an object of the new class and colour is in its place, and no other.
    - Moved: an object of the class and colour is in the relation asked for; none of any class is in its old place.

    What is in a place overlaps with it by at least `IN_PLACE`.
    """
    edits = view.meta["edits"]
    results = [_result(view.found, edit, view.size) for edit in edits]
    asked = [edit["result"] for edit in edits]
    if any(wanted is not None and result is None for wanted, result in zip(asked, results, strict=True)):
        return False
    left = [entry for entry in view.found if entry not in results]
    old = [edit["object"]["box"] for edit in edits if edit["object"] is not None]
    return not any(box_iou(entry.box, box) >= IN_PLACE for entry in left for box in old)


def background_kept(view: SceneView) -> float:
    """Share of pixels outside the changed boxes that are as in the source (`KEPT_WITHIN`).

    Changed boxes are those of the objects before and after, and those of the objects that were accepted as results.
    1 where the changed boxes leave no pixel.

    Raises:
        ValueError: No source image was given.
    """
    if view.source is None:
        raise ValueError("an edit is scored against its source image, but none was given: pass sources")
    edits = view.meta["edits"]
    changed = [entry["box"] for edit in edits for entry in (edit["object"], edit["result"]) if entry is not None]
    changed += [result.box for edit in edits if (result := _result(view.found, edit, view.size)) is not None]
    height, width = view.size
    outside = torch.ones(height, width, dtype=torch.bool, device=view.image.device)
    for box in changed:
        outside[pixels_of(box, view.size, MARGIN)] = False
    difference = reduce((view.image - view.source).abs() / 2, "c h w -> h w", "max")
    kept = (difference <= KEPT_WITHIN)[outside]
    return float(kept.float().mean()) if len(kept) else 1.0


def _result(found: Sequence[Detection], edit: Mapping[str, Any], size: tuple[int, int]) -> Detection | None:
    """The object that fulfils an edit, or None."""
    wanted = edit["result"]
    if wanted is None:
        return None
    alike = (entry for entry in found if (entry.label, entry.colour) == (wanted["shape"], wanted["color"]))
    return next((entry for entry in alike if _stands_right(entry.box, edit, size)), None)


def _stands_right(box: Box, edit: Mapping[str, Any], size: tuple[int, int]) -> bool:
    if edit["position"] is not None:
        relation, other = edit["position"]
        return relation in relations(box, other, size=size)
    return edit["object"] is None or box_iou(box, edit["object"]["box"]) >= IN_PLACE
