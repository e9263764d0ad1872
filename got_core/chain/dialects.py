"""Forms of chains and boxes besides the parser's, by name, and columns of coordinates (OmniEdit-GoT)."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from math import inf
from typing import Any

from got_core.chain import objects
from got_core.chain.objects import Objects, Unit, scale, to_thousandths
from got_core.chain.parser import (
    BOX_END,
    BOX_START,
    NUMBERS,
    PHRASE_END,
    PHRASE_START,
    PHRASE_STARTS,
    SIDE,
    Chain,
    lexemes,
    parse,
    spliced,
    with_numbers,
    write_region,
)
from got_core.errors import check_text, parse_json

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


_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
_FLOAT = r"[-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?"
_LIST = r"\[\s*+" + r"\s*+,\s*+".join([f"({_FLOAT})"] * 4) + r"\s*+\]"
_POINTS = rf"\({_NUMBER},{_NUMBER}\),\({_NUMBER},{_NUMBER}\)"
_LISTS = re.compile(_LIST)
_NESTED = re.compile(rf"\[\s*({_POINTS}(?:\s*,\s*{_POINTS})*)\s*\]")
_BOXES = re.compile(_POINTS)
_TAGGED = re.compile(rf"<box>\s*({_POINTS}(?:[\s,]+{_POINTS})*)\s*</box>")
_ANY = rf"(?:{_FLOAT}|nan\b|inf(?:inity)?\b)"
_FOUR = re.compile(rf"(?<![\w.])(?:{_ANY}[^\w.\n]{{1,6}}){{3}}{_ANY}", re.IGNORECASE)
_CUT = re.compile(r"\[\s*+[-+.0-9][-+.,0-9eE\s]*+")
_TAGS = {"<ref>": PHRASE_START, "</ref>": PHRASE_END, "<box>": BOX_START, "</box>": BOX_END}
_WIDE_PARTS = "０１２３４５６７８９．－，、（）［］【】"
_WIDE = {ord(wide): plain for wide, plain in zip(_WIDE_PARTS, "0123456789.-,,()[][]", strict=True)}
_WIDE_BOXES = re.compile(rf"[{_WIDE_PARTS}0-9.,()\[\]\s-]++")


@dataclass(frozen=True)
class Reading:
    """A text of another form as a chain.

    Attributes:
        chain: In this project's form, boxes in thousandths.
        problems: What was not read ("dropped") or was repaired, in words.
        caption: What the whole image shows, where the form says so apart from the objects.
    """

    chain: str
    problems: tuple[str, ...] = ()
    caption: str = ""


@dataclass(frozen=True)
class Dialect:
    """A form of chains, with words between the boxes, or of lists of objects.

    Attributes:
        unit: Of its coordinates where no other is declared; None where the form does not fix one.
        example: One object in it.
        phrase, box: How a chain's phrases and boxes are written; `{}` stands for the words and for each number.
        read, write: Of a list of objects.
        resized: Whether pixels are those of the image that Qwen2.5-VL's processor makes of the image.
    """

    unit: Unit | None
    example: str
    phrase: str = "{}"
    box: str | None = None
    read: objects.Read | None = None
    write: objects.Write | None = None
    resized: bool = False

    @property
    def unit_of_writing(self) -> Unit:
        """The unit in which it is written where no other is declared."""
        return self.unit or "thousandths"


DIALECTS = {
    "got": Dialect(
        None, "<|object_ref_start|>a dog<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
        f"{PHRASE_START}{{}}{PHRASE_END}", f"{BOX_START}({{}},{{}}),({{}},{{}}){BOX_END}",
    ),
    "got_r1": Dialect(
        None, "<|obj_start|>a dog<|obj_end|><|box_start|>(100,200),(300,400)<|box_end|>",
        "<|obj_start|>{}<|obj_end|>", f"{BOX_START}({{}},{{}}),({{}},{{}}){BOX_END}",
    ),
    "plain": Dialect(None, "a dog (100,200),(300,400)", "{} ", "({},{}),({},{})"),
    "readable": Dialect(None, "[a dog](100,200),(300,400)", "[{}]", "({},{}),({},{})"),
    "lists": Dialect(None, "a dog [100, 200, 300, 400]", "{} ", "[{}, {}, {}, {}]"),
    "fullwidth": Dialect(None, "a dog（100，200），（300，400）", "{}", "（{}，{}），（{}，{}）"),
    "qwen_vl": Dialect(
        None, "<ref>a dog</ref><box>(100,200),(300,400)</box>",
        "<ref>{}</ref>", "<box>({},{}),({},{})</box>",
    ),
    "internvl": Dialect(
        None, "<ref>a dog</ref><box>[[100, 200, 300, 400]]</box>",
        "<ref>{}</ref>", "<box>[[{}, {}, {}, {}]]</box>",
    ),
    "qwen2_5_vl": Dialect(
        "pixels", '[{"bbox_2d": [104, 207, 311, 414], "label": "a dog"}]',
        read=objects.read_bbox_2d, write=objects.write_bbox_2d, resized=True,
    ),
    "qwen3_vl": Dialect(
        "thousandths", '[{"bbox_2d": [100, 200, 300, 400], "label": "a dog"}]',
        read=objects.read_bbox_2d, write=objects.write_bbox_2d,
    ),
    "ideogram": Dialect(
        "thousandths",
        '{"high_level_description": "A park.", "compositional_deconstruction": {"background": "", "elements": '
        '[{"type": "obj", "bbox": [200, 100, 400, 300], "desc": "a dog"}]}}',
        read=objects.read_ideogram, write=objects.write_ideogram,
    ),
    "bbox": Dialect(
        "fractions", '[{"label": "a dog", "bbox": [0.1, 0.2, 0.3, 0.4]}]',
        read=objects.read_bbox, write=objects.write_bbox,
    ),
    "coco": Dialect(
        "pixels",
        '{"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [102.4, 204.8, 204.8, 204.8]}], '
        '"categories": [{"id": 1, "name": "a dog"}]}',
        read=objects.read_coco, write=objects.write_coco,
    ),
    "yolo": Dialect("fractions", "0 0.2 0.3 0.2 0.2", read=objects.read_yolo, write=objects.write_yolo),
}  # fmt: skip
"""The forms that are read and written, by name. Units of those with words are declared, or guessed with a warning."""


def dialect_of(name: str) -> Dialect:
    """Return a dialect by its name (ValueError: there is none)."""
    if name not in DIALECTS:
        raise ValueError(f"{name} is no dialect of boxes; known: {', '.join(DIALECTS)}")
    return DIALECTS[name]


def read_dialect(
    text: str,
    name: str,
    *,
    unit: Unit | None = None,
    size: tuple[int, int] | None = None,
    names: Sequence[str] = (),
) -> Reading:
    """Read a text of a dialect as a chain.

    Args:
        text: In the dialect.
        name: Of the dialect, in `DIALECTS`.
        unit: Of its coordinates; by default the dialect's own or, where it has none, a guess, which is a warning.
        size: (height, width) of the image in pixels, which boxes in pixels need.
        names: Of YOLO's classes.

    Raises:
        ValueError: There is no such dialect, the text is not of it, or the size is missing.
    """
    dialect = dialect_of(name)
    if dialect.read is None:
        return _read_words(_WIDE_BOXES.sub(_narrow, text) if name == "fullwidth" else text, unit, size)
    factors = scale(unit or dialect.unit_of_writing, _seen(dialect, size))
    found = dialect.read(_unfenced(text), factors, names)
    written = [(write_region(region), region) for region in found.regions]
    whole = {piece: parse(piece).regions == (region,) for piece, region in written}
    broken = [f"dropped: {piece[:60]!r} has boxes or markers among its words" for piece in whole if not whole[piece]]
    chain = ", ".join(piece for piece, _ in written if whole[piece])
    return Reading(check_text(chain), (*found.problems, *broken), check_text(found.caption))


def write_dialect(
    chain: str,
    name: str,
    *,
    unit: Unit | None = None,
    size: tuple[int, int] | None = None,
    names: Sequence[str] = (),
    caption: str = "",
) -> str:
    """Write a chain in a dialect. Forms of objects hold neither the words between them nor colours.

    Args:
        chain: In any form that `got_core.chain.parser` reads; its problems are repaired.
        name, unit, size, names: As in `read_dialect`; the unit is thousandths where the dialect has none.
        caption: What the whole image shows; only Ideogram's form has it.

    Raises:
        ValueError: There is no such dialect, it cannot hold the chain, or the size is missing.
    """
    dialect, read = dialect_of(name), parse(chain)
    unit = unit or dialect.unit_of_writing
    factors = scale(unit, _seen(dialect, size))
    if dialect.write is not None:
        written = dialect.write(Objects(read.regions, caption=caption), factors, names)
    else:
        written = spliced(chain, _regions(dialect, read, factors))
    again = parse(read_dialect(written, name, unit=unit, size=size, names=names).chain).regions
    for region, other in zip_longest(read.regions, again):
        if region is None or other is None or region.phrase != other.phrase:
            lost = f"{region.phrase!r} {region.box}" if region else "the end"
            instead = f"{other.phrase!r} {other.box}" if other else "nothing"
            raise ValueError(f"{name} cannot hold the chain: {lost} would be read as {instead}")
    return written


def _regions(dialect: Dialect, chain: Chain, factors: tuple[float, float]) -> Iterator[tuple[int, int, str]]:
    """Yield the changes that write a chain's regions in a dialect with words; words before a box stay."""
    assert dialect.box is not None
    low = 0
    for location, region in zip(chain.locations, chain.regions, strict=True):
        box = dialect.box.format(
            *(_number(value / factor) for value, factor in zip(region.box, factors * 2, strict=True))
        )
        if location.start >= low and location.phrase[0] < location.phrase[1]:
            between = chain.text[location.phrase[1] : location.box[0]]
            for marker in PHRASE_STARTS:
                between = between.lstrip().removeprefix(marker) if between.lstrip().startswith(marker) else between
            # Only a marker of its own ends a phrase where words stand before the box.
            apart, tagged = between.strip() != "", dialect.phrase.startswith("<")
            phrase = ("{}" if apart and not tagged else dialect.phrase).format(chain.text[slice(*location.phrase)])
            box = phrase + (between if apart else "") + box
        colour = "" if region.colour is None else f" ({region.colour})"
        yield max(location.start, low), location.end, box + colour
        low = location.end


