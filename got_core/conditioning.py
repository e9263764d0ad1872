"""Which conditions are dropped in training (GoT, section 4.3)."""

from jaxtyping import Bool, Float
from torch import Tensor


def dropped_conditions(
    draw: Float[Tensor, " b"], probability: float
) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"], Bool[Tensor, " b"]]:
    """Which of (semantic, spatial, reference) to drop, from uniform draws in [0, 1).

    Up to `probability` everything is dropped, up to twice it all but the reference, up to three times the spatial
    guidance alone; above that nothing.
    """
    return draw < 2 * probability, draw < 3 * probability, draw < probability
