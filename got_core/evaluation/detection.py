"""What a detector finds in an image, and how two boxes compare."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from got_core.chain import to_pixels

Number = int | float

Box = Sequence[Number]
"""(x1, y1, x2, y2) in 0 to 1000, relative to image width and height."""

UNKNOWN = "unknown"
"""The label of an object that is there, but of no class the detector knows."""


@dataclass(frozen=True)
class Detection:
    """One found object.

    Attributes:
        label: Its class, or `UNKNOWN`.
        colour: Its colour word, or None where the detector does not tell colours.
        box: (x1, y1, x2, y2) in 0 to 1000, relative to image width and height.
        score: Confidence in 0 to 1.
    """

    label: str
    colour: str | None
    box: tuple[Number, Number, Number, Number]
    score: float


class Detector(ABC):
    """Finds objects in images.

    Attributes:
        classes: The labels it can give; None where it takes any word.
        colour_words: The colours it can give; None where it takes any word.
    """

    classes: Collection[str] | None = None
    colour_words: Collection[str] | None = None

    @abstractmethod
    def __call__(self, images: Float[Tensor, "b 3 H W"]) -> list[list[Detection]]:
        """The objects of each image, images in [-1, 1]."""

    def look_for(
        self, images: Float[Tensor, "b 3 H W"], coloured: Sequence[Mapping[str, int]]
    ) -> list[list[Detection]]:
        """The objects of each image, with the colours of those that are asked about; those of others may be untold.

        A detector that takes time to tell colours does no more than this.

        Args:
            images: In [-1, 1].
            coloured: For each image, the classes whose colour matters, and of how many of their most confident objects.
        """
        return self(images)


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where they do not meet or have no area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union


def pixels_of(box: Box, size: tuple[int, int], margin: int = 0) -> tuple[slice, slice]:
    """(rows, columns) of the pixels that a box covers in an image of `size` (height, width), edges at the nearest.

    With a margin, so many pixels more on every side, as far as the image goes.
    """
    left, top, right, bottom = (round(edge) for edge in to_pixels(box, *size))
    return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def box_centre(box: Box) -> tuple[float, float]:
    """(x, y) of a box's centre."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
