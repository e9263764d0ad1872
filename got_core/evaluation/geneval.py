"""GenEval's rules as pure functions (Ghosh et al., "GenEval", NeurIPS 2023; thresholds of its published evaluation).

A prompt's metadata is `{"tag": category, "include": [clause, ...], "exclude": [clause, ...]}`. An include clause is
`{"class": name, "count": n}`, if asked with `"color": word` and `"position": [relation, i]`, where i is the place of
the include clause it is relative to. An exclude clause is `{"class": name, "count": n}`: n or more of that class are
too many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from got_core.box_relations import DIRECTION, SHRINK, box_relations
from got_core.evaluation.detection import Box, Detection

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six categories, by the names in GenEval's metadata (`tag`)."""


@dataclass(frozen=True)
class Rules:
    """GenEval's thresholds; the defaults are the published ones, chosen for Mask2Former.

    Attributes:
        confidence: A detection counts where its score is above this.
        counting_confidence: The same for prompts of the category `counting`.
        max_objects: At most so many detections of a class are looked at, the most confident first.
        shrink: Share of the summed sizes by which the offset of two centres is shortened on each axis.
        direction: A relation holds where the shortened offset over the unshortened distance exceeds this.
    """

    confidence: float = 0.3
    counting_confidence: float = 0.9
    max_objects: int = 16
    shrink: float = SHRINK
    direction: float = DIRECTION


MASK2FORMER = Rules()


def shows(
    metadata: Mapping[str, Any],
    detections: Sequence[Detection],
    rules: Rules = MASK2FORMER,
    size: tuple[int, int] = (1, 1),
) -> tuple[bool, str]:
    """Whether an image shows what its prompt asks for, and what is wrong where it does not.

    Include clauses must all hold; any exclude clause that holds fails the image. Only the `count` most confident
    objects of a class are looked at: all of them must have the colour, and each must stand in the relation to each
    object of the clause it refers to, which must itself hold.

    Args:
        metadata: The prompt's clauses, as described at the top of this module.
        detections: The objects of the image, in any order.
        rules: Thresholds.
        size: (height, width) of the image in any unit, for directions in images that are not square.

    Returns:
        (holds, reasons joined by "; "), the latter empty where it holds.
    """
    found = _by_class(detections, _confidence(metadata, rules), rules.max_objects)
    groups: list[Sequence[Detection] | None] = []
    reasons = []
    for clause in metadata.get("include", ()):
        looked_at = found.get(clause["class"], [])[: clause["count"]]
        reason = _included(clause, looked_at, groups, rules, size)
        groups.append(None if reason else looked_at)
        reasons.append(reason)
    for clause in metadata.get("exclude", ()):
        number = len(found.get(clause["class"], []))
        if number >= clause["count"]:
            reasons.append(f"expected fewer than {clause['count']} {clause['class']}, found {number}")
    reasons = [reason for reason in reasons if reason]
    return not reasons, "; ".join(reasons)


def coloured(metadata: Mapping[str, Any]) -> dict[str, int]:
    """The classes whose colours a prompt asks for, and of how many of their most confident objects."""
    asked: dict[str, int] = {}
    for clause in metadata.get("include", ()):
        if "color" in clause:
            asked[clause["class"]] = max(clause["count"], asked.get(clause["class"], 0))
    return asked


def relations(a: Box, b: Box, rules: Rules = MASK2FORMER, size: tuple[int, int] = (1, 1)) -> frozenset[str]:
    """Where box `a` lies relative to box `b`: none, one or two of `got_core.box_relations.RELATIONS`."""
    return box_relations(a, b, size, rules.shrink, rules.direction)


def _confidence(metadata: Mapping[str, Any], rules: Rules) -> float:
    return rules.counting_confidence if metadata.get("tag") == "counting" else rules.confidence


def _by_class(detections: Sequence[Detection], threshold: float, most: int) -> dict[str, list[Detection]]:
    """Detections above the threshold by class, the most confident first, at most `most` of each."""
    found: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda entry: entry.score, reverse=True):
        if detection.score > threshold:
            found.setdefault(detection.label, []).append(detection)
    return {label: members[:most] for label, members in found.items()}


def _included(
    clause: Mapping[str, Any],
    objects: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    rules: Rules,
    size: tuple[int, int],
) -> str:
    """Why an include clause does not hold; empty where it does."""
    label, count = clause["class"], clause["count"]
    if len(objects) < count:
        return f"expected {count} {label}, found {len(objects)}"
    if "color" in clause:
        colours = [entry.colour for entry in objects]
        if colours.count(clause["color"]) < count:
            return f"expected {count} {clause['color']} {label}, found {', '.join(map(str, colours))}"
    if "position" in clause:
        relation, place = clause["position"]
        target = groups[place]
        if target is None:
            return f"no {place + 1}. object for {label} to be {relation}"
        if not all(relation in relations(entry.box, other.box, rules, size) for entry in objects for other in target):
            return f"expected {label} {relation} object {place + 1}"
    return ""
