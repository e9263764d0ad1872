"""Where objects stand in a drawn scene: boxes on the pixel grid that do not touch and keep the relations asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from got_core.data.scenes.render import Box

RELATIONS: dict[str, tuple[int, int]] = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
"""GenEval's relations: the direction (x, y), y downwards, in which the first object lies from the second."""

SHRINK = 0.1
"""GenEval: each axis of the offset is shrunk by this share of the two sizes on it."""

HOLDS = 0.5
"""GenEval: a relation holds where its strength is above this."""

CLEAR = 0.65
"""Strength that a drawn relation has at least, so that a found box may be off by a pixel."""

ATTEMPTS = 200
"""Layouts begun before giving up."""


def relation_strength(
    relation: str,
    centre: tuple[Float[ndarray, "..."], Float[ndarray, "..."]],
    side: int,
    anchor: Box,
) -> Float[ndarray, "..."]:
    """How clearly square boxes of that centre (x, y) and side lie in `relation` to the anchor, by GenEval's rule.

    It holds above `HOLDS`; boxes of the same centre give 0.
    """
    x1, y1, x2, y2 = anchor
    across, down = centre[0] - (x1 + x2) / 2, centre[1] - (y1 + y2) / 2
    direction = RELATIONS[relation]
    along = across * direction[0] + down * direction[1]
    sizes = side + (x2 - x1 if direction[0] else y2 - y1)
    return np.maximum(along - SHRINK * sizes, 0) / np.maximum(np.hypot(across, down), 1e-9)


def relation_holds(relation: str, box: Box, anchor: Box) -> bool:
    """Whether a square box lies in `relation` to the anchor, by GenEval's rule."""
    x1, y1, x2, y2 = box
    centre = np.array([(x1 + x2) / 2]), np.array([(y1 + y2) / 2])
    return bool(relation_strength(relation, centre, x2 - x1, anchor).item() > HOLDS)


@dataclass(frozen=True)
class Layout:
    """Draws boxes for a square image.

    Attributes:
        size: Side of the image in pixels.
        smallest, largest: Sides of an object's box in pixels, both included.
        gap: Pixels that stay free between two boxes.
    """

    size: int = 32
    smallest: int = 9
    largest: int = 15
    gap: int = 3

    def free(
        self,
        side: int,
        taken: Sequence[Box],
        relations: Sequence[tuple[str, Box]] = (),
    ) -> Bool[ndarray, "rows columns"]:
        """Which upper left corners (y, x) keep a box of that side off the taken ones and in every relation."""
        corners = np.arange(self.size - side + 1)
        allowed = np.ones((len(corners), len(corners)), dtype=bool)
        for x1, y1, x2, y2 in taken:
            reach = side + self.gap - 1
            allowed[max(y1 - reach, 0) : y2 + self.gap, max(x1 - reach, 0) : x2 + self.gap] = False
        for relation, anchor in relations:
            centres = (corners + side / 2)[None, :], (corners + side / 2)[:, None]
            allowed &= relation_strength(relation, centres, side, anchor) >= CLEAR
        return allowed

    def place(
        self,
        rng: np.random.Generator,
        taken: Sequence[Box] = (),
        relations: Sequence[tuple[str, Box]] = (),
        side: int | None = None,
    ) -> Box | None:
        """One more box beside the taken ones, evenly among those allowed, or None where nothing fits.

        Args:
            rng: The source of chance.
            taken: Boxes to keep clear of.
            relations: (relation, anchor) pairs that must clearly hold for the new box.
            side: Its side in pixels; drawn when left out.
        """
        side = int(rng.integers(self.smallest, self.largest + 1)) if side is None else side
        allowed = np.flatnonzero(self.free(side, taken, relations))
        if len(allowed) == 0:
            return None
        y, x = divmod(int(allowed[rng.integers(len(allowed))]), self.size - side + 1)
        return x, y, x + side, y + side

    def boxes(self, rng: np.random.Generator, count: int, relation: str | None = None) -> list[Box]:
        """`count` boxes that do not touch; with a relation, the first clearly stands so to the second.

        Raises:
            ValueError: So many boxes do not fit the image.
        """
        for _ in range(ATTEMPTS):
            found: list[Box] = []
            while len(found) < count:
                related = [(relation, found[0])] if relation is not None and len(found) == 1 else []
                box = self.place(rng, found, related)
                if box is None:
                    break
                found.append(box)
            else:
                return found if relation is None else [found[1], found[0], *found[2:]]
        raise ValueError(
            f"{count} objects of {self.smallest} to {self.largest} px with gaps of {self.gap} px "
            f"do not fit a scene of {self.size} px"
        )
