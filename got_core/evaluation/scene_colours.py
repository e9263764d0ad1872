"""Which pixels of a drawn scene belong to which colour, and how much of each is covered.

A pixel at the edge of an object mixes the object's colour with the background's. So a pixel p is compared with every
mixture b + a (c - b) of the background b and a colour c; a in 0 to 1 is the share of the pixel that is covered. Colours
are compared by their distance in 8-bit RGB.
"""

from dataclasses import dataclass

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from numpy import ndarray

SAME_COLOUR = 60.0
"""Two colours this near are taken as the same when the background is looked for and told from objects."""

FARTHEST = 90.0
"""A pixel farther than this from every mixture belongs to no colour."""

COVERED = 0.5
"""A pixel belongs to an object when at least this share of it is covered."""

FULL_COLOUR_PREFERENCE = 0.1
"""Weight of the distance to the pure colour against that to the mixture: settles which of two mixtures a pixel is."""

BORDER_PIXELS = 256
"""At most so many pixels of the border are compared with one another."""


@dataclass(frozen=True)
class ColourMap:
    """An image taken apart by colour.

    Attributes:
        colours: The names that the first axis of `coverage` and the values of `label` run over.
        coverage: How much of a pixel a colour covers, were the pixel a mixture of that colour and the background.
        label: The colour each pixel fits best.
        covered: Whether the pixel belongs to an object of that colour.
    """

    colours: tuple[str, ...]
    coverage: Float[ndarray, "colours h w"]
    label: Int[ndarray, "h w"]
    covered: Bool[ndarray, "h w"]


def border_colour(pixels: Float[ndarray, "h w 3"]) -> Float[ndarray, " 3"]:
    """The dominant colour of an image's border: the mean of the largest group of border pixels that are alike."""
    sides = [pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]
    border = np.concatenate(sides)
    border = border[:: -(-len(border) // BORDER_PIXELS)]
    apart = rearrange(border, "n c -> n 1 c") - rearrange(border, "m c -> 1 m c")
    alike = np.linalg.norm(apart, axis=-1) < SAME_COLOUR
    return border[alike[alike.sum(axis=1).argmax()]].mean(axis=0)


def colour_map(
    pixels: Float[ndarray, "h w 3"], background: Float[ndarray, " 3"], colours: dict[str, tuple[int, int, int]]
) -> ColourMap:
    """Take an image with 8-bit values apart into the given colours; those like the background are left out."""
    away = {name: np.asarray(rgb, dtype=np.float64) - background for name, rgb in colours.items()}
    away = {name: direction for name, direction in away.items() if np.linalg.norm(direction) > SAME_COLOUR}
    directions = np.stack(list(away.values()))
    lengths = reduce(directions**2, "k c -> k 1 1", "sum")
    offset = pixels - background
    coverage = np.clip(np.einsum("hwc,kc->khw", offset, directions) / lengths, 0, 1)
    mixtures = np.einsum("khw,kc->khwc", coverage, directions)
    off_mixture = reduce((rearrange(offset, "h w c -> 1 h w c") - mixtures) ** 2, "k h w c -> k h w", "sum")
    label = (off_mixture + FULL_COLOUR_PREFERENCE * (1 - coverage) ** 2 * lengths).argmin(axis=0)
    best = rearrange(label, "h w -> 1 h w")
    near = np.take_along_axis(off_mixture, best, axis=0)[0] <= FARTHEST**2
    covered = near & (np.take_along_axis(coverage, best, axis=0)[0] >= COVERED)
    return ColourMap(colours=tuple(away), coverage=coverage, label=label, covered=covered)
