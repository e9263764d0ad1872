"""The contracts of a noise objective and of a latent codec."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from einops import rearrange, reduce, repeat
from torch import Generator, Tensor, device

from got_core.diffusion.schedulers import check_scheduler
from got_core.interfaces import LatentCodec, NoiseObjective
from got_core.testing.common import check_attributes, check_rows, check_state_dict, normal, require, same

SHAPE = (3, 4, 8, 8)


def check_objective(objective: NoiseObjective) -> None:
    """Check a `NoiseObjective` on the CPU in float32.

    Args:
        objective: Any.

    Raises:
        AssertionError: What does not hold: noise and times of the right shape and range, the same for the same seed;
            corruption that depends only on its arguments, for each sample, and does not change them; a loss for each
            sample that is 0 for an exact prediction and positive for others; a new scheduler at each call that removes
            the noise the objective adds.
    """
    name = type(objective).__name__
    x0 = normal(Generator().manual_seed(0), *SHAPE)
    noise = objective.sample_noise(x0, Generator().manual_seed(1))
    require(noise.shape == x0.shape and bool(noise.isfinite().all()), f"{name}.sample_noise gives no noise like x0")
    again = objective.sample_noise(x0, Generator().manual_seed(1))
    require(torch.equal(noise, again), f"{name}.sample_noise gives two noises for the same seed")
    times = [objective.sample_t(64, device("cpu"), Generator().manual_seed(2)) for _ in range(2)]
    require(torch.equal(*times), f"{name}.sample_t gives two times for the same seed")
    require(times[0].shape == (64,), f"{name}.sample_t gives shape {tuple(times[0].shape)} for 64 samples")
    within = bool(((times[0] >= 0) & (times[0] <= 1000)).all())
    require(within, f"{name}.sample_t gives times outside 0 to 1000")
    t = times[0][: len(x0)].sort().values
    _check_corruption(objective, x0, noise, t)
    _check_loss(objective, x0, noise, t)
    schedulers = objective.scheduler(), objective.scheduler()
    require(
        schedulers[0] is not schedulers[1], f"{name}.scheduler gives the same scheduler twice; it must be a new one"
    )
    try:
        check_scheduler(objective, schedulers[0])
    except ValueError as error:
        raise AssertionError(f"the scheduler of {name} does not sample what it trains: {error}") from error


def _check_corruption(objective: NoiseObjective, x0: Tensor, noise: Tensor, t: Tensor) -> None:
    name = type(objective).__name__
    for index, what in enumerate(("x_t", "target")):
        check_rows(
            f"{name}.corrupt ({what})", lambda *given, i=index: objective.corrupt(*given)[i], SHAPE, x0, noise, t
        )
    clean, grain = (repeat(value[0], "c h w -> b c h w", b=len(t)) for value in (x0, noise))
    errors = reduce((objective.corrupt(clean, grain, t)[0] - clean).square(), "b c h w -> b", "mean")
    require(bool((errors.diff() >= 0).all()), f"{name}.corrupt adds less noise at a later time")


def _check_loss(objective: NoiseObjective, x0: Tensor, noise: Tensor, t: Tensor) -> None:
    name = type(objective).__name__
    _, target = objective.corrupt(x0, noise, t)
    exact = objective.loss(lambda x_t, time: target, x0, noise, t)
    require(exact.shape == (len(x0),), f"{name}.loss gives shape {tuple(exact.shape)}, not one loss for each sample")
    require(bool((exact.abs() < 1e-6).all()), f"{name}.loss of an exact prediction is not 0")
    others = objective.loss(lambda x_t, time: target + 1, x0, noise, t)
    good = bool(((others > 0) & others.isfinite()).all())
    require(good, f"{name}.loss of a wrong prediction is not a finite number above 0")


def check_codec(codec: LatentCodec, sizes: Sequence[tuple[int, int]] = ((64, 64), (64, 128))) -> None:
    """Check a `LatentCodec` on the CPU in float32.

    Args:
        codec: Any; a copy is used.
        sizes: (height, width) of images that it claims to encode, multiples of its `downsample`.

    Raises:
        AssertionError: What does not hold: declared widths, shapes of latents and images, the same result twice,
            images that do not depend on each other, raw latents that differ from scaled ones by a scale and a shift for
            each channel, frozen weights that stay in evaluation mode, a ValueError for a size that does not divide,
            state dict.
    """
    name = type(codec).__name__
    check_attributes(codec, ("latent_channels", "downsample"))
    model = deepcopy(codec).train()
    require(not model.training, f"{name} does not stay in evaluation mode")
    trained = [key for key, parameter in model.named_parameters() if parameter.requires_grad]
    require(not trained, f"{name} is not frozen: {', '.join(trained[:3])} would be trained")
    for height, width in sizes:
        images = 2 * torch.rand(2, 3, height, width, generator=Generator().manual_seed(0)) - 1
        latent = (2, model.latent_channels, height // model.downsample, width // model.downsample)
        latents = check_rows(f"{name}.encode", model.encode, latent, images)
        _check_scale(model, images)
        check_rows(f"{name}.decode", model.decode, images.shape, latents)
    if model.downsample > 1:
        _check_refusal(model, sizes[0])
    check_state_dict(codec, lambda part: [part.encode(images)])


def _check_scale(codec: LatentCodec, images: torch.Tensor) -> None:
    """Check that raw latents are scaled ones times a number, plus a number, for each channel."""
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
