"""Reads and writes reasoning chains, text with boxes (GoT, section 3), in one pass without backtracking."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from got_core.chain.phrases import COLOURS, Span, colour_word, noun_phrase

PHRASE_START, PHRASE_END = "<|object_ref_start|>", "<|object_ref_end|>"
BOX_START, BOX_END = "<|box_start|>", "<|box_end|>"

PHRASE_ENDS = {PHRASE_START: PHRASE_END, "<|obj_start|>": "<|obj_end|>"}
"""The closing marker of each opening phrase marker: Qwen's and GoT-R1's."""

PHRASE_STARTS = {end: start for start, end in PHRASE_ENDS.items()}

_KINDS = {
    **dict.fromkeys(PHRASE_ENDS, "phrase_start"),
    **dict.fromkeys(PHRASE_STARTS, "phrase_end"),
    BOX_START: "box_start",
    BOX_END: "box_end",
}
_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
NUMBERS = re.compile(_NUMBER)
_OPEN, _COMMA, _CLOSE = "[(（]", "[,，]", "[)）]"
"""Brackets and comma, also as wide as Chinese text has them."""

_BOX_AFTER_BRACKET = (
    *(r"\s*", f"(?P<number>{_NUMBER})", r"\s*", _COMMA, r"\s*", _NUMBER, r"\s*", _CLOSE, r"\s*", _COMMA, r"\s*"),
    *(f"(?P<second>{_OPEN})", r"\s*", _NUMBER, r"\s*", _COMMA, r"\s*", _NUMBER, r"\s*", f"(?P<whole>{_CLOSE})"),
)
_BRACKETS = (("(", ")"), ("（", "）"), ("**", "**"))


def _any_beginning(parts: Sequence[str]) -> str:
    """A pattern for as many of the parts in a row as occur. It always matches, so it never backtracks."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"(?:{part}{pattern})?"
    return pattern


_PATTERN = re.compile(
    "|".join(
        (
            f"(?P<marker>{'|'.join(map(re.escape, _KINDS))})",
            r"(?P<cut><\|[a-z_]*+\|?+\Z)",
            _OPEN + _any_beginning(_BOX_AFTER_BRACKET),
        )
    )
)


class Lexeme(NamedTuple):
    """A token, or a box with the brackets and box tokens around it.

    Attributes:
        kind: "phrase_start", "phrase_end", "box_start", "box_end" (box tokens that belong to no box), "box",
            "unfinished" (the beginning of a box), "cut" (the beginning of a token at the end of the text), or
            "edge" (the beginning or end of the text).
        start, end: Its span in characters.
        opened, closed: Whether a box has a box token before and after it.
    """

    kind: str
    start: int
    end: int
    opened: bool = False
    closed: bool = False


def lexemes(text: str) -> list[Lexeme]:
    """List the lexemes of a text, in order and not overlapping, between two "edge" lexemes."""
    raw = [Lexeme("edge", 0, 0), *_raw(text), Lexeme("edge", len(text), len(text))]
    joined = raw[:1]
    for before, here, after in zip(raw, raw[1:], raw[2:], strict=False):
        if here.kind not in ("box", "unfinished"):
            if not (here.kind == "box_end" and joined[-1].closed and joined[-1].end == here.end):
                joined.append(here)
            continue
        start, end = here.start, here.end
        for opening, closing in _BRACKETS if here.kind == "box" else ():
            start, end = _with_brackets(text, (start, end), (before.end, after.start), opening, closing)
        opened = before.kind == "box_start" and not text[before.end : start].strip()
        closed = after.kind == "box_end" and not text[end : after.start].strip()
        if opened:
            joined.pop()
        joined.append(
            Lexeme(here.kind, before.start if opened else start, after.end if closed else end, opened, closed)
        )
    return [*joined, raw[-1]]


def with_numbers(written: str, numbers: Iterable[int]) -> str:
    """Write other numbers into a written box; brackets, tokens and spaces stay."""
    values = iter(numbers)
    return NUMBERS.sub(lambda _: str(next(values)), written)


def spliced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """Replace spans (start, end) of a text; they must be in order and not overlap."""
    pieces, done = [], 0
    for start, end, new in changes:
        pieces += [text[done:start], new]
        done = end
    return "".join([*pieces, text[done:]])


def _raw(text: str) -> Iterator[Lexeme]:
    for match in _PATTERN.finditer(text):
        if match["marker"]:
            yield Lexeme(_KINDS[match["marker"]], *match.span())
        elif match["cut"]:
            yield Lexeme("cut", *match.span())
        elif match["whole"]:
            yield Lexeme("box", *match.span())
        elif match["second"] or (match["number"] and match.end() == len(text)):
            yield Lexeme("unfinished", *match.span())


def _with_brackets(
    text: str, span: tuple[int, int], limits: tuple[int, int], opening: str, closing: str
) -> tuple[int, int]:
    """The span extended by brackets just outside it, if both are within the limits."""
    before, after = text[limits[0] : span[0]].rstrip(), text[span[1] : limits[1]].lstrip()
    if before.endswith(opening) and after.startswith(closing):
        return limits[0] + len(before) - len(opening), limits[1] - len(after) + len(closing)
    return span


Box = tuple[int, int, int, int]
"""(x1, y1, x2, y2), integers from 0 to 999: thousandths of the width and height; x1 < x2 and y1 < y2."""

SIDE = 1000
"""Coordinates run from 0 to SIDE - 1."""


