"""Forms of boxes besides the parser's: columns of coordinates (OmniEdit-GoT), and readable chains."""

import re
from collections.abc import Mapping
from typing import Any

from got_core.chain.parser import BOX_END, BOX_START, PHRASE_END, PHRASE_START
from got_core.errors import parse_json

_CORNERS = r"\s*,\s*".join([r"\(\s*-?[\d.]+\s*,\s*-?[\d.]+\s*\)"] * 2)
_WRITTEN = re.compile(
    rf"{re.escape(PHRASE_START)}([^<>\[\]]*){re.escape(PHRASE_END)}{re.escape(BOX_START)}({_CORNERS}){re.escape(BOX_END)}"
)
_READABLE = re.compile(rf"\[([^<>\[\]]*)\]({_CORNERS})")


def readable(chain: str) -> str:
    """Write a chain without special tokens; unchanged where the result could not be converted back."""
    text = _WRITTEN.sub(r"[\1]\2", chain)
    return text if from_readable(text) == chain else chain


def from_readable(text: str) -> str:
    """Convert a readable text back to a chain; other text, and chains in any form, stay as they are."""
    return _READABLE.sub(rf"{PHRASE_START}\1{PHRASE_END}{BOX_START}\2{BOX_END}", text)


def fill_coordinates(text: str, coordinates: str | Mapping[str, Any]) -> str:
    """Replace placeholders by their boxes.

    OmniEdit-GoT has the text in `got` and, in `coord`, a JSON string that maps every placeholder to coordinates. A
    value may be a list, a list of points or a text; its numbers are read in order, four to a box, and written as
    `(x1,y1),(x2,y2)`.

    Raises:
        ValueError: `coordinates` is not a mapping, or a value has numbers that make no whole boxes.
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
    numbers = [round(float(number)) for number in re.findall(r"-?\d+(?:\.\d+)?", str(value))]
    if not numbers or len(numbers) % 4:
        raise ValueError(f"placeholder '{placeholder}' has {len(numbers)} numbers; a box needs 4")
    corners = zip(*[iter(numbers)] * 4, strict=True)
    return " ".join(f"({x1},{y1}),({x2},{y2})" for x1, y1, x2, y2 in corners)
