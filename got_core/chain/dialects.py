"""Forms of boxes beside the parser's: columns of coordinates (OmniEdit-GoT), and chains as people read them."""

import json
import re
from collections.abc import Mapping
from typing import Any

from got_core.chain.parser import BOX_END, BOX_START, PHRASE_END, PHRASE_START

_CORNER = r"\(\s*-?[\d.]+\s*,\s*-?[\d.]+\s*\)"
_CORNERS = rf"{_CORNER}\s*,\s*{_CORNER}"
_WRITTEN = re.compile(
    rf"{re.escape(PHRASE_START)}([^<>\[\]]*){re.escape(PHRASE_END)}{re.escape(BOX_START)}({_CORNERS}){re.escape(BOX_END)}"
)
_READABLE = re.compile(rf"\[([^<>\[\]]*)\]({_CORNERS})")


def readable(chain: str) -> str:
    """The chain for people; unchanged where it could not be turned back."""
    text = _WRITTEN.sub(r"[\1]\2", chain)
    return text if from_readable(text) == chain else chain


def from_readable(text: str) -> str:
    """The chain that a text for people means; other text, and chains in any form, stay as they are."""
    return _READABLE.sub(rf"{PHRASE_START}\1{PHRASE_END}{BOX_START}\2{BOX_END}", text)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NUMBERS_OF_A_BOX = 4


def fill_coordinates(text: str, coordinates: str | Mapping[str, Any]) -> str:
    """Put boxes in the places of their placeholders.

    OmniEdit-GoT keeps the text in `got` and, in `coord`, a JSON string that maps every placeholder in it to
    coordinates. A value may be written as a list, a list of points or a text; its numbers are read in order, four to a
    box, and written as `(x1,y1),(x2,y2)`.

    Raises:
        ValueError: `coordinates` is not a mapping, or a value is no whole number of boxes.
    """
    if isinstance(coordinates, str):
        try:
            coordinates = json.loads(coordinates)
        except ValueError as error:
            raise ValueError(f"coordinates are not valid JSON ({error})") from None
    if not isinstance(coordinates, Mapping):
        raise ValueError(f"coordinates must map placeholders to boxes, not be a {type(coordinates).__name__}")
    if not coordinates:
        return text
    boxes = {placeholder: _boxes(placeholder, value) for placeholder, value in coordinates.items()}
    longest_first = sorted(boxes, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: boxes[found.group()], text)


def _boxes(placeholder: str, value: object) -> str:
    numbers = [round(float(number)) for number in NUMBER.findall(str(value))]
    if not numbers or len(numbers) % NUMBERS_OF_A_BOX:
        raise ValueError(f"placeholder '{placeholder}' has {len(numbers)} numbers; a box needs {NUMBERS_OF_A_BOX}")
    corners = zip(*[iter(numbers)] * NUMBERS_OF_A_BOX, strict=True)
    return " ".join(f"({x1},{y1}),({x2},{y2})" for x1, y1, x2, y2 in corners)
