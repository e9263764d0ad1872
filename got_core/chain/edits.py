"""Edits of a chain: move, resize, replace, recolour, add or remove a region, in any form in which the chain is written.

Pure functions from a chain to a new one. Repairs are written first, then only the text of the region is rewritten, and
the result is read again: the edited region reads back exactly as requested and the others as they were. Where a phrase
without markers would not (its words continue those before it), it is put between Qwen's phrase markers. Regions are
counted from 0 in the order of the text.

All raise a ValueError when the chain is so malformed around the region that the edited text would not read back.
"""

from collections.abc import Sequence
from dataclasses import replace as with_fields

from got_core.chain.parser import (
    PHRASE_END,
    PHRASE_START,
    SIDE,
    Chain,
    Location,
    Region,
    check_box,
    check_colour,
    format_chain,
    lexemes,
    parse,
    spliced,
    with_numbers,
    write_region,
)
from got_core.chain.phrases import colour_word, with_colour_word, without_last_connecting

_Changes = list[tuple[int, int, str]]

_ATTEMPTS = ((False, False), (True, False), (True, True))
"""Ways to write an edit, simplest first: whether phrases are marked, and the next region's phrase even if empty."""

_JOINS_BEFORE = (", and", " and", ",")
_JOINS_AFTER = (", and ", "and ", ",")
_CLAUSE_ENDS = (".", ",", ";", "!", "?", ")")


def move(chain: Chain, index: int, *, dx: int = 0, dy: int = 0, to: tuple[int, int] | None = None) -> Chain:
    """Move a region by (dx, dy), or its top-left corner to `to`, in thousandths; its size stays.

    Raises:
        ValueError: The region does not exist, or the box would leave the image.
    """
    chain = _repaired(chain, index)
    x1, y1, x2, y2 = chain.regions[index].box
    if to is not None:
        dx, dy = dx + to[0] - x1, dy + to[1] - y1
    for name, shift, low, high in (("dx", dx, -x1, SIDE - 1 - x2), ("dy", dy, -y1, SIDE - 1 - y2)):
        if not low <= shift <= high:
            raise ValueError(f"region {index} at {(x1, y1, x2, y2)} cannot move by {name} {shift}: {low} to {high} fit")
    return resize(chain, index, (x1 + dx, y1 + dy, x2 + dx, y2 + dy))


def resize(chain: Chain, index: int, box: Sequence[int]) -> Chain:
    """Give a region another box.

    Raises:
        ValueError: The region does not exist, or the box is not one.
    """
    chain = _repaired(chain, index)
    return _rewritten(chain, index, with_fields(chain.regions[index], box=check_box(box)))


def replace(chain: Chain, index: int, phrase: str) -> Chain:
    """Replace a region's object.

    The phrase changes at the region only: elsewhere in the text the old words stay. A colour after the box follows
    the phrase's colour word, if it has one.

    Raises:
        ValueError: The region does not exist, or the phrase is empty or contains a box or a marker.
    """
    chain, phrase = _repaired(chain, index), _checked_phrase(phrase)
    region = chain.regions[index]
    colour = None if region.colour is None else colour_word(phrase) or region.colour
    return _rewritten(chain, index, with_fields(region, phrase=phrase, colour=colour))


def recolour(chain: Chain, index: int, colour: str) -> Chain:
    """Change a region's colour: the first colour word of its phrase, and the colour after its box.

    A region with neither gets one after its box.

    Raises:
        ValueError: The region does not exist, or the colour is not a CSS colour name.
    """
    chain, colour = _repaired(chain, index), check_colour(colour)
    region = chain.regions[index]
    phrase = with_colour_word(region.phrase, colour)
    written = None if region.colour is None and colour_word(region.phrase) else colour
    return _rewritten(chain, index, with_fields(region, phrase=phrase, colour=written))


def add(chain: Chain, phrase: str, box: Sequence[int], colour: str | None = None) -> Chain:
    """Add a region after the last one, in the form of that one; in the form of `write_region` if there is none.

    Where the chain writes colours and none is given, the phrase's colour word is written, if it has one.

    Raises:
        ValueError: The phrase, box or colour could not be read back.
    """
    chain = parse(format_chain(chain))
    model = next((each for each in reversed(chain.locations) if each.phrase[0] < each.phrase[1]), None)
    phrase, colour = _checked_phrase(phrase), None if colour is None else check_colour(colour)
    if colour is None and (model is None or model.colour is not None):
        colour = colour_word(phrase)
    region = Region(phrase, check_box(box), colour)
    expected = (*chain.regions, region)
    if model is None:
        return _first_that_reads(expected, [_appended(chain, write_region(region))])
    return _first_that_reads(
        expected, [_appended(chain, _in_form(chain, model, region, marked)) for marked in (False, True)]
    )


