"""Scenes of coloured shapes in square boxes on a plain background, and their rendering."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from got_core.chain.parser import SIDE

PixelBox = tuple[int, int, int, int]
"""(x1, y1, x2, y2), right and lower edges exclusive."""

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {
    "red": (255, 0, 0),
    "green": (0, 160, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (160, 0, 200),
    "white": (255, 255, 255),
    "orange": (255, 140, 0),
    "pink": (255, 120, 190),
    "brown": (130, 65, 15),
    "black": (0, 0, 0),
    "cyan": (0, 255, 255),
}
"""Colours an object may have: at least 110 apart in RGB from each other and from every background."""

BACKGROUNDS: dict[str, RGB] = {
    "gray": (128, 128, 128),
    "navy": (0, 20, 110),
    "indigo": (80, 0, 110),
    "teal": (0, 110, 120),
}
"""Colours of the background of a scene."""

DEFAULT_SHAPES = ("circle", "square", "triangle")
DEFAULT_COLOURS = ("red", "green", "blue", "yellow", "purple", "white")

SUPERSAMPLING = 8
"""Sample points of a pixel along each side, from which its coverage is computed."""

Inside = Callable[[Float[ndarray, "h w"], Float[ndarray, "h w"]], ndarray]


def _star(x: Float[ndarray, "h w"], y: Float[ndarray, "h w"]) -> ndarray:
    """The points of a pentagram: they lie outside at most one of its five lines. It is stretched to fill the box."""
    turn = 2 * np.pi / 5
    across, down = (2 * x - 1) * np.sin(turn), y * (1 + np.cos(turn / 2)) - 1
    normals = [k * turn - np.pi / 2 for k in range(5)]
    beyond = [across * np.cos(angle) + down * np.sin(angle) > np.cos(turn) for angle in normals]
    return np.sum(beyond, axis=0) <= 1


SHAPES: dict[str, Inside] = {
    "circle": lambda x, y: (x - 0.5) ** 2 + (y - 0.5) ** 2 <= 0.25,
    "square": lambda x, y: np.ones_like(x, dtype=bool),
    "triangle": lambda x, y: np.abs(x - 0.5) <= y / 2,
    "diamond": lambda x, y: np.abs(x - 0.5) + np.abs(y - 0.5) <= 0.5,
    "cross": lambda x, y: np.minimum(np.abs(x - 0.5), np.abs(y - 0.5)) <= 1 / 6,
    "star": _star,
}
"""Shapes by name: whether a point (x, y) of the unit square, y downwards, lies inside. Each fills its box."""


@dataclass(frozen=True)
class SceneObject:
    """A coloured shape that fills `box`, given in pixels."""

    shape: str
    colour: str
    box: PixelBox


@dataclass(frozen=True)
class Scene:
    """Objects on a plain background.

    Attributes:
        objects: In the order of rendering; later ones cover earlier ones.
        background: A name of `BACKGROUNDS`.
        size: Side of the square image in pixels.
    """

    objects: tuple[SceneObject, ...]
    background: str = "gray"
    size: int = 32


def relative_box(box: PixelBox, size: int) -> PixelBox:
    """Convert a box in pixels of a square image of side `size` to integers in [0, 1000)."""
    x1, y1, x2, y2 = (min(round(edge * SIDE / size), SIDE - 1) for edge in box)
    return x1, y1, x2, y2


@cache
def shape_mask(shape: str, height: int, width: int) -> Float[ndarray, "height width"]:
    """Compute the fraction of each pixel that `shape` covers when it fills a box of that many pixels.

    The array is shared between calls and cannot be written to.

    Raises:
        ValueError: The shape is not one of `SHAPES`.
    """
    if shape not in SHAPES:
        raise ValueError(f"no shape is called {shape!r}; there are {', '.join(SHAPES)}")
    down = (np.arange(height * SUPERSAMPLING) + 0.5) / (height * SUPERSAMPLING)
    across = (np.arange(width * SUPERSAMPLING) + 0.5) / (width * SUPERSAMPLING)
    y, x = np.meshgrid(down, across, indexing="ij")
    points = SHAPES[shape](x, y).astype(np.float32)
    mask = reduce(points, "(h i) (w j) -> h w", "mean", i=SUPERSAMPLING, j=SUPERSAMPLING)
    mask.flags.writeable = False
    return mask


def unit_colour(rgb: RGB) -> Float[ndarray, " 3"]:
    """Convert an 8-bit colour to the range of images, -1 to 1."""
    return np.asarray(rgb, dtype=np.float32) / np.float32(127.5) - 1


def render(scene: Scene) -> Float[Tensor, "3 size size"]:
    """Render a scene as an image in [-1, 1] with smooth edges. The same scene gives the same pixels."""
    canvas = np.empty((scene.size, scene.size, 3), dtype=np.float32)
    canvas[:] = unit_colour(BACKGROUNDS[scene.background])
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        cover = rearrange(shape_mask(item.shape, y2 - y1, x2 - x1), "h w -> h w 1")
        under = canvas[y1:y2, x1:x2]
        canvas[y1:y2, x1:x2] = under * (1 - cover) + unit_colour(COLOURS[item.colour]) * cover
    return torch.from_numpy(np.ascontiguousarray(rearrange(canvas, "h w c -> c h w")))
