"""The noise that images are drawn from: one generator a sample, made on the CPU so that devices agree."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

LOADER_STRIDE = 100_000
"""Validation batches of a loader before the seeds of the next begin."""

VALIDATION_STRIDE = 100 * LOADER_STRIDE
"""Validation batches before the seeds of the next validation seed begin."""

BATCH_SEEDS = 2**40
"""Seeds of validation batches: so many that their samples' seeds are still below 2**64."""

SEED_STRIDE = 1_000_003
"""From the noise of one seed's first sample to that of the next seed's."""


LARGEST = 2**63
"""Torch's seeds are below it; larger ones begin again."""


def batch_seed(validation_seed: int, loader: int, batch: int, rank: int, world: int) -> int:
    """The seed of a validation batch: another one for each place on each of `world` ranks."""
    place = validation_seed * VALIDATION_STRIDE + loader * LOADER_STRIDE + batch
    return (place * world + rank) % BATCH_SEEDS


def sample_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """The seed of each of `count` samples: those given, or the ones that a single seed means.

    Raises:
        ValueError: Not as many seeds as samples.
    """
    seeds = [seed * SEED_STRIDE + place for place in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} samples: one for each is needed")
    return seeds


def starting_noise(generators: Sequence[Generator], shape: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """Standard normal noise, a sample from each generator.

    Args:
        generators: May be one and the same, which is then drawn from in turn.
        shape: (c, h, w) of a sample.
    """
    drawn = [torch.randn(tuple(shape), generator=generator, device=generator.device).cpu() for generator in generators]
    return torch.stack(drawn)


def seeded(seeds: Sequence[int]) -> list[Generator]:
    """A generator on the CPU for each seed."""
    return [Generator().manual_seed(seed % LARGEST) for seed in seeds]


def chancy_step(
    scheduler: Any, generators: Sequence[Generator] | None
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """A scheduler's step, as a function of its number, the prediction, the time and the latents.

    What noise it adds follows from the generators, one for each sample, or from the seed of the first for all of them
    where the scheduler takes none; torch's own chance is as it was afterwards. Without generators the noise is torch's.
    """
    takes_them = generators is not None and "generator" in inspect.signature(scheduler.step).parameters
    chance = {"generator": list(generators or ())} if takes_them else {}

    def step(number: int, prediction: Tensor, time: Tensor, x: Tensor) -> Tensor:
        if generators is None:
            return scheduler.step(prediction, time, x, return_dict=False)[0]
        kind = x.device.type
        with torch.random.fork_rng([] if kind == "cpu" else [x.device], device_type="cuda" if kind == "cpu" else kind):
            torch.manual_seed((generators[0].initial_seed() + number) % LARGEST)
            return scheduler.step(prediction, time, x, return_dict=False, **chance)[0]

    return step
