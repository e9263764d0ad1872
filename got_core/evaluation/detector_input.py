"""Images as GenEval's detector is shown them: the test pipeline of MMDetection's Mask2Former for COCO.

An image is enlarged or reduced, its proportions kept, until its shorter side has 800 pixels or its longer one 1333,
whichever comes first, and padded below and to the right to multiples of 32.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pad

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Pixels."""

MULTIPLE = 32
"""What the sides of a padded image are multiples of."""

WHITE = 255


class Shown(NamedTuple):
    """What a detector is shown.

    Attributes:
        pixels: Normalised, then padded with zeros.
        size: (height, width) without the padding.
    """

    pixels: Float[Tensor, "b 3 Hs Ws"]
    size: tuple[int, int]


def shown_size(size: tuple[int, int], short_side: int = SHORT_SIDE, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """(height, width) that an image of some (height, width) is shown at, without the padding."""
    scale = min(short_side / min(size), long_side / max(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def shown(
    images: UInt8[Tensor, "b 3 H W"],
    mean: Sequence[float],
    std: Sequence[float],
    short_side: int = SHORT_SIDE,
    long_side: int = LONG_SIDE,
) -> Shown:
    """Images, resized bilinearly without smoothing and to whole levels, normalised and padded.

    Args:
        images: Of one size.
        mean, std: Of each channel, for values in 0 to 1.
        short_side, long_side: Pixels.
    """
    height, width = shown_size((images.shape[-2], images.shape[-1]), short_side, long_side)
    resized = interpolate(images.float(), size=(height, width), mode="bilinear", align_corners=False).round()
    middle, spread = (rearrange(torch.tensor(levels, device=images.device), "c -> c 1 1") for levels in (mean, std))
    normalised = (resized / WHITE - middle) / spread
    return Shown(pad(normalised, (0, -width % MULTIPLE, 0, -height % MULTIPLE)), (height, width))
