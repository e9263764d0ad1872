"""The contract of a noise objective."""

import torch
from einops import reduce, repeat
from torch import Generator, Tensor, device

from got_core.diffusion.schedulers import check_scheduler
from got_core.interfaces import NoiseObjective
from got_core.testing.common import normal, require, same

SHAPE = (3, 4, 8, 8)
FROM, TO = 0.0, 1000.0
"""The range of times, in scheduler units."""

EXACT = 1e-6
"""Loss of an exact prediction."""


def check_objective(objective: NoiseObjective) -> None:
    """Check a `NoiseObjective` on the CPU in float32.

    Args:
        objective: Any.

    Raises:
        AssertionError: What does not hold: noise and times of the right shape and range, the same for a generator's
            seed; corruption that depends on its arguments alone, sample by sample, and leaves them as they were; a loss
            of each sample that is 0 for an exact prediction and above it for others; a fresh scheduler at each call
            that takes away the noise the objective adds.
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
    within = bool(((times[0] >= FROM) & (times[0] <= TO)).all())
    require(within, f"{name}.sample_t gives times outside {FROM:.0f} to {TO:.0f}")
    t = times[0][: len(x0)].sort().values
    _check_corruption(objective, x0, noise, t)
    _check_loss(objective, x0, noise, t)
    schedulers = objective.scheduler(), objective.scheduler()
    require(schedulers[0] is not schedulers[1], f"{name}.scheduler gives the same scheduler twice; it must be fresh")
    try:
        check_scheduler(objective, schedulers[0])
    except ValueError as error:
        raise AssertionError(f"the scheduler of {name} does not sample what it trains: {error}") from error


def _check_corruption(objective: NoiseObjective, x0: Tensor, noise: Tensor, t: Tensor) -> None:
    name, before = type(objective).__name__, [value.clone() for value in (x0, noise, t)]
    x_t, target = objective.corrupt(x0, noise, t)
    for what, value in {"x_t": x_t, "target": target}.items():
        fits = value.shape == x0.shape and bool(value.isfinite().all())
        require(fits, f"{name}.corrupt gives a {what} of shape {tuple(value.shape)} for {tuple(x0.shape)}")
    unchanged = all(torch.equal(one, other) for one, other in zip(before, (x0, noise, t), strict=True))
    require(unchanged, f"{name}.corrupt changes its inputs in place")
    repeated = all(same(one, other) for one, other in zip((x_t, target), objective.corrupt(x0, noise, t), strict=True))
    require(repeated, f"{name}.corrupt gives two results for the same inputs: noise and times are arguments")
    alone = objective.corrupt(x0[:1], noise[:1], t[:1])
    require(same(alone[0], x_t[:1]) and same(alone[1], target[:1]), f"{name}.corrupt mixes the samples of a batch")
    clean, grain = (repeat(value[0], "c h w -> b c h w", b=len(t)) for value in (x0, noise))
    errors = reduce((objective.corrupt(clean, grain, t)[0] - clean).square(), "b c h w -> b", "mean")
    require(bool((errors.diff() >= 0).all()), f"{name}.corrupt adds less noise at a later time")


def _check_loss(objective: NoiseObjective, x0: Tensor, noise: Tensor, t: Tensor) -> None:
    name = type(objective).__name__
    _, target = objective.corrupt(x0, noise, t)
    exact = objective.loss(lambda x_t, time: target, x0, noise, t)
    require(exact.shape == (len(x0),), f"{name}.loss gives shape {tuple(exact.shape)}, not one loss a sample")
    require(bool((exact.abs() < EXACT).all()), f"{name}.loss of an exact prediction is not 0")
    others = objective.loss(lambda x_t, time: target + 1, x0, noise, t)
    good = bool(((others > 0) & others.isfinite()).all())
    require(good, f"{name}.loss of a wrong prediction is not a finite number above 0")
