"""Colour-coded box masks: one canvas a region, black but for its box (GoT, section 4.2)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from PIL import ImageColor
from torch import Tensor

from got_core.chain import Region, colour_of
from got_core.types import BLACK

PALETTE = (
    "red",
    "lime",
    "blue",
    "yellow",
    "magenta",
    "cyan",
    "white",
    "orange",
    "purple",
    "green",
    "pink",
    "brown",
    "gray",
    "olive",
    "teal",
    "navy",
)
"""The colours of the regions of a chain in their order; after the last it begins again."""

UNSEEN = "black"
"""The colour of the canvas itself."""

Palette = Literal["order", "words", "named"]

_COORDINATES = 1000
_BRIGHTEST = 255


def painted(regions: Sequence[Region], palette: Palette) -> list[Region]:
    """The regions that get a canvas: all of them, but under "named" those without a colour behind their box."""
    return [region for region in regions if palette != "named" or region.colour is not None]


def colours(regions: Sequence[Region], palette: Palette) -> list[str]:
    """A CSS colour for each region of one chain that is painted.

    Args:
        regions: In the order of the chain.
        palette: "order" takes the colours of `PALETTE` in turn; "words" the colour that the chain names for the region,
            and for a region without one, or a black one, which could not be seen, that of its place in `PALETTE`;
            "named", as the released code has it, the colour behind the box and no other.
    """
    if palette == "named":
        return [region.colour or UNSEEN for region in regions]
    in_turn = [PALETTE[place % len(PALETTE)] for place in range(len(regions))]
    if palette == "order":
        return in_turn
    named = [colour_of(region) for region in regions]
    return [spare if name in (None, UNSEEN) else name for name, spare in zip(named, in_turn, strict=True)]


def draw(
    boxes: Sequence[tuple[int, int, int, int]], names: Sequence[str], size: tuple[int, int], device: torch.device
) -> Float[Tensor, "k 3 H W"]:
    """One black image a box, with the box filled in its colour; all at once, on the device.

    Args:
        boxes: (x1, y1, x2, y2) in thousandths of width and height; edges go to the nearest pixel, and the thinnest box
            still covers one.
        names: CSS colour names, one a box.
        size: (height, width) in pixels.
    """
    height, width = size
    rgb = [ImageColor.getrgb(name)[:3] for name in names]
    colour = torch.tensor(rgb, dtype=torch.float32, device=device) * 2 / _BRIGHTEST - 1
    corners = torch.tensor(boxes, device=device)
    inside_x = _inside(corners[:, 0], corners[:, 2], width)
    inside_y = _inside(corners[:, 1], corners[:, 3], height)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(inside, colour[:, :, None, None], BLACK)


def _inside(low: Tensor, high: Tensor, side: int) -> Tensor:
    """Whether each of `side` pixels (columns) lies between the two edges of each box (rows)."""
    first = _nearest(low, side).clamp(max=side - 1)
    beyond = torch.maximum(_nearest(high, side), first + 1)
    pixels = torch.arange(side, device=low.device)
    return (pixels >= first[:, None]) & (pixels < beyond[:, None])


def _nearest(coordinate: Tensor, side: int) -> Tensor:
    """The nearest edge between pixels, in whole numbers so that no rounding differs between devices."""
    return (coordinate * side + _COORDINATES // 2) // _COORDINATES
