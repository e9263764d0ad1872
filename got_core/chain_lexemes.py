"""The tokens and boxes in a chain's text, found in one pass from left to right without backtracking."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

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
_BOX_AFTER_BRACKET = (
    *(r"\s*", f"(?P<number>{_NUMBER})", r"\s*", ",", r"\s*", _NUMBER, r"\s*", r"\)", r"\s*", ",", r"\s*"),
    *(r"(?P<second>\()", r"\s*", _NUMBER, r"\s*", ",", r"\s*", _NUMBER, r"\s*", r"(?P<whole>\))"),
)
_BRACKETS = (("(", ")"), ("**", "**"))


def _any_beginning(parts: Sequence[str]) -> str:
    """A pattern for as many of the parts in a row as there are. It always matches, so it never backtracks."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"(?:{part}{pattern})?"
    return pattern


_PATTERN = re.compile(
    "|".join(
        (
            f"(?P<marker>{'|'.join(map(re.escape, _KINDS))})",
            r"(?P<cut><\|[a-z_]*+\|?+\Z)",
            r"\(" + _any_beginning(_BOX_AFTER_BRACKET),
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
    """The lexemes of a text, in order and not overlapping, between two "edge" lexemes."""
    raw = [Lexeme("edge", 0, 0), *_raw(text), Lexeme("edge", len(text), len(text))]
    found = raw[:1]
    for before, here, after in zip(raw, raw[1:], raw[2:], strict=False):
        if here.kind not in ("box", "unfinished"):
            if not (here.kind == "box_end" and found[-1].closed and found[-1].end == here.end):
                found.append(here)
            continue
        start, end = here.start, here.end
        for opening, closing in _BRACKETS if here.kind == "box" else ():
            start, end = _with_brackets(text, (start, end), (before.end, after.start), opening, closing)
        opened = before.kind == "box_start" and _blank(text, before.end, start)
        closed = after.kind == "box_end" and _blank(text, end, after.start)
        if opened:
            found.pop()
        found.append(Lexeme(here.kind, before.start if opened else start, after.end if closed else end, opened, closed))
    return [*found, raw[-1]]


def with_numbers(written: str, numbers: Iterable[int]) -> str:
    """A box as written somewhere, with other numbers in the same brackets, tokens and spaces."""
    values = iter(numbers)
    return NUMBERS.sub(lambda _: str(next(values)), written)


def spliced(text: str, changes: Iterable[tuple[int, int, str]]) -> str:
    """The text with the spans (start, end) replaced; they must be in order and not overlap."""
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
    """The span widened by brackets just outside it, if both are there within the limits."""
    before, after = text[limits[0] : span[0]].rstrip(), text[span[1] : limits[1]].lstrip()
    if before.endswith(opening) and after.startswith(closing):
        return limits[0] + len(before) - len(opening), limits[1] - len(after) + len(closing)
    return span


def _blank(text: str, start: int, end: int) -> bool:
    return not text[start:end].strip()
