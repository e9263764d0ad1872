"""What a chain is made of: regions (phrase, box, colour), their places in the text, and boxes in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from got_core.chain_lexemes import BOX_END, BOX_START, PHRASE_END, PHRASE_START
from got_core.chain_words import COLOURS, Span, colour_word

Box = tuple[int, int, int, int]
"""(x1, y1, x2, y2), integers from 0 to 999: thousandths of the width and height; x1 < x2 and y1 < y2."""

SIDE = 1000
"""Coordinates run from 0 to SIDE - 1."""


@dataclass(frozen=True)
class Region:
    """An object or an area of the picture.

    Attributes:
        phrase: What stands there, in the chain's words; empty where the chain names nothing.
        box: (x1, y1, x2, y2), 0 to 999.
        colour: The colour written after the box as a CSS name in lower case, or None.
    """

    phrase: str
    box: Box
    colour: str | None = None

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle, in thousandths."""
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2

    @property
    def fraction(self) -> tuple[float, float, float, float]:
        """The box as fractions of width and height."""
        return to_pixels(self.box, 1, 1)


@dataclass(frozen=True)
class Place:
    """Where a region stands in the text; all spans are (start, end) in characters.

    Attributes:
        start, end: The whole region, from its phrase (with markers) to its colour.
        phrase: The phrase without markers; empty where the region has no words of its own.
        box: The box with its tokens or brackets.
        colour: The colour with its brackets, or None.
        marked: Whether the phrase stands between markers.
    """

    start: int
    end: int
    phrase: Span
    box: Span
    colour: Span | None
    marked: bool


@dataclass(frozen=True)
class Chain:
    """A chain that has been read; `str` gives its text back unchanged.

    Attributes:
        text: The text as it was given.
        regions: The regions in the order of the text.
        problems: What was wrong, in words; each begins with "repaired" (the region is kept) or "dropped".
        places: Where each region stands in the text.
        repairs: (start, end, new text) that `format_chain` puts in for each repaired place, in the order of the text.
    """

    text: str
    regions: tuple[Region, ...] = ()
    problems: tuple[str, ...] = ()
    places: tuple[Place, ...] = field(default=(), repr=False)
    repairs: tuple[tuple[int, int, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text


def write_region(region: Region) -> str:
    """A region in the form of our own chains: Qwen's tokens, then the colour in brackets if there is one.

    Raises:
        ValueError: The box or the colour is not one that can be read back.
    """
    x1, y1, x2, y2 = check_box(region.box)
    colour = "" if region.colour is None else f" ({check_colour(region.colour)})"
    return f"{PHRASE_START}{region.phrase}{PHRASE_END}{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}{colour}"


def colour_of(region: Region) -> str | None:
    """The colour written after the box, else the first CSS colour word of the phrase, else None."""
    return region.colour if region.colour is not None else colour_word(region.phrase)


def to_pixels(box: Sequence[float | int], height: int, width: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a box in pixels: it covers [x1/1000*W, x2/1000*W) by [y1/1000*H, y2/1000*H)."""
    x1, y1, x2, y2 = box
    return x1 / SIDE * width, y1 / SIDE * height, x2 / SIDE * width, y2 / SIDE * height


def from_pixels(box: Sequence[float | int], height: int, width: int) -> Box:
    """The box nearest to (left, top, right, bottom) in pixels.

    Raises:
        ValueError: It has no area inside the image.
    """
    left, top, right, bottom = box
    scaled = (left / width, top / height, right / width, bottom / height)
    x1, y1, x2, y2 = (min(max(round(value * SIDE), 0), SIDE - 1) for value in scaled)
    return check_box((x1, y1, x2, y2))


def check_box(box: Sequence[int]) -> Box:
    """The box as a tuple.

    Raises:
        ValueError: It is not four integers from 0 to 999 with x1 < x2 and y1 < y2.
    """
    match list(box):
        case [int(x1), int(y1), int(x2), int(y2)] if 0 <= x1 < x2 < SIDE and 0 <= y1 < y2 < SIDE:
            return x1, y1, x2, y2
    raise ValueError(
        f"box {tuple(box)} must be integers (x1, y1, x2, y2) from 0 to {SIDE - 1} with x1 < x2 and y1 < y2"
    )


def check_colour(colour: str) -> str:
    """The colour in lower case.

    Raises:
        ValueError: It is not a CSS colour name.
    """
    if colour.lower() not in COLOURS:
        raise ValueError(f"{colour!r} is not a CSS colour name; {len(COLOURS)} are known, such as red, gray or skyblue")
    return colour.lower()
