"""Forms that hold objects with their boxes and no words between: JSON of several kinds, YOLO and COCO."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple

from got_core.chain.parser import SIDE, Box, Region
from got_core.errors import parse_json

Unit = Literal["thousandths", "pixels", "fractions"]

MOST_OBJECTS = 20_000
"""Of one text."""


class Found(NamedTuple):
    """An object as it is written: its phrase, and x1, y1, x2, y2 in the form's unit."""

    phrase: str
    corners: tuple[float, float, float, float]


@dataclass(frozen=True)
class Objects:
    """What a form holds.

    Attributes:
        regions: Phrases with boxes in thousandths.
        problems: What could not be read, or was repaired; as in `Chain.problems`.
        caption: What the whole image shows, where the form says so.
    """

    regions: tuple[Region, ...]
    problems: tuple[str, ...] = ()
    caption: str = ""


def scale(unit: Unit, size: tuple[int, int] | None) -> tuple[float, float]:
    """Return by what x and y of a unit are multiplied to be thousandths.

    Args:
        unit: Of coordinates.
        size: (height, width) of the image, which pixels need.

    Raises:
        ValueError: Pixels without a size.
    """
    if unit == "thousandths":
        return 1.0, 1.0
    if unit == "fractions":
        return float(SIDE), float(SIDE)
    if size is None or min(size) < 1:
        raise ValueError("boxes in pixels need the size of the image")
    return SIDE / size[1], SIDE / size[0]


def to_box(corners: Sequence[float], factors: tuple[float, float]) -> tuple[Box | None, list[str]]:
    """Convert corners to a box in thousandths; also say what was wrong with them. None without an area."""
    if not all(map(isfinite, corners)):
        return None, ["no finite numbers"]
    values = to_thousandths(corners, factors)
    faults = ["outside of the image"] if min(values) < 0 or max(values) > SIDE else []
    x1, y1, x2, y2 = (min(max(value, 0), SIDE - 1) for value in values)
    if x1 > x2 or y1 > y2:
        faults.append("corners swapped")
    if x1 == x2 or y1 == y2:
        return None, [*faults, "no area"]
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), faults


def to_thousandths(corners: Sequence[float], factors: tuple[float, float]) -> list[int]:
    """Convert coordinates to whole thousandths; those far out of the image are moved nearer."""
    return [
        round(min(max(corner * factor, -SIDE), 2 * SIDE)) for corner, factor in zip(corners, factors * 2, strict=True)
    ]


def collected(objects: Sequence[Found | str], factors: tuple[float, float], caption: str = "") -> Objects:
    """Convert objects, or what was wrong with one, to regions."""
    if len(objects) > MOST_OBJECTS:
        raise ValueError(f"{len(objects):,} objects are more than {MOST_OBJECTS:,}")
    regions, problems = [], []
    for number, each in enumerate(objects, 1):
        if isinstance(each, str):
            problems.append(f"dropped: object {number} {each}")
            continue
        box, faults = to_box(each.corners, factors)
        if faults:
            result = "dropped" if box is None else "repaired"
            problems.append(f"{result}: object {number} ({each.phrase[:40]!r}): {'; '.join(faults)}")
        if box is not None:
            regions.append(Region(each.phrase, box))
    return Objects(tuple(regions), tuple(problems), caption)


def _four(values: object) -> tuple[float, float, float, float] | None:
    match values:
        case [float() | int() as a, float() | int() as b, float() | int() as c, float() | int() as d]:
            if not any(isinstance(value, bool) or abs(value) > 1e15 for value in (a, b, c, d)):
                return float(a), float(b), float(c), float(d)
    return None


def _labelled(each: object, label: str, box: str) -> Found | str:
    if not isinstance(each, Mapping):
        return "is no JSON object"
    corners, phrase = _four(each.get(box)), each.get(label)
    if corners is None:
        return f"has no four numbers as '{box}'"
    return Found(phrase.strip(), corners) if isinstance(phrase, str) else f"has no text as '{label}'"


