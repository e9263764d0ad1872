"""Positions of objects in a rendered scene: boxes on the pixel grid that do not touch and have given relations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from got_core.data.scenes.render import PixelBox
from got_core.planning.boxes import relation_strength

ATTEMPTS = 200
"""Layouts that are tried at most."""


@dataclass(frozen=True)
class Layout:
    """Samples boxes for a square image.

    Attributes:
        size: Side of the image in pixels.
        smallest, largest: Sides of an object's box in pixels, inclusive.
        gap: Least number of pixels between two boxes.
    """

    size: int = 32
    smallest: int = 9
    largest: int = 15
    gap: int = 3

    def free(
        self, side: int, taken: Sequence[PixelBox], relations: Sequence[tuple[str, PixelBox]] = ()
    ) -> Bool[ndarray, "rows columns"]:
        """Mark the upper left corners (y, x) at which a box of a side clears the taken ones and has every relation."""
        corners = np.arange(self.size - side + 1)
        allowed = np.ones((len(corners), len(corners)), dtype=bool)
        for x1, y1, x2, y2 in taken:
            reach = side + self.gap - 1
            allowed[max(y1 - reach, 0) : y2 + self.gap, max(x1 - reach, 0) : x2 + self.gap] = False
        for relation, anchor in relations:
            centres = (corners + side / 2)[None, :], (corners + side / 2)[:, None]
            # clearly above 0.5, so that the relation also holds for a detected box that is off by a pixel
            allowed &= relation_strength(relation, centres, side, anchor) >= 0.65
        return allowed

    def place(
        self,
        rng: np.random.Generator,
        taken: Sequence[PixelBox] = (),
        relations: Sequence[tuple[str, PixelBox]] = (),
        side: int | None = None,
    ) -> PixelBox | None:
        """Sample one more box beside the taken ones, evenly among those allowed. None where nothing fits.

        Args:
            rng: The generator of random numbers.
            taken: Boxes to keep clear of.
            relations: (relation, anchor) pairs that must clearly hold for the new box.
            side: Its side in pixels. Sampled when None.
        """
        side = int(rng.integers(self.smallest, self.largest + 1)) if side is None else side
        allowed = np.flatnonzero(self.free(side, taken, relations))
        if len(allowed) == 0:
            return None
        y, x = divmod(int(allowed[rng.integers(len(allowed))]), self.size - side + 1)
        return x, y, x + side, y + side

    def boxes(self, rng: np.random.Generator, count: int, relation: str | None = None) -> list[PixelBox]:
        """Sample `count` boxes that do not touch; with a relation, the first clearly has it to the second.

        Raises:
            ValueError: So many boxes do not fit the image.
        """
        for _ in range(ATTEMPTS):
            boxes: list[PixelBox] = []
            while len(boxes) < count:
                related = [(relation, boxes[0])] if relation is not None and len(boxes) == 1 else []
                box = self.place(rng, boxes, related)
                if box is None:
                    break
                boxes.append(box)
            else:
                return boxes if relation is None else [boxes[1], boxes[0], *boxes[2:]]
        raise ValueError(
            f"{count} objects of {self.smallest} to {self.largest} px with gaps of {self.gap} px "
            f"do not fit a scene of {self.size} px"
        )
