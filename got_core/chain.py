"""The reasoning chain: text with boxes <-> regions (GoT, section 3). Edits of a chain are in `got_core.chain_edits`.

These forms are read. PS, PE, BS and BE stand for Qwen's tokens `<|object_ref_start|>`, `<|object_ref_end|>`,
`<|box_start|>` and `<|box_end|>`:

    PS a dog PE BS (1,2),(3,4) BE                               Qwen2.5-VL's own tokens
    PS a dog PE BS (1,2),(3,4) BE (red)                         the same with a colour: the form that we write
    <|obj_start|>a dog<|obj_end|> BS (1,2),(3,4) BE             GoT-R1
    a dog BS (1,2),(3,4) BE (red)                               the released GoT code
    a dog (1,2),(3,4)                                           as printed in the paper; also **(1,2),(3,4)**
    a dog ((1, 2), (3, 4))

White space may stand anywhere between the parts. A name in brackets after a box is its colour if it is a CSS colour
name. Without phrase markers the phrase is the noun phrase before the box (`got_core.chain_words`). A box with no words
of its own ("two dogs (..),(..) and (..),(..)") belongs to the phrase before it. Reading never raises and takes time
linear in the text.
"""

import re
from collections.abc import Sequence

from got_core.chain_lexemes import (
    BOX_END,
    BOX_START,
    NUMBERS,
    PHRASE_ENDS,
    PHRASE_STARTS,
    Lexeme,
    lexemes,
    spliced,
    with_numbers,
)
from got_core.chain_regions import (
    SIDE,
    Box,
    Chain,
    Place,
    Region,
    check_box,
    check_colour,
    colour_of,
    from_pixels,
    to_pixels,
    write_region,
)
from got_core.chain_words import COLOURS, Span, noun_phrase

__all__ = [
    "COLOURS",
    "SIDE",
    "Box",
    "Chain",
    "Place",
    "Region",
    "check_box",
    "check_colour",
    "colour_of",
    "format_chain",
    "from_pixels",
    "parse",
    "to_pixels",
    "write_region",
]

_SUFFIX = re.compile(r"[^\S\n]*+(\(([A-Za-z]++)\))")
_SIGNIFICANT = 12
"""Characters of a number that are read; a longer one is far out of range anyway."""
_EXCERPT = 60
"""Characters of the text that a problem quotes."""


def parse(text: str) -> Chain:
    """Read a chain in any of the forms above. What is malformed is repaired or dropped and told in `problems`."""
    return _Reader(text).read()


def format_chain(chain: Chain) -> str:
    """The chain's text with repaired boxes and markers written in; unchanged where nothing was repaired.

    Reading it again gives the same regions and no repairs; what was dropped stays as it was written.
    """
    return spliced(chain.text, chain.repairs)


