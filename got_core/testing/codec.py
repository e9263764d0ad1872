"""The contract of a latent codec."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from einops import rearrange, reduce
from torch import Generator

from got_core.interfaces import LatentCodec
from got_core.testing.common import check_attributes, check_state_dict, require, same


def check_codec(codec: LatentCodec, sizes: Sequence[tuple[int, int]] = ((64, 64), (64, 128))) -> None:
    """Check a `LatentCodec` on the CPU in float32.

    Args:
        codec: Any; a copy is used.
        sizes: (height, width) of images that it claims to encode, multiples of its `downsample`.

    Raises:
        AssertionError: What does not hold: declared widths, shapes of latents and images, the same result twice, one
            image untouched by another, raw latents that differ from scaled ones by a scale and a shift a channel,
            frozen weights that stay in evaluation mode, a ValueError for a size that does not divide, state dict.
    """
    name = type(codec).__name__
    check_attributes(codec, ("latent_channels", "downsample"))
    model = deepcopy(codec).train()
    require(not model.training, f"{name} does not stay in evaluation mode")
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    require(not trained, f"{name} is not frozen: {', '.join(trained[:3])} would be trained")
    for height, width in sizes:
        images = 2 * torch.rand(2, 3, height, width, generator=Generator().manual_seed(0)) - 1
        before = images.clone()
        latents = model.encode(images)
        require(torch.equal(images, before), f"{name}.encode changes its inputs in place")
        wanted = (2, model.latent_channels, height // model.downsample, width // model.downsample)
        made = tuple(latents.shape)
        require(made == wanted, f"{name} declares latents of {wanted}, but makes {made}")
        require(bool(latents.isfinite().all()), f"{name}.encode gives latents that are not finite")
        require(same(latents, model.encode(images)), f"{name}.encode gives two results for the same images")
        require(same(latents[:1], model.encode(images[:1])), f"{name}.encode mixes the images of a batch")
        _check_scale(model, images)
        decoded = model.decode(latents)
        found = tuple(decoded.shape)
        require(found == tuple(images.shape), f"{name} decodes {tuple(images.shape)} images into {found}")
        require(bool(decoded.isfinite().all()), f"{name}.decode gives images that are not finite")
        require(same(decoded[:1], model.decode(latents[:1])), f"{name}.decode mixes the latents of a batch")
    if model.downsample > 1:
        _check_refusal(model, sizes[0])
    check_state_dict(codec, lambda part: [part.encode(images)])


def _check_scale(codec: LatentCodec, images: torch.Tensor) -> None:
    """Raw latents are scaled ones times a number, plus a number, for each channel."""
    flat = (rearrange(codec.encode(images, scaled=each), "b c h w -> c (b h w)") for each in (True, False))
    centred = [value - reduce(value, "c n -> c 1", "mean") for value in flat]
    slope = reduce(centred[0] * centred[1], "c n -> c 1", "sum") / reduce(centred[0].square(), "c n -> c 1", "sum")
    fits = same(slope.nan_to_num() * centred[0], centred[1])
    require(fits, f"{type(codec).__name__}.encode: raw latents are not scaled ones times a number, plus a number")


def _check_refusal(codec: LatentCodec, size: tuple[int, int]) -> None:
    try:
        codec.encode(torch.zeros(1, 3, size[0] + 1, size[1]))
    except ValueError:
        return
    raise AssertionError(f"{type(codec).__name__} raises no ValueError for images that do not divide into its steps")