@dataclass(frozen=True)
class Region:
    """An object or an area of the image.

    Attributes:
        phrase: The words of the chain for it; empty where the chain names nothing.
        box: (x1, y1, x2, y2), 0 to 999.
        colour: The colour written after the box as a CSS name in lower case, or None.
    """

    phrase: str
    box: Box
    colour: str | None = None


@dataclass(frozen=True)
class Location:
    """The position of a region in the text; all spans are (start, end) in characters.

    Attributes:
        start, end: The whole region, from its phrase (with markers) to its colour.
        phrase: The phrase without markers; empty where the region has no words of its own.
        box: The box with its tokens or brackets.
        colour: The colour with its brackets, or None.
        marked: Whether the phrase is between markers.
    """

    start: int
    end: int
    phrase: Span
    box: Span
    colour: Span | None
    marked: bool


@dataclass(frozen=True)
class Chain:
    """A chain that has been read; `str` returns its text unchanged.

    Attributes:
        text: The given text.
        regions: The regions in the order of the text.
        problems: What was wrong, in words; each begins with "repaired" (the region is kept) or "dropped".
        locations: The position of each region in the text.
        repairs: (start, end, new text) of each repair that `format_chain` makes, in the order of the text.
    """

    text: str
    regions: tuple[Region, ...] = ()
    problems: tuple[str, ...] = ()
    locations: tuple[Location, ...] = field(default=(), repr=False)
    repairs: tuple[tuple[int, int, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text


def write_region(region: Region) -> str:
    """Write a region in the form of this project's chains: Qwen's tokens, then the colour in brackets if it has one.

    Raises:
        ValueError: The box or the colour could not be read back.
    """
    x1, y1, x2, y2 = check_box(region.box)
    colour = "" if region.colour is None else f" ({check_colour(region.colour)})"
    return f"{PHRASE_START}{region.phrase}{PHRASE_END}{BOX_START}({x1},{y1}),({x2},{y2}){BOX_END}{colour}"


def colour_of(region: Region) -> str | None:
    """Return the colour written after the box, else the first CSS colour word of the phrase, else None."""
    return region.colour if region.colour is not None else colour_word(region.phrase)


def to_pixels(box: Sequence[float | int], height: int, width: int) -> tuple[float, float, float, float]:
    """Convert a box to pixels (left, top, right, bottom): [x1/1000*W, x2/1000*W) by [y1/1000*H, y2/1000*H)."""
    x1, y1, x2, y2 = box
    return x1 / SIDE * width, y1 / SIDE * height, x2 / SIDE * width, y2 / SIDE * height


def check_box(box: Sequence[int]) -> Box:
    """Check a box and return it as a tuple.

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
    """Check a colour and return it in lower case.

    Raises:
        ValueError: It is not a CSS colour name.
    """
    if colour.lower() not in COLOURS:
        raise ValueError(f"{colour!r} is not a CSS colour name; {len(COLOURS)} are known, such as red, gray or skyblue")
    return colour.lower()


_SUFFIX = re.compile(rf"[^\S\n]*+({_OPEN}([A-Za-z]++){_CLOSE})")


def parse(text: str) -> Chain:
    """Read a chain in any of the forms above. Malformed parts are repaired or dropped and reported in `problems`.

    Example:
        >>> parse("a dog (100,200),(300,400)").regions
        (Region(phrase='a dog', box=(100, 200, 300, 400), colour=None),)
    """
    return _Reader(text).read()


def format_chain(chain: Chain) -> str:
    """Write the chain's text with repaired boxes and markers; unchanged where nothing was repaired.

    Reading it again gives the same regions and no repairs; dropped parts stay as they were written.
    """
    return spliced(chain.text, chain.repairs)


class _Reader:
    """Turns the lexemes of a text into regions, left to right."""

    def __init__(self, text: str):
        self.text = text
        self.regions: list[Region] = []
        self.locations: list[Location] = []
        self.problems: list[str] = []
        self.repairs: list[tuple[int, int, str]] = []
        self.low = 0  # earliest start of the next phrase
        self.phrase = ""  # the phrase of a box without words of its own
        self.marked: tuple[int, Span] | None = None  # start and phrase of markers that have no box yet

    def read(self) -> Chain:
        items = lexemes(self.text)
        for before, here, after in zip(items, items[1:], items[2:], strict=False):
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
        return Chain(self.text, tuple(self.regions), tuple(self.problems), tuple(self.locations), tuple(self.repairs))

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
        self.locations.append(Location(start, end, phrase, (here.start, here.end), colour_span, marked))

    def _phrase(self, before: Lexeme, here: Lexeme, repair: bool) -> tuple[int, Span, bool]:
        """Set `phrase` for the box here. Returns the region's start, the phrase's own span, and if it is marked."""
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

    def _problem(self, result: str, lexeme: Lexeme, what: str) -> None:
        excerpt = self.text[lexeme.start : min(lexeme.end, lexeme.start + 60)]
        self.problems.append(f"{result}: {excerpt!r} at character {lexeme.start} {what}")


def _read_box(numbers: Sequence[str]) -> tuple[Box | None, list[str]]:
    """The box of four numbers, or None; and what was wrong with them."""
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
    digits = number.lstrip("-").lstrip("0")[:12]  # a longer number is far out of range anyway
    return (-1 if number.startswith("-") else 1) * float(digits or "0")


def _stripped(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())