def remove(chain: Chain, index: int) -> Chain:
    """Remove a region from the text: its phrase, box and colour, and an "and" or comma that joined it to others.

    Raises:
        ValueError: The region does not exist.
    """
    chain = _repaired(chain, index)
    location = chain.locations[index]
    expected = chain.regions[:index] + chain.regions[index + 1 :]
    candidates = []
    for marked, empty in _ATTEMPTS:
        following = _next_phrase(chain, index, marked, empty, always=marked)
        candidates.append(_closed_up(chain.text[: location.start], spliced(chain.text[location.end :], following)))
    return _first_that_reads(expected, candidates)


def _repaired(chain: Chain, index: int) -> Chain:
    """The chain with its repairs written, if it has a region of that index."""
    count = len(chain.regions)
    if not 0 <= index < count:
        known = f"it has {count}, 0 to {count - 1}" if count else "it has none"
        raise ValueError(f"the chain has no region {index}: {known}")
    return parse(format_chain(chain))


def _checked_phrase(phrase: str) -> str:
    if not phrase.strip() or any(lexeme.kind != "edge" for lexeme in lexemes(phrase)):
        raise ValueError(f"phrase {phrase!r} must have words, and neither a box nor one of the chain's markers")
    return phrase.strip()


def _first_that_reads(expected: Sequence[Region], texts: Sequence[str]) -> Chain:
    """The first of the texts that reads as expected."""
    for text in texts:
        chain = parse(text)
        if chain.regions == tuple(expected):
            return chain
    read = ", ".join(str(region) for region in chain.regions)
    raise ValueError(f"the chain is too malformed to be edited there: the edited text would read as [{read}]")


def _rewritten(chain: Chain, index: int, region: Region) -> Chain:
    """The chain with one region rewritten."""
    expected = (*chain.regions[:index], region, *chain.regions[index + 1 :])
    location, old = chain.locations[index], chain.regions[index]
    texts = []
    for marked, empty in _ATTEMPTS:
        changes: _Changes = []
        if region.phrase != old.phrase:
            changes.append(_phrase_change(location, region.phrase, marked))
        changes.append((*location.box, with_numbers(chain.text[slice(*location.box)], region.box)))
        if region.colour != old.colour and region.colour is not None:
            if location.colour is None:
                changes.append((location.end, location.end, f" ({region.colour})"))
            else:
                changes.append((*location.colour, f"({region.colour})"))
        if region.phrase != old.phrase:
            following = _next_phrase(chain, index, marked, empty, always=False)
            changes += [(start + location.end, end + location.end, new) for start, end, new in following]
        texts.append(spliced(chain.text, changes))
    return _first_that_reads(expected, texts)


def _phrase_change(location: Location, phrase: str, marked: bool) -> tuple[int, int, str]:
    """The change that gives a region a phrase, between markers where `marked` and it has none yet."""
    if marked and not location.marked:
        phrase = f"{PHRASE_START}{phrase}{PHRASE_END}"
    start, end = location.phrase
    return start, end, phrase if start < end or location.marked else f"{phrase} "


def _next_phrase(chain: Chain, index: int, marked: bool, empty: bool, always: bool) -> _Changes:
    """The change that gives the region after `index` a phrase of its own; only where it has none, unless `always`.

    Positions count from the end of the region at `index`.
    """
    if index + 1 == len(chain.regions):
        return []
    location, region, offset = chain.locations[index + 1], chain.regions[index + 1], chain.locations[index].end
    shared = location.phrase[0] == location.phrase[1]
    if location.marked or not (shared or always) or not (region.phrase or empty):
        return []
    start, end, new = _phrase_change(location, region.phrase, marked)
    return [(start - offset, end - offset, new)]


def _in_form(chain: Chain, model: Location, region: Region, marked: bool) -> str:
    """A region in the form of another one; with Qwen's phrase markers where `marked` and the form has none."""
    before = chain.text[model.start : model.phrase[0]]
    between = chain.text[model.phrase[1] : model.box[0]]
    if not model.marked:
        between = " " if any(letter.isalnum() for letter in between) else between
        if marked:
            before, between = PHRASE_START, PHRASE_END + between
    box = with_numbers(chain.text[slice(*model.box)], region.box)
    return before + region.phrase + between + box + ("" if region.colour is None else f" ({region.colour})")


def _appended(chain: Chain, piece: str) -> str:
    if chain.locations:
        end = chain.locations[-1].end
        return f"{chain.text[:end]} and {piece}{chain.text[end:]}"
    sentence = chain.text.rstrip().removesuffix(".")
    return f"{sentence} with {piece}." if sentence else piece


def _closed_up(before: str, after: str) -> str:
    """Join the text before and after a removed region."""
    head, tail = before.rstrip(), after.lstrip()
    space = "\n" if "\n" in before[len(head) :] + after[: len(after) - len(tail)] else " "
    join = next((join for join in _JOINS_BEFORE if head.endswith(join)), None)
    if join is not None:
        head = head.removesuffix(join)
    elif join := next((join for join in _JOINS_AFTER if tail.startswith(join)), None):
        tail = tail.removeprefix(join).lstrip()
    elif not tail or tail.startswith(_CLAUSE_ENDS):
        head = without_last_connecting(head)
    return head + tail if not head or not tail or tail.startswith(_CLAUSE_ENDS) else head + space + tail
