"""Words beside a box: its noun phrase, and colour names.

A chain without phrase markers does not say where a box's phrase begins. This rule is short and deterministic:

1. Connecting words ("is", "at", "on the left"), names of the box itself ("within the bounding box"), remarks in
   brackets and light punctuation before the box are skipped.
2. The phrase is read backwards from there until punctuation, a connecting word, a command ("remove"), the previous box
   or `MAX_WORDS` words; it begins with the nearest determiner ("a", "the", "two", ...) among these words.
3. Without a determiner it begins after the nearest "of" or word in "-ing".
"""

import re
from collections.abc import Sequence

from PIL import ImageColor

Span = tuple[int, int]
"""(start, end) in characters."""

COLOURS = frozenset(ImageColor.colormap)
"""The CSS colour names, in lower case."""

MAX_WORDS = 8
"""Most words of the phrase of a box without phrase markers."""

LOOK_BACK = 200
"""Characters before a box in which its phrase is searched."""

_LETTERS = re.compile(r"[A-Za-z]+")
_DETERMINERS = frozenset(
    _LETTERS.findall(
        """
        a an the this that these those his her its their my your our some several many another each every both
        one two three four five six seven eight nine ten
        """
    )
)
_CONNECTING = frozenset(
    _LETTERS.findall(
        """
        and or but with without in on at by near beside behind below under above over beneath between from to into onto
        within through across along around against toward towards inside outside next is are was were be has have had as
        where while which who there show shows showing feature features featuring contain contains containing include
        includes including depict depicts depicting hold holds holding wear wears wearing sit sits stand stands lie lies
        located positioned placed situated
        """
    )
)
_COMMANDS = frozenset(["add", "remove", "replace", "change", "move"])
_BEFORE_BOX = _CONNECTING | {"the", "left", "right", "middle", "center", "centre"} | set(":,-–—=*\"“”'’`[(&")
_OF_BOX = frozenset(
    _LETTERS.findall(
        """
        a its their this these those new following corresponding target final original same defined specified marked
        given indicated described bounded delimited enclosed
        """
    )
)
_CLOSING = {")": "(", "]": "["}
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def noun_phrase(text: str, low: int, high: int) -> tuple[Span, bool]:
    """Find the noun phrase for a box that begins at `high`; words before `low` do not count.

    Returns:
        The phrase's span, empty at `high` if the box has no phrase; and whether only connecting words (or nothing) are
        between `low` and `high`, so that the box belongs to the phrase before `low`.
    """
    end = low + len(text[low:high].rstrip())
    start = max(low, end - LOOK_BACK)
    tokens = list(_TOKEN.finditer(text, start, end))
    if start > low and tokens and text[start - 1].isalnum() and tokens[0].start() == start:
        del tokens[0]
    tokens = tokens[: _without_connecting([token[0].lower() for token in tokens])]
    if not tokens:
        return (high, high), start == low
    first = _first_word([token[0].lower() for token in tokens])
    if first == len(tokens):
        return (high, high), False
    return (tokens[first].start(), tokens[-1].end()), False


def without_last_connecting(text: str) -> str:
    """Remove connecting words and white space at the end ("a field with" -> "a field")."""
    text = text.rstrip()
    tokens = list(_TOKEN.finditer(text, max(0, len(text) - LOOK_BACK)))
    while tokens and tokens[-1][0].lower() in _CONNECTING:
        text = text[: tokens.pop().start()].rstrip()
    return text


def colour_span(phrase: str) -> Span | None:
    """Find the first CSS colour of a phrase; two words that make one name ("light blue") count as one."""
    words = list(_LETTERS.finditer(phrase))
    for here, after in zip(words, [*words[1:], None], strict=False):
        if after and after.start() == here.end() + 1 and (here[0] + after[0]).lower() in COLOURS:
            return here.start(), after.end()
        if here[0].lower() in COLOURS:
            return here.span()
    return None


def colour_word(phrase: str) -> str | None:
    """Return the first CSS colour of a phrase by its CSS name ("a light blue car" -> "lightblue"), or None."""
    span = colour_span(phrase)
    return None if span is None else "".join(_LETTERS.findall(phrase[span[0] : span[1]])).lower()


def with_colour_word(phrase: str, colour: str) -> str:
    """Replace the first CSS colour of a phrase, and adapt "a" or "an" before it; unchanged without a colour."""
    span = colour_span(phrase)
    if span is None:
        return phrase
    before = phrase[: span[0]]
    article = re.search(r"\b(a)n?( )\Z", before[-len("an ") - 1 :], re.IGNORECASE)
    if article:
        fitting = article[1] + ("n" if colour[0] in "aeiou" else "")
        before = before[: len(before) - len(article[0])] + fitting + article[2]
    return before + colour + phrase[span[1] :]


def _without_connecting(words: Sequence[str]) -> int:
    """Number of words that are left without connecting words, remarks in brackets and "the bounding box" at the end."""
    count, box_named = len(words), False
    while count:
        word = words[count - 1]
        if word in _CLOSING:
            opened = _opening(words, count - 1)
            if opened is None:
                return count
            count = opened
        elif length := _box_name(words, count):
            count, box_named = count - length, True
        elif word in _BEFORE_BOX or (box_named and word in _OF_BOX):
            count -= 1
        else:
            return count
    return count


def _opening(words: Sequence[str], closing: int) -> int | None:
    """Index of the bracket that the one at `closing` closes; None without one."""
    depth = 0
    for index in range(closing, -1, -1):
        depth += (words[index] in _CLOSING) - (words[index] in _CLOSING.values())
        if depth == 0:
            return index
    return None


def _box_name(words: Sequence[str], end: int) -> int:
    """Number of words before index `end` that name a box itself, not what is in it."""
    if words[end - 1] in ("bbox", "bboxes", "coordinates"):
        return 1
    return 2 if end > 1 and words[end - 2] == "bounding" and words[end - 1] in ("box", "boxes") else 0


def _first_word(words: Sequence[str]) -> int:
    """Index of the first word of the noun phrase that ends with the last word; `len(words)` if there is no phrase."""
    first = len(words)
    while first and len(words) - first < MAX_WORDS:
        word = words[first - 1]
        if not word[0].isalnum() or word in _CONNECTING or word in _COMMANDS:
            break
        first -= 1
        if word in _DETERMINERS:
            return first
    for index in range(len(words) - 2, first - 1, -1):
        if words[index] == "of" or words[index].endswith("ing"):
            return index + 1
    return first
