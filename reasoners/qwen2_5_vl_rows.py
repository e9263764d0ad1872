"""Rows of tokens of different length, put side by side for Qwen2.5-VL."""

from collections.abc import Sequence

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from got_core.interfaces import Generators


def choose(logits: Float[Tensor, "b v"], temperature: float, generator: Generators | None) -> Int[Tensor, " b"]:
    """A token for each row: the likeliest at temperature 0, else one drawn."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = (logits / temperature).softmax(dim=-1)
    if generator is None or isinstance(generator, Generator):
        return _drawn(probabilities, generator)
    rows = zip(probabilities.split(1), generator, strict=True)
    return torch.cat([_drawn(row, its_own) for row, its_own in rows])


def _drawn(probabilities: Float[Tensor, "b v"], generator: Generator | None) -> Int[Tensor, " b"]:
    device = probabilities.device if generator is None else generator.device
    drawn = torch.multinomial(probabilities.to(device), 1, generator=generator)
    return rearrange(drawn.to(probabilities.device), "b 1 -> b")


def without_padding(written: Sequence[Int[Tensor, " b"]]) -> list[list[int]]:
    """The tokens of each row, from those written at each place, which are -1 behind a row's end."""
    return [[token for token in row if token >= 0] for row in torch.stack(list(written), dim=1).tolist()]


def axes(places: Int[Tensor, "b l"]) -> Int[Tensor, "b 3 l"]:
    """Text's rotary positions, the same on all three axes."""
    return repeat(places, "b l -> b three l", three=3)


def align_right(
    ids: Int[Tensor, "b l"], positions: Int[Tensor, "b 3 l"], lengths: Int[Tensor, " b"]
) -> tuple[Int[Tensor, "b p"], Int[Tensor, "b 3 p"], Bool[Tensor, "b p"]]:
    """The first `lengths` tokens of each row with padding on the left, their positions, and which are not padding."""
    longest = int(lengths.max())
    index = torch.arange(longest, device=ids.device) - rearrange(longest - lengths, "b -> b 1")
    first = index.clamp(min=0)
    return ids.gather(1, first), positions.gather(2, axes(first)), index >= 0
