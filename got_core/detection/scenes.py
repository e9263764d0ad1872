"""A deterministic detector for rendered scenes: no learned weights, only colours and outlines."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from got_core.chain.parser import SIDE
from got_core.data.scenes.render import COLOURS, SHAPES, PixelBox, shape_mask
from got_core.detection.base import UNKNOWN, Detection, Detector, Rules

SAME_COLOUR = 60.0
"""Colours within this distance count as the same when the background is separated from objects."""


@dataclass(frozen=True)
class ColourMap:
    """An image separated by colour.

    Attributes:
        colours: The names of the colours; `coverage` has them on its first axis, `label` holds their indices.
        coverage: The fraction of a pixel that a colour covers, if the pixel is a mixture of it and the background.
        label: The colour that fits each pixel best.
        covered: Whether the pixel belongs to an object of that colour.
    """

    colours: tuple[str, ...]
    coverage: Float[ndarray, "colours h w"]
    label: Int[ndarray, "h w"]
    covered: Bool[ndarray, "h w"]


def border_colour(pixels: Float[ndarray, "h w 3"]) -> Float[ndarray, " 3"]:
    """Find the dominant colour of an image's border: the mean of its largest group of similar pixels."""
    sides = [pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]
    border = np.concatenate(sides)
    border = border[:: -(-len(border) // 256)]  # at most 256 pixels are compared with one another
    differences = rearrange(border, "n c -> n 1 c") - rearrange(border, "m c -> 1 m c")
    similar = np.linalg.norm(differences, axis=-1) < SAME_COLOUR
    return border[similar[similar.sum(axis=1).argmax()]].mean(axis=0)


def colour_map(
    pixels: Float[ndarray, "h w 3"], background: Float[ndarray, " 3"], colours: dict[str, tuple[int, int, int]]
) -> ColourMap:
    """Separate an image with 8-bit values into the given colours; those like the background are left out."""
    offsets = {name: np.asarray(rgb, dtype=np.float64) - background for name, rgb in colours.items()}
    offsets = {name: direction for name, direction in offsets.items() if np.linalg.norm(direction) > SAME_COLOUR}
    directions = np.stack(list(offsets.values()))
    lengths = reduce(directions**2, "k c -> k 1 1", "sum")
    offset = pixels - background
    coverage = np.clip(np.einsum("hwc,kc->khw", offset, directions) / lengths, 0, 1)
    mixtures = np.einsum("khw,kc->khwc", coverage, directions)
    off_mixture = reduce((rearrange(offset, "h w c -> 1 h w c") - mixtures) ** 2, "k h w c -> k h w", "sum")
    to_pure_colour = (1 - coverage) ** 2 * lengths  # its small weight decides between two mixtures
    label = (off_mixture + 0.1 * to_pure_colour).argmin(axis=0)
    best = rearrange(label, "h w -> 1 h w")
    near = np.take_along_axis(off_mixture, best, axis=0)[0] <= 90.0**2  # farther pixels have no colour
    covered = near & (np.take_along_axis(coverage, best, axis=0)[0] >= 0.5)
    return ColourMap(colours=tuple(offsets), coverage=coverage, label=label, covered=covered)


MIN_AREA = 0.01
"""Least fraction of the image of an object (10 pixels of 32 x 32); a smaller patch of colour is a speck."""

MIN_SHAPE_IOU = 0.75
"""Least overlap (IoU) of an object's coverage and a shape's; otherwise the object is `UNKNOWN`."""

SCENE_RULES = Rules(confidence=0.0, counting_confidence=0.0)
"""GenEval's rules for this detector: `MIN_SHAPE_IOU` has already decided which objects count. Counting has no stricter
threshold: GenEval needs one because its learned detector reports an object several times; this one cannot."""

FINEST = 128
"""Most pixels along the longer side; larger images are reduced."""

INWARDS, OUTWARDS = 1, 2
"""Pixels by which each side of the best box may differ from that of the covered pixels: it may leave out one pixel that
sticks out, and include tips that are too thin to cover half of a pixel."""

NEIGHBOURS = np.ones((3, 3), dtype=bool)


class SceneDetector(Detector):
    """Finds coloured shapes on a plain background.

    Every pixel gets a colour, or is background or neither (`colour_map`). Touching pixels of one colour make an object,
    unless they are fewer than `MIN_AREA`. Its class and box are those of the shape that fits best: among all boxes
    within a pixel or two, the one with the highest overlap (intersection over union, with partly covered pixels) of the
    object and the shape rendered in that box. That overlap is the score. Below `MIN_SHAPE_IOU` the object is `UNKNOWN`,
    and its box is that of its pixels.

    Args:
        shapes: The classes it knows, of `got_core.data.scenes.render.SHAPES`.
        colours: The colours it knows, of `got_core.data.scenes.render.COLOURS`.
        background: 8-bit RGB, or None for the dominant colour of each image's border.

    Raises:
        ValueError: A shape or colour that scenes do not have, no shape, or fewer than two colours.
    """

    def __init__(
        self,
        shapes: Sequence[str] = tuple(SHAPES),
        colours: Sequence[str] = tuple(COLOURS),
        background: tuple[int, int, int] | None = None,
    ) -> None:
        unknown = [name for name in shapes if name not in SHAPES] + [name for name in colours if name not in COLOURS]
        if unknown or not shapes or len(colours) < 2:
            raise ValueError(
                f"a detector for scenes needs a shape of {', '.join(SHAPES)} and two colours of {', '.join(COLOURS)}: "
                f"got shapes {list(shapes)} and colours {list(colours)}"
            )
        self.shapes = self.classes = tuple(shapes)
        self.colours = {name: COLOURS[name] for name in colours}
        self.colour_words = tuple(colours)
        self.background = None if background is None else np.asarray(background, dtype=np.float64)

    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[list[Detection]]:
        """Detect the objects of each image, images in [-1, 1]; the largest first."""
        return [self.objects(colours) for colours in self.colour_maps(images)]

    def colour_maps(self, images: Float[Tensor, "b 3 H W"]) -> list[ColourMap]:
        """Separate each image by colour, at most `FINEST` pixels along the longer side."""
        return [
            colour_map(pixels, border_colour(pixels) if self.background is None else self.background, self.colours)
            for pixels in eight_bit(images)
        ]

    def objects(self, colours: ColourMap) -> list[Detection]:
        """Detect the objects of an image that was separated by colour; the largest first."""
        smallest = MIN_AREA * colours.label.size
        objects = []
        for index in range(len(colours.colours)):
            patches, _ = ndimage.label(colours.covered & (colours.label == index), structure=NEIGHBOURS)
            areas = np.bincount(patches.ravel())
            objects += [(areas[k], index, patches == k) for k in range(1, len(areas)) if areas[k] >= smallest]
        objects.sort(key=lambda item: item[0], reverse=True)
        return [self._describe(colours, index, patch) for _, index, patch in objects]

    def _describe(self, colours: ColourMap, index: int, patch: Bool[ndarray, "h w"]) -> Detection:
        """Class, colour, box and score of the object that covers `patch`."""
        rows, columns = ndimage.find_objects(patch.astype(np.int8))[0]
        own = columns.start, rows.start, columns.stop, rows.stop
        shape, fitted, score = fit_shape(object_coverage(colours, index, patch), own, self.shapes)
        fits = score >= MIN_SHAPE_IOU
        x1, y1, x2, y2 = fitted if fits else own
        height, width = patch.shape
        return Detection(
            label=shape if fits else UNKNOWN,
            colour=colours.colours[index],
            box=(SIDE * x1 / width, SIDE * y1 / height, SIDE * x2 / width, SIDE * y2 / height),
            score=score,
        )


def eight_bit(images: Float[Tensor, "b 3 H W"]) -> Float[ndarray, "b h w 3"]:
    """Convert images in [-1, 1] to values in 0 to 255, at most `FINEST` pixels along the longer side."""
    height, width = images.shape[-2:]
    scale = min(FINEST / max(height, width), 1.0)
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    small = images.detach().float().clamp(-1, 1)
    small = functional.interpolate(small, size=size, mode="area") if scale < 1 else small
    return rearrange((small + 1) * 127.5, "b c h w -> b h w c").cpu().numpy().astype(np.float64)


def object_coverage(colours: ColourMap, index: int, patch: Bool[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """Compute the fraction of each pixel that an object covers: of its patch, and of partly covered ones around it."""
    full = np.quantile(colours.coverage[index][patch], 0.8)  # an object of a dull colour is not thin
    own = patch | (ndimage.binary_dilation(patch, structure=NEIGHBOURS) & ~colours.covered)
    return np.where(own, np.minimum(colours.coverage[index] / full, 1), 0)


def fit_shape(coverage: Float[ndarray, "h w"], own: PixelBox, shapes: tuple[str, ...]) -> tuple[str, PixelBox, float]:
    """Find the shape and the box in pixels, near the object's own, that overlap best with its coverage.

    Shapes are as wide as high, so boxes whose sides differ by more than a third are left out.

    Returns:
        Shape, box and overlap; the overlap is 0 where no box is left.
    """
    x1, y1, x2, y2 = own
    total = coverage.sum()
    best = shapes[0], own, 0.0
    for height, width in product(_sides(y1, y2), _sides(x1, x2)):
        top, bottom = _starts(y1, y2, height, coverage.shape[0])
        left, right = _starts(x1, x2, width, coverage.shape[1])
        if bottom < top or right < left or max(height, width) > 4 / 3 * min(height, width):
            continue
        masks, areas = _templates(shapes, height, width)
        windows = sliding_window_view(coverage[top : bottom + height, left : right + width], (height, width))
        shared = np.minimum(windows[:, :, None], masks).sum(axis=(-2, -1))
        overlaps = shared / (total + areas - shared)
        if overlaps.max() > best[2]:
            row, column, k = (int(index) for index in np.unravel_index(overlaps.argmax(), overlaps.shape))
            box = left + column, top + row, left + column + width, top + row + height
            best = shapes[k], box, float(overlaps.max())
    return best


def _sides(start: int, end: int) -> range:
    """Possible lengths of a side."""
    return range(max(end - start - 2 * INWARDS, 1), end - start + 2 * OUTWARDS + 1)


def _starts(start: int, end: int, side: int, limit: int) -> tuple[int, int]:
    """First and last start of a side of that length, within 0 and `limit`."""
    first = max(start - OUTWARDS, end - INWARDS - side, 0)
    return first, min(start + INWARDS, end + OUTWARDS - side, limit - side)


@lru_cache(maxsize=4096)
def _templates(
    shapes: tuple[str, ...], height: int, width: int
) -> tuple[Float[ndarray, "s height width"], Float[ndarray, " s"]]:
    """Every shape's coverage in a box of that size, and the area of each."""
    masks = np.stack([shape_mask(shape, height, width) for shape in shapes]).astype(np.float64)
    return masks, masks.sum(axis=(1, 2))
