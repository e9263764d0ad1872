"""Forms of boxes besides the parser's: columns of coordinates (OmniEdit-GoT), Qwen's JSON, and readable chains."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import inf
from typing import Any

from got_core.chain.parser import BOX_END, BOX_START, PHRASE_END, PHRASE_START
from got_core.errors import parse_json

_CORNER_NAMES = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_NUMBER_IN_TEXT = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w|\.\d)")
_CORNERS = r"\s*,\s*".join([r"\(\s*-?[\d.]+\s*,\s*-?[\d.]+\s*\)"] * 2)
_WRITTEN = re.compile(
    rf"{re.escape(PHRASE_START)}([^<>\[\]]*){re.escape(PHRASE_END)}{re.escape(BOX_START)}({_CORNERS}){re.escape(BOX_END)}"
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)
_READABLE = re.compile(rf"\[([^<>\[\]]*)\]({_CORNERS})")


def readable(chain: str) -> str:
    """Write a chain without special tokens; unchanged where the result could not be converted back."""
    text = _WRITTEN.sub(r"[\1]\2", chain)
    return text if from_readable(text) == chain else chain


def from_readable(text: str) -> str:
    """Convert a readable text, or Qwen's JSON, to a chain; other text, and chains in any form, stay as they are."""
    return _READABLE.sub(rf"{PHRASE_START}\1{PHRASE_END}{BOX_START}\2{BOX_END}", from_json(text))


def from_json(text: str) -> str:
    """Convert Qwen's JSON of grounded objects, `[{"bbox_2d": [x1, y1, x2, y2], "label": "a dog"}, ...]`, to a chain.

    Coordinates are taken as they are, though Qwen2.5-VL writes pixels of its input. Other text stays as it is.
    """
    fenced = _FENCE.fullmatch(text.strip())
    try:
        objects = parse_json(fenced[1] if fenced else text)
    except ValueError:
        return text
    regions = []
    for each in [objects] if isinstance(objects, Mapping) else objects if isinstance(objects, list) else []:
        match each:
            case {
                "bbox_2d": [int() | float(), int() | float(), int() | float(), int() | float()] as box,
                "label": str(label),
            }:
                x1, y1, x2, y2 = (f"{corner:g}" for corner in box)
                regions.append(f"{PHRASE_START}{label}{PHRASE_END}{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}")
            case _:
                return text
    return ", ".join(regions) if regions else text


def fill_coordinates(text: str, coordinates: str | Mapping[str, Any]) -> str:
    """Replace placeholders by their boxes.

    OmniEdit-GoT has the text in `got` and, in `coord`, a JSON string that maps every placeholder to coordinates. A
    value may be a list, a list of points or boxes, a mapping of x1, y1, x2, y2 to numbers, or any of these in JSON or
    plain text. Its numbers, thousandths of width and height, are written as `(x1,y1),(x2,y2)`.

    Raises:
        ValueError: `coordinates` is not a mapping, or a value has fractions, or numbers that make no whole boxes.
    """
    if isinstance(coordinates, str):
        try:
            coordinates = parse_json(coordinates)
        except ValueError as error:
            raise ValueError(f"coordinates are not valid JSON ({error})") from None
    if not isinstance(coordinates, Mapping):
        raise ValueError(f"coordinates must map placeholders to boxes, not be a {type(coordinates).__name__}")
    if not coordinates:
        return text
    boxes = {placeholder: _boxes(placeholder, value) for placeholder, value in coordinates.items()}
    longest_first = sorted(boxes, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: boxes[match.group()], text)


def _boxes(placeholder: str, value: object) -> str:
    numbers = list(_numbers(placeholder, value))
    if not numbers or len(numbers) % 4:
        raise ValueError(f"placeholder '{placeholder}' has {len(numbers)} numbers; a box needs 4")
    if max(numbers) <= 1:
        raise ValueError(
            f"placeholder '{placeholder}' has {', '.join(f'{number:g}' for number in numbers[:4])}, which are "
            "fractions of width and height; boxes are thousandths: multiply by 1000"
        )
    corners = zip(*[iter(map(round, numbers))] * 4, strict=True)
    return " ".join(f"({x1},{y1}),({x2},{y2})" for x1, y1, x2, y2 in corners)


def _numbers(placeholder: str, value: object) -> Iterator[float]:
    """The coordinates of a value, in the order x1, y1, x2, y2 of each box."""
    if isinstance(value, str) and value.strip().startswith(("[", "{")):
        with suppress(ValueError):
            value = parse_json(value)
    if isinstance(value, Mapping):
        names = {str(name).lower(): inner for name, inner in value.items()}
        corners = next((each for each in _CORNER_NAMES if names.keys() >= set(each)), None)
        inside = [inner for inner in names.values() if isinstance(inner, Mapping | list | tuple)]
        if corners is None and not inside:
            raise ValueError(
                f"placeholder '{placeholder}' has {', '.join(names)}; a box has {', '.join(_CORNER_NAMES[0])}"
            )
        value = inside if corners is None else [names[corner] for corner in corners]
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _numbers(placeholder, inner)
    elif isinstance(value, str):
        yield from map(float, _NUMBER_IN_TEXT.findall(value))
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < inf:
        yield value
    else:
        raise ValueError(f"placeholder '{placeholder}' has {value!r}, which is no coordinate")