def _list(text: str) -> list[Any]:
    value = parse_json(text)
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"a list of objects is expected, not a {type(value).__name__}")
    return value


def read_bbox_2d(text: str, factors: tuple[float, float], names: Sequence[str]) -> Objects:
    """Read Qwen's `[{"bbox_2d": [x1, y1, x2, y2], "label": "a dog"}]`."""
    return collected([_labelled(each, "label", "bbox_2d") for each in _list(text)], factors)


def read_bbox(text: str, factors: tuple[float, float], names: Sequence[str]) -> Objects:
    """Read SimpleTuner's `.bbox` files: a list of `{"label": "a dog", "bbox": [x1, y1, x2, y2]}`, or one a line."""
    if text.lstrip().startswith("["):
        return collected([_labelled(each, "label", "bbox") for each in _list(text)], factors)
    lines = [line for line in text.splitlines() if line.strip()]
    return collected([_labelled(parse_json(line), "label", "bbox") for line in lines], factors)


def read_ideogram(text: str, factors: tuple[float, float], names: Sequence[str]) -> Objects:
    """Read Ideogram 4's captions, whose boxes are `[y1, x1, y2, x2]`. Words to be written are part of the phrase."""
    caption = parse_json(text)
    parts = caption.get("compositional_deconstruction") if isinstance(caption, Mapping) else None
    if not isinstance(parts, Mapping) or not isinstance(parts.get("elements", []), list):
        raise ValueError("the caption has no 'compositional_deconstruction' with a list of 'elements'")
    objects: list[Found | str] = []
    for each in parts.get("elements", []):
        if isinstance(each, Mapping) and each.get("bbox") is None and isinstance(each.get("desc"), str):
            objects.append(f"({each['desc'][:40]!r}) has no 'bbox'")
            continue
        found = _labelled(each, "desc", "bbox")
        if isinstance(found, Found):
            y1, x1, y2, x2 = found.corners
            words = f' "{each["text"]}"' if isinstance(each.get("text"), str) else ""
            found = Found(found.phrase + words, (x1, y1, x2, y2))
        objects.append(found)
    sentences = (caption.get("high_level_description"), parts.get("background"))
    return collected(objects, factors, " ".join(each for each in sentences if isinstance(each, str) and each))


def read_coco(text: str, factors: tuple[float, float], names: Sequence[str]) -> Objects:
    """Read COCO's annotations of one image: `bbox` is [x, y, width, height], and `categories` names their classes.

    Raises:
        ValueError: It is no such JSON, or of several images.
    """
    content = parse_json(text)
    if not isinstance(content, Mapping) or not isinstance(content.get("annotations"), list):
        raise ValueError("COCO's JSON has a list of 'annotations'")
    annotations, categories = content["annotations"], content.get("categories", [])
    if not isinstance(categories, list):
        raise ValueError("COCO's JSON has a list of 'categories'")
    labels = {str(each.get("id")): each.get("name") for each in categories if isinstance(each, Mapping)}
    if len({str(each.get("image_id")) for each in annotations if isinstance(each, Mapping)}) > 1:
        raise ValueError("the annotations are of several images: give those of one")
    objects: list[Found | str] = []
    for each in annotations:
        corners = _four(each.get("bbox")) if isinstance(each, Mapping) else None
        label = labels.get(str(each.get("category_id"))) if corners else None
        if corners is None:
            objects.append("has no four numbers as 'bbox'")
        elif not isinstance(label, str):
            objects.append(f"has category {each.get('category_id')!r}, which 'categories' does not name")
        else:
            x, y, width, height = corners
            objects.append(Found(label, (x, y, x + width, y + height)))
    return collected(objects, factors)


