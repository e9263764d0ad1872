"""Whether paired differences are more than chance: the sign-flip test, and Holm's correction for several of them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

FLIPS = 10_000
"""Times that signs are drawn."""

AT_ONCE = 250
"""Draws that are made together, which bounds the memory it takes."""

SIGNIFICANT = 0.05
"""Chance below which a difference is called significant."""

ROUNDING = 1e-12
"""A drawn mean this much nearer to zero than the one found counts as no nearer."""


def chance(strata: Sequence[Float[ndarray, " _"]], seed: int) -> float:
    """How likely a mean so far from zero is when each difference might as well have the other sign; two-sided.

    The test of Fisher ("The Design of Experiments", 1935) by drawing; it holds for any number of differences.

    Args:
        strata: The differences, by category; what is tested is the plain mean of the categories' means.
        seed: Of the signs; the same for a seed.

    Raises:
        ValueError: A category without a difference.
    """
    if not strata or not all(len(differences) for differences in strata):
        raise ValueError("a test needs at least one difference in each category")
    weighted = np.concatenate([differences / len(differences) for differences in strata])
    moved = weighted[weighted != 0]
    if not len(moved):
        return 1.0
    found = abs(moved.sum()) - ROUNDING
    rng = np.random.default_rng(seed)
    extreme = 0
    for first in range(0, FLIPS, AT_ONCE):
        signs = rng.integers(0, 2, (min(AT_ONCE, FLIPS - first), len(moved)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ moved) >= found).sum())
    return (extreme + 1) / (FLIPS + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """Chances that count how many differences were tested (Holm, 1979): each is of its own place, in the same order."""
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, (len(chances) - rank) * chances[place]))
        adjusted[place] = highest
    return adjusted
