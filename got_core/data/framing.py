"""Images in frames of another shape, with the boxes of their chains: cropped, padded or squashed."""

from typing import Literal

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from got_core.chain import edits
from got_core.chain.parser import SIDE, Box, parse, spliced, with_numbers
from got_core.types import from_pil

Fit = Literal["cover", "pad", "squash"]
"""How an image fills a frame: cropped at two opposite sides, with black at two of them, or out of proportion."""

Window = tuple[float, float, float, float]
"""The part of an image that a frame shows: x1, y1, x2, y2 in fractions of width and height; beyond 0 to 1 is black."""

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)

LEFT = 0.25
"""Fraction of an object's box, or of the frame, that must be left of it, or the object leaves the chain."""

OBJECTS_CUT = "objects_cut"
"""Count in `Sample.meta` of objects that a crop has removed; training logs it."""


def window(stored: tuple[int, int], size: tuple[int, int], fit: Fit) -> Window:
    """Return the part of an image, around its centre, that a frame shows.

    Args:
        stored: (height, width) of the image.
        size: (height, width) of the frame; only its proportions count.
        fit: How the image fills it.
    """
    narrower = (size[1] * stored[0]) / (size[0] * stored[1])  # Than the image, below 1.
    if fit == "squash" or narrower == 1:
        return WHOLE
    crops_width = (narrower < 1) == (fit == "cover")
    share = narrower if crops_width else 1 / narrower
    low, high = (1 - share) / 2, (1 + share) / 2
    return (low, 0.0, high, 1.0) if crops_width else (0.0, low, 1.0, high)


def frame(image: Image.Image, shown: Window, size: tuple[int, int] | None) -> Float[Tensor, "3 H W"]:
    """Return the shown part of an RGB image as a tensor in [-1, 1], resized by PIL's bicubic filter.

    Args:
        image: The whole image.
        shown: Its part.
        size: (height, width) of the result; None keeps the image's scale.
    """
    if shown == WHOLE:
        return from_pil(image, size)
    x1, y1, x2, y2 = (edge * side for edge, side in zip(shown, image.size * 2, strict=True))
    height, width = size or (max(1, round(y2 - y1)), max(1, round(x2 - x1)))
    if x1 >= 0 and y1 >= 0:
        return from_pil(image.resize((width, height), Image.Resampling.BICUBIC, box=(x1, y1, x2, y2)))
    inner = max(1, round(width * image.width / (x2 - x1))), max(1, round(height * image.height / (y2 - y1)))
    padded = Image.new("RGB", (width, height))
    padded.paste(image.resize(inner, Image.Resampling.BICUBIC), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return from_pil(padded)


def in_window(text: str, shown: Window) -> tuple[str, int]:
    """Return a chain with its boxes in the frame, and the number of objects that have left it.

    An object of whose box less than `LEFT` is shown leaves the chain with its words, unless it fills as much of the
    frame.

    Args:
        text: The chain, with boxes in the whole image.
        shown: The part of the image in the frame.
    """
    if shown == WHOLE:
        return text, 0
    chain = parse(text)
    boxes = [_in_window(region.box, shown) for region in chain.regions]
    changes = [
        (*location.box, with_numbers(text[slice(*location.box)], box))
        for location, box in zip(chain.locations, boxes, strict=True)
        if box is not None
    ]
    framed = spliced(text, changes)
    gone = [index for index, box in enumerate(boxes) if box is None]
    for index in reversed(gone):
        framed = edits.remove(parse(framed), index).text
    return framed, len(gone)


def _in_window(box: Box, shown: Window) -> Box | None:
    x1, y1, x2, y2 = shown
    scaled = [
        SIDE * (value / SIDE - low) / (high - low)
        for value, low, high in zip(box, (x1, y1, x1, y1), (x2, y2, x2, y2), strict=True)
    ]
    inside = [min(max(value, 0.0), float(SIDE)) for value in scaled]
    left = (inside[2] - inside[0]) * (inside[3] - inside[1])
    if left < LEFT * min((scaled[2] - scaled[0]) * (scaled[3] - scaled[1]), float(SIDE**2)):
        return None
    a, b, c, d = (min(round(value), SIDE - 1) for value in inside)
    return (a, b, c, d) if a < c and b < d else None