def _points(match: re.Match[str]) -> str:
    """A list of four numbers as a box; as it is where one is too large."""
    numbers = match.groups()
    if max(abs(float(each)) for each in numbers) > 1e9:
        return match[0]
    return "({},{}),({},{})".format(*(n if NUMBERS.fullmatch(n) else f"{float(n):.9f}" for n in numbers))


def _narrow(match: re.Match[str]) -> str:
    """Boxes in characters as wide as Chinese text has them, in those of ASCII; other numbers as they are."""
    boxes = match[0].strip("，、．－ \t\n")
    return match[0].replace(boxes, boxes.translate(_WIDE)) if len(re.findall(r"\d+", boxes)) >= 4 else match[0]


def _number(value: float) -> float | int:
    rounded = round(value, 4)
    return int(rounded) if rounded == int(rounded) else rounded


def _seen(dialect: Dialect, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size of the image that coordinates in pixels are of."""
    if size is None or not dialect.resized:
        return size
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    height, width = smart_resize(*size, factor=28, min_pixels=56 * 56, max_pixels=14 * 14 * 4 * 16384)
    return height, width


def _unfenced(text: str) -> str:
    fenced = _FENCE.fullmatch(text.strip())
    return fenced[1] if fenced else text


def _read_words(text: str, unit: Unit | None, size: tuple[int, int] | None) -> Reading:
    """Read a text with boxes in any bracket, and in tags, between its words."""
    text = _LISTS.sub(_points, from_json(text))
    text = _NESTED.sub(lambda match: " ".join(_BOXES.findall(match[1])), text)
    text = _TAGGED.sub(lambda m: "".join(f"{BOX_START}{box}{BOX_END}" for box in _BOXES.findall(m[1])), text)
    for tag, token in _TAGS.items():
        text = text.replace(tag, token)
    text = from_readable(text)
    written = [(each.start, each.end) for each in lexemes(text) if each.kind == "box"]
    numbers = [list(map(float, NUMBERS.findall(text, *span))) for span in written]
    factors = scale(unit or _guessed(numbers, size), size)
    if factors != (1.0, 1.0):
        scaled = ([value - (value == SIDE) for value in to_thousandths(corners, factors)] for corners in numbers)
        text = spliced(
            text, [(*span, with_numbers(text[slice(*span)], row)) for span, row in zip(written, scaled, strict=True)]
        )
    read, low, unread = parse(text), 0, []
    for start, end in [
        *((each.start, each.end) for each in lexemes(text) if each.kind == "box"),
        (len(text), len(text)),
    ]:
        unread += [
            f"dropped: {found[0][:60]!r} are four numbers but no box" for found in _FOUR.finditer(text, low, start)
        ]
        low = end
    if cut := _CUT.fullmatch(text, max(text.rfind("["), 0)):
        unread.append(f"dropped: {cut[0][:60]!r} is an unfinished list")
    return Reading(check_text(text), (*read.problems, *unread))


def _guessed(numbers: Sequence[Sequence[float]], size: tuple[int, int] | None) -> Unit:
    """The unit that coordinates of a form without one are probably in; any but thousandths is a warning."""
    largest = max(map(max, numbers), default=2.0)
    unit: Unit = "thousandths"
    if largest <= 1:
        unit = "fractions"
    elif largest > SIDE and size is not None:
        unit = "pixels"
    if unit != "thousandths":
        warnings.warn(f"boxes are read as {unit}, by a guess: declare their unit", stacklevel=4)
    return unit