def read_yolo(text: str, factors: tuple[float, float], names: Sequence[str]) -> Objects:
    """Read YOLO's lines: number of the class, x and y of the centre, width, height, and a confidence if there is one.

    Args:
        text: The lines.
        factors: See `scale`.
        names: Of the classes, in order.
    """
    objects: list[Found | str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        try:
            label, x, y, width, height, *confidence = line.split()
            if len(confidence) > 1:
                raise ValueError
            corners = (float(x), float(y), float(width), float(height))
            name = names[int(label)] if int(label) >= 0 else None
        except ValueError:
            objects.append(f"is no class with four numbers: {line[:40]!r}")
            continue
        except IndexError:
            name = None
        if name is None:
            objects.append(f"is of class {label}, and {len(names)} classes are named")
            continue
        x_, y_, w, h = corners
        objects.append(Found(name, (x_ - w / 2, y_ - h / 2, x_ + w / 2, y_ + h / 2)))
    return collected(objects, factors)


def _corners(region: Region, factors: tuple[float, float], digits: int) -> Iterator[float | int]:
    for value, factor in zip(region.box, factors * 2, strict=True):
        number = round(value / factor, digits)
        yield int(number) if number == int(number) else number


def write_bbox_2d(objects: Objects, factors: tuple[float, float], names: Sequence[str]) -> str:
    """Write Qwen's JSON, with whole numbers."""
    rows = [
        {"bbox_2d": [round(v) for v in _corners(each, factors, 0)], "label": each.phrase} for each in objects.regions
    ]
    return json.dumps(rows, ensure_ascii=False)


def write_bbox(objects: Objects, factors: tuple[float, float], names: Sequence[str]) -> str:
    """Write SimpleTuner's list."""
    rows = [{"label": each.phrase, "bbox": list(_corners(each, factors, 6))} for each in objects.regions]
    return json.dumps(rows, ensure_ascii=False)


def write_ideogram(objects: Objects, factors: tuple[float, float], names: Sequence[str]) -> str:
    """Write Ideogram 4's caption."""
    elements = []
    for each in objects.regions:
        x1, y1, x2, y2 = _corners(each, factors, 0)
        elements.append({"type": "obj", "bbox": [y1, x1, y2, x2], "desc": each.phrase})
    composed = {"background": "", "elements": elements}
    caption = {"high_level_description": objects.caption, "compositional_deconstruction": composed}
    return json.dumps(caption, ensure_ascii=False)


def write_coco(objects: Objects, factors: tuple[float, float], names: Sequence[str]) -> str:
    """Write COCO's annotations of one image; each phrase is a category."""
    phrases = dict.fromkeys(each.phrase for each in objects.regions)
    labels = {phrase: number for number, phrase in enumerate(phrases, 1)}
    annotations = []
    for number, each in enumerate(objects.regions, 1):
        x1, y1, x2, y2 = _corners(each, factors, 6)
        box = [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)]
        annotations.append({"id": number, "image_id": 1, "category_id": labels[each.phrase], "bbox": box})
    categories = [{"id": number, "name": label} for label, number in labels.items()]
    return json.dumps({"annotations": annotations, "categories": categories}, ensure_ascii=False)


def write_yolo(objects: Objects, factors: tuple[float, float], names: Sequence[str]) -> str:
    """Write YOLO's lines.

    Raises:
        ValueError: A phrase is none of `names`.
    """
    numbered, lines = {name: str(number) for number, name in enumerate(names)}, []
    for each in objects.regions:
        if each.phrase not in numbered:
            raise ValueError(f"{each.phrase!r} is none of the {len(names)} named classes")
        x1, y1, x2, y2 = _corners(each, factors, 8)
        numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        lines.append(" ".join([numbered[each.phrase], *(f"{number:.7g}" for number in numbers)]))
    return "\n".join(lines)


Read = Callable[[str, tuple[float, float], Sequence[str]], Objects]
Write = Callable[[Objects, tuple[float, float], Sequence[str]], str]
