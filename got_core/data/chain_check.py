"""Checks before training that the boxes of a source's chains are read: in thousandths, and in a form of the grammar."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from got_core.chain.parser import NUMBERS, SIDE, lexemes, parse

CHECKED = 1000
"""Records of a source that are checked, spread evenly."""

_FOUR_NUMBERS = re.compile(r"(?:\d+(?:\.\d+)?[^\w.]+){3}\d|\bbbox|\"x1\"")
_ENOUGH, _SMALL, _TOUCHES = 5, 800, 0.97
"""Records from which pixels are inferred; pixels of a side to which thousandths would not fit; fraction of a side."""


@runtime_checkable
class Chains(Protocol):
    """A dataset whose chains can be read without its images' pixels."""

    def __len__(self) -> int: ...

    def chain(self, index: int) -> tuple[str, str]:
        """Return the name of a record, such as file:line, and its chain."""
        ...

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a record's image in its file."""
        ...


@dataclass(frozen=True)
class BadChain:
    """A chain of which boxes are lost.

    Attributes:
        record: Its name.
        box: As it is written.
        unit: What it probably is.
    """

    record: str
    box: str
    unit: str


def bad_chains(source: Chains) -> tuple[list[BadChain], int]:
    """Return the bad chains among records of a source, and the number of records that were checked.

    Raises:
        ValueError: A record cannot be read.
    """
    indices = range(0, len(source), max(1, len(source) // CHECKED))[:CHECKED]
    bad, largest = [], {}
    for index in indices:
        record, chain = source.chain(index)
        boxes = [chain[each.start : each.end] for each in lexemes(chain) if each.kind == "box"]
        fault = _fault(chain, boxes)
        if fault is not None:
            bad.append(BadChain(record, *fault))
        elif boxes:
            largest[index] = max(boxes, key=lambda box: max(map(float, NUMBERS.findall(box))))
    pixels = list(_in_pixels(source, largest))
    return (pixels if pixels else bad), len(indices)


def _fault(chain: str, boxes: list[str]) -> tuple[str, str] | None:
    """A box of a chain that is lost, and its probable unit; None if all are read."""
    for box in boxes:
        numbers = [float(number) for number in NUMBERS.findall(box)]
        if max(numbers) <= 1:
            return box, "fractions of width and height"
        if max(numbers) > SIDE:
            return box, "pixels"
    read = parse(chain)
    if not boxes and (written := _FOUR_NUMBERS.search(chain)):
        return chain[written.start() : written.start() + 60], "JSON or a list"
    if len(read.regions) < len(boxes):
        return next(box for box in boxes if not parse(box).regions), "no area"
    return None


def _in_pixels(source: Chains, largest: dict[int, str]) -> Iterator[BadChain]:
    """All records with boxes, if they fit into their images' pixels and reach the border of some: none fits others."""
    reach = []
    for index, box in largest.items():
        height, width = source.image_size(index)
        x1, y1, x2, y2 = map(float, NUMBERS.findall(box))
        if max(height, width) > _SMALL or max(x1, x2) > width or max(y1, y2) > height:
            return
        reach.append(max(max(x1, x2) / width, max(y1, y2) / height))
    if len(reach) >= _ENOUGH and max(reach) >= _TOUCHES:
        for index, box in largest.items():
            yield BadChain(source.chain(index)[0], box, "pixels: no box leaves its image's pixel size")
