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
    check_rows,
    check_state_dict,
    normal,
    perturbed,
    present,
    require,
)
from got_core.types import Guidance

TIMES = (30.0, 700.0)
"""One for each sample."""


def check_backbone(backbone: DenoisingBackbone, sizes: Sequence[tuple[int, int]] = ((8, 8), (8, 16))) -> None:
    """Check a `DenoisingBackbone` on the CPU in float32.

    Args:
        backbone: Any; a copy is used.
        sizes: (height, width) of latents that it claims to handle.

    Raises:
        AssertionError: What does not hold: declared widths, output shapes at each size, the same result twice in eval
            mode, samples that do not depend on each other, use of the time and of each declared field of the guidance,
            a ValueError if such a field is missing, unchanged inputs, gradients to every trainable parameter,
            `blocks()`, state dict.
    """
    optional = ("token_dim", "pooled_dim", "spatial_channels", "reference_channels")
    check_attributes(backbone, ("latent_channels",), optional)
    check_blocks(backbone)
    fresh, model = deepcopy(backbone).eval(), perturbed(backbone, seed=0)
    for size in sizes:
        x, t, guidance = _inputs(model, size)
        with torch.no_grad():
            for candidate in (fresh, model):
                _check_rows(candidate, x, t, guidance)
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
    tokens = normal(generator, batch, 5, backbone.token_dim or 1)
    pooled = None if backbone.pooled_dim is None else normal(generator, batch, backbone.pooled_dim)
    x = normal(generator, batch, backbone.latent_channels, *size)
    return x, torch.tensor(TIMES), Guidance(tokens, pooled, *maps)


def _check_rows(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    values = present(guidance)

    def predict(x: Tensor, t: Tensor, *given: Tensor) -> Tensor:
        fields: dict[str, Any] = dict(zip(values, given, strict=True))
        return model(x, t, replace(guidance, **fields))

    check_rows(type(model).__name__, predict, x.shape, x, t, *values.values())


def _check_uses(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    """Check that the time and every declared field change the sample they belong to."""
    name, output = type(model).__name__, model(x, t, guidance)
    widths = {
        "tokens": model.token_dim,
        "pooled": model.pooled_dim,
        "spatial": model.spatial_channels,
        "reference": model.reference_channels,
    }
    changed = {
        f"{field} guidance": (t, replace(guidance, **{field: _first_changed(value)}))
        for field, value in present(guidance).items()
        if widths[field] is not None
    }
    changed["time t"] = (torch.tensor([TIMES[0] + 200, *TIMES[1:]]), guidance)
    for what, (times, given) in changed.items():
        require(not torch.equal(model(x, times, given)[0], output[0]), f"{name} does not use the {what}")


def _first_changed(value: Tensor) -> Tensor:
    """Return a copy with other numbers in the first row."""
    other = value.clone()
    other[0] = value[0].flip(0) + 1
    return other


def _check_missing(model: DenoisingBackbone, x: Tensor, t: Tensor, guidance: Guidance) -> None:
    """Check that a missing field that is declared raises a ValueError."""
    for field in present(guidance).keys() - {"tokens"}:
        without: dict[str, Any] = {field: None}
        try:
            model(x, t, replace(guidance, **without))
        except ValueError:
            continue
        raise AssertionError(f"{type(model).__name__} raises no ValueError when its {field} guidance is missing")
