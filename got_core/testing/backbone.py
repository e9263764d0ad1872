"""The contract of a denoising backbone."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from got_core.interfaces import DenoisingBackbone
from got_core.testing.common import (
    check_attributes,
    check_blocks,
    check_gradients,
    check_state_dict,
    normal,
    present,
    require,
    rows,
    same,
    shaken,
)
from got_core.types import Guidance

TOKENS = 5
TIMES = (30.0, 700.0)
"""One sample each."""


def check_backbone(backbone: DenoisingBackbone, sizes: Sequence[tuple[int, int]] = ((8, 8), (8, 16))) -> None:
    """Check a `DenoisingBackbone` on the CPU in float32.

    Args:
        backbone: Any; a copy is used.
        sizes: (height, width) of latents that it claims to handle.

    Raises:
        AssertionError: What does not hold: declared widths, output shapes at each size, the same result twice in eval
            mode, one sample untouched by another, use of the time and of each declared field of the guidance, a
            ValueError where such a field is missing, inputs left as they were, gradients to every trainable parameter,
            `blocks()`, state dict.
    """
    name = type(backbone).__name__
    optional = ("token_dim", "pooled_dim", "spatial_channels", "reference_channels")
    check_attributes(backbone, ("latent_channels",), optional)
    check_blocks(backbone)
    fresh, model = deepcopy(backbone).eval(), shaken(backbone, seed=0)
    for size in sizes:
        x, t, guidance = _inputs(model, size)
        with torch.no_grad():
            for candidate in (fresh, model):
                output = candidate(x, t, guidance)
                words = f"{name} turns latents of shape {tuple(x.shape)} into shape {tuple(output.shape)}"
                require(output.shape == x.shape, words)
                require(bool(output.isfinite().all()), f"{name} predicts values that are not finite")
            _check_rows(model, x, t, guidance)
            _check_uses(model, x, t, guidance)
            _check_missing(model, x, t, guidance)
    x, t, guidance = _inputs(model, sizes[0])
    check_gradients(model, [model(x, t, guidance)])
    check_state_dict(backbone, lambda part: [part(x, t, guidance)])


def _inputs(backbone: DenoisingBackbone, size: tuple[int, int]) -> tuple[Tensor, Tensor, Guidance]:
    generator, batch = Generator().manual_seed(0), len(TIMES)
    maps = [
        None if channels is None else normal(generator, batch, channels, *size)
        for channels in (backbone.spatial_channels, backbone.reference_channels)
    ]
    tokens = normal(generator, batch, TOKENS, backbone.token_dim or 1)
    pooled = None if backbone.pooled_dim is None else normal(generator, batch, backbone.pooled_dim)
    x = normal(generator, batch, backbone.latent_channels, *size)
    return x, torch.tensor(TIMES), Guidance(tokens, pooled, *maps)


def _check_rows(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    """The same result twice, inputs unchanged, and each sample as if it were alone."""
    name = type(model).__name__
    before = [value.clone() for value in (x, t, *present(guidance).values())]
    output = model(x, t, guidance)
    after = (x, t, *present(guidance).values())
    unchanged = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    require(unchanged, f"{name} changes its inputs in place")
    require(same(output, model(x, t, guidance)), f"{name} in eval mode gives two results for the same inputs")
    alone = model(x[:1], t[:1], rows(guidance, slice(0, 1)))
    require(same(output[:1], alone), f"{name} predicts a sample differently when others share its batch")


def _check_uses(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    """The time and every declared field steer the sample they belong to."""
    name, output = type(model).__name__, model(x, t, guidance)
    widths = {
        "tokens": model.token_dim,
        "pooled": model.pooled_dim,
        "spatial": model.spatial_channels,
        "reference": model.reference_channels,
    }
    moved = {
        f"{field} guidance": (t, replace(guidance, **{field: _first_moved(value)}))
        for field, value in present(guidance).items()
        if widths[field] is not None
    }
    moved["time t"] = (torch.tensor([TIMES[0] + 200, *TIMES[1:]]), guidance)
    for what, (times, given) in moved.items():
        found = model(x, times, given)
        require(not torch.equal(found[0], output[0]), f"{name} does not use the {what}")


def _first_moved(value: Tensor) -> Tensor:
    """The same with other numbers in its first row."""
    other = value.clone()
    other[0] = value[0].flip(0) + 1
    return other


def _check_missing(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    """A declared field that is not given is refused."""
    for field in present(guidance):
        if field == "tokens":
            continue
        without: dict[str, Any] = {field: None}
        try:
            model(x, t, replace(guidance, **without))
        except ValueError:
            continue
        raise AssertionError(f"{type(model).__name__} raises no ValueError when its {field} guidance is missing")
