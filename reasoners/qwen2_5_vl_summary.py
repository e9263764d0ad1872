"""A chain's own states as its summary."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor


def spread(states: Float[Tensor, "b l d"], chosen: Bool[Tensor, "b l"], number: int) -> Float[Tensor, "b n d"]:
    """The chosen states of each row, in order, spread evenly over `number` places.

    Place i of n has the state i * k // n of the row's k: each of them at least once where k is at most n, an even
    choice of them where it is more.

    Args:
        states: Of whole sequences.
        chosen: At least one in each row.
        number: Number n of places.
    """
    counts = rearrange(chosen.sum(dim=1), "b -> b 1")
    chosen_first = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)
    picked = chosen_first.gather(1, torch.arange(number, device=states.device) * counts // number)
    return states.gather(1, repeat(picked, "b n -> b n d", d=states.shape[-1]))