class _Reader:
    """Turns the lexemes of a text into regions, left to right."""

    def __init__(self, text: str):
        self.text = text
        self.regions: list[Region] = []
        self.places: list[Place] = []
        self.problems: list[str] = []
        self.repairs: list[tuple[int, int, str]] = []
        self.low = 0  # the next phrase begins no earlier
        self.phrase = ""  # what a box without words of its own belongs to
        self.marked: tuple[int, Span] | None = None  # start and phrase of markers that no box has taken yet

    def read(self) -> Chain:
        found = lexemes(self.text)
        for before, here, after in zip(found, found[1:], found[2:], strict=False):
            if here.kind == "box":
                self._box(before, here)
            elif here.kind == "phrase_end":
                self._phrase_end(before, here, after)
            elif here.kind == "phrase_start":
                if after.kind not in ("phrase_end", "box"):
                    self._problem("dropped", here, "closes nowhere")
            elif here.kind == "unfinished":
                self._problem("dropped", here, "is an unfinished box")
            elif here.kind == "cut":
                self._problem("dropped", here, "is an unfinished token")
            elif not (here.kind == "box_end" and before.kind == "box_start"):
                self._problem("dropped", here, "has no box beside it")
            self.low = max(self.low, here.end)
        return Chain(self.text, tuple(self.regions), tuple(self.problems), tuple(self.places), tuple(self.repairs))

    def _box(self, before: Lexeme, here: Lexeme) -> None:
        text = self.text
        box, faults = _read_box(NUMBERS.findall(text, here.start, here.end))
        start, phrase, marked = self._phrase(before, here, repair=box is not None)
        suffix = _SUFFIX.match(text, here.end)
        coloured = suffix is not None and suffix[2].lower() in COLOURS
        if suffix is not None and coloured:
            self.low = suffix.end()
        if here.opened != here.closed:
            faults.append(f"{BOX_END if here.opened else BOX_START} is missing")
        if box is None:
            self._problem("dropped", here, "; ".join(faults))
            return
        if faults:
            written = with_numbers(text[here.start : here.end], box)
            opening = BOX_START if here.closed and not here.opened else ""
            closing = BOX_END if here.opened and not here.closed else ""
            self.repairs.append((here.start, here.end, opening + written + closing))
            self._problem("repaired", here, "; ".join(faults) + f"; read as {box}")
        colour_span, colour = (suffix.span(1), suffix[2].lower()) if suffix is not None and coloured else (None, None)
        end = here.end if colour_span is None else colour_span[1]
        self.regions.append(Region(self.phrase, box, colour))
        self.places.append(Place(start, end, phrase, (here.start, here.end), colour_span, marked))

    def _phrase(self, before: Lexeme, here: Lexeme, repair: bool) -> tuple[int, Span, bool]:
        """Set `phrase` for the box here; returns the region's start, the phrase's own span, and if it is marked."""
        text, taken, self.marked = self.text, self.marked, None
        if before.kind == "phrase_start":
            span = _stripped(text, before.end, here.start)
            if repair:
                closing = PHRASE_ENDS[text[before.start : before.end]]
                self.repairs.append((span[1], span[1], closing))
                self._problem("repaired", before, f"closes nowhere; {closing} goes before the box")
            self.phrase = text[slice(*span)]
            return before.start, span, True
        span, connected = noun_phrase(text, self.low, here.start)
        if connected and taken is not None:
            return *taken, True
        if not connected:
            self.phrase = text[slice(*span)]
        return span[0], span, False

    def _phrase_end(self, before: Lexeme, here: Lexeme, after: Lexeme) -> None:
        text = self.text
        written = text[here.start : here.end]
        self.marked = None
        if before.kind == "phrase_start":
            start, span = before.start, _stripped(text, before.end, here.start)
            closing = PHRASE_ENDS[text[before.start : before.end]]
            if closing != written:
                self.repairs.append((here.start, here.end, closing))
                self._problem("repaired", here, f"does not fit the marker before it; read as {closing}")
        else:
            first = noun_phrase(text, self.low, here.start)[0][0]
            start, span = first, _stripped(text, first, here.start)
            if first == here.start:
                self._problem("dropped", here, "closes no phrase")
                return
            self.repairs.append((first, first, PHRASE_STARTS[written]))
            self._problem("repaired", here, f"opens nowhere; {PHRASE_STARTS[written]} goes before the phrase")
        self.phrase, self.marked = text[slice(*span)], (start, span)
        if after.kind == "edge" and not text[here.end :].strip():
            self._problem("dropped", Lexeme("phrase", start, here.end), "has no box: the text ends")

    def _problem(self, verdict: str, lexeme: Lexeme, what: str) -> None:
        excerpt = self.text[lexeme.start : min(lexeme.end, lexeme.start + _EXCERPT)]
        self.problems.append(f"{verdict}: {excerpt!r} at character {lexeme.start} {what}")


def _read_box(numbers: Sequence[str]) -> tuple[Box | None, list[str]]:
    """The box that four numbers mean, or None; and what was wrong with them."""
    values = [_value(number) for number in numbers]
    faults = []
    if any(value != round(value) for value in values):
        faults.append("not whole numbers")
    if any(not 0 <= value < SIDE for value in values):
        faults.append(f"outside 0 to {SIDE - 1}")
    x1, y1, x2, y2 = (min(max(round(value), 0), SIDE - 1) for value in values)
    if x1 > x2 or y1 > y2:
        faults.append("corners swapped")
    if x1 == x2 or y1 == y2:
        return None, [*faults, "no area"]
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)), faults


def _value(number: str) -> float:
    digits = number.lstrip("-").lstrip("0")[:_SIGNIFICANT]
    return (-1 if number.startswith("-") else 1) * float(digits or "0")


def _stripped(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())
