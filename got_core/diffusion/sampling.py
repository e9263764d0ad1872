"""Weighted branches of guidance, seeded noise, and one denoising loop for every objective (GoT, section 4.2)."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, Predict, Scheduler
from got_core.types import Guidance


def dropped_conditions(
    draw: Float[Tensor, " b"], probability: float
) -> tuple[Bool[Tensor, " b"], Bool[Tensor, " b"], Bool[Tensor, " b"]]:
    """Return masks of where (semantic, spatial, reference) are dropped, from uniform numbers in [0, 1).

    Up to `probability` everything is dropped, up to twice it all but the reference, up to three times it only the
    spatial guidance; above that nothing.
    """
    return draw < 2 * probability, draw < 3 * probability, draw < probability


LARGEST = 2**63
"""Torch's seeds are below it; larger ones begin again."""


def batch_seed(validation_seed: int, loader: int, batch: int, rank: int, world: int) -> int:
    """Return the seed of a validation batch, which differs for each of `world` ranks.

    A validation seed has room for 100 loaders of 100,000 batches each. Below 2**40 the seeds of the batches' samples
    are below 2**64.
    """
    index = validation_seed * 10_000_000 + loader * 100_000 + batch
    return (index * world + rank) % 2**40


def sample_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """Return a seed for each of `count` samples: those given, or consecutive ones that follow from a single seed.

    Raises:
        ValueError: Not as many seeds as samples.
    """
    seeds = [seed * 1_000_003 + index for index in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise ValueError(f"{len(seeds)} seeds for {count} samples: one for each is needed")
    return seeds


def starting_noise(generators: Sequence[Generator], shape: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """Return standard normal noise, one sample from each generator.

    Args:
        generators: May be one and the same, which then gives all samples in turn.
        shape: (c, h, w) of a sample.
    """
    noise = [torch.randn(tuple(shape), generator=generator, device=generator.device).cpu() for generator in generators]
    return torch.stack(noise)


def seeded(seeds: Sequence[int]) -> list[Generator]:
    """Return a generator on the CPU for each seed."""
    return [Generator().manual_seed(seed % LARGEST) for seed in seeds]


def seeded_step(
    scheduler: Any, generators: Sequence[Generator] | None
) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Return a scheduler's step, as a function of its number, the prediction, the time and the latents.

    The noise that it adds follows from the generators, one for each sample, or from the seed of the first if the
    scheduler takes none; torch's own generators stay as they were. Without generators the noise is from torch's own.
    """
    takes_them = generators is not None and "generator" in inspect.signature(scheduler.step).parameters
    given = {"generator": list(generators or ())} if takes_them else {}

    def step(number: int, prediction: Tensor, time: Tensor, x: Tensor) -> Tensor:
        if generators is None:
            return scheduler.step(prediction, time, x, return_dict=False)[0]
        kind = x.device.type
        with torch.random.fork_rng([] if kind == "cpu" else [x.device], device_type="cuda" if kind == "cpu" else kind):
            torch.manual_seed((generators[0].initial_seed() + number) % LARGEST)
            return scheduler.step(prediction, time, x, return_dict=False, **given)[0]

    return step


Scale = float | Float[Tensor, " b"]
Callback = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called after each step with its number, its time and the latents; may return other latents to continue with."""


@dataclass(frozen=True)
class GuidanceScales:
    """The scales a_t, a_s and a_r: a number each, or a tensor with one number for each sample of a batch."""

    semantic: Scale
    spatial: Scale
    reference: Scale

    @staticmethod
    def choose(edits: Tensor, editing: "GuidanceScales", text_to_image: "GuidanceScales") -> "GuidanceScales":
        """Return `editing` where the mask `edits` (bool, one for each sample) is True, `text_to_image` elsewhere."""

        def pick(name: str) -> Tensor:
            given, other = (
                torch.as_tensor(getattr(scales, name), dtype=torch.float32, device=edits.device)
                for scales in (editing, text_to_image)
            )
            return torch.where(edits, given, other)

        return GuidanceScales(pick("semantic"), pick("spatial"), pick("reference"))


TEXT_TO_IMAGE = GuidanceScales(semantic=7.5, spatial=4.0, reference=1.0)
"""The released system's scales for text-to-image."""

EDITING = GuidanceScales(semantic=4.0, spatial=3.0, reference=1.5)
"""The released system's scales for editing."""


CONDITIONED = GuidanceScales(semantic=1.0, spatial=1.0, reference=1.0)
"""The conditioned prediction alone: one pass."""

Times = tuple[float, float]
"""First and last time of an interval, from 0 (clean) to 1000 (noise)."""


@dataclass(frozen=True)
class Sampling:
    """How an image is denoised.

    Attributes:
        steps: Denoising steps.
        guidance_interval: The times at which there is guidance (Kynkäänniemi et al., 2024); at others the conditioned
            prediction alone is used, one pass in place of up to four. None for all times.

    Raises:
        ValueError: No step, or an interval that is none.
    """

    steps: int
    guidance_interval: Times | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, not {self.steps!r}")
        if self.guidance_interval is not None:
            check_interval(self.guidance_interval)


def check_interval(interval: Any) -> Times:
    """Return the interval of times that two numbers are, the first not above the second (ValueError otherwise)."""
    try:
        first, last = map(float, interval)
    except (TypeError, ValueError):
        first, last = math.nan, math.nan
    if not first <= last:
        raise ValueError(f"guidance_interval must be two times, the first not above the second, not {interval!r}")
    return first, last


@dataclass(frozen=True)
class Branch:
    """One guidance that the backbone is called with: its weight for each sample, and which parts it keeps."""

    weight: Float[Tensor, " b"]
    semantic: bool
    spatial: bool
    reference: bool


def branches(
    scales: GuidanceScales, batch_size: int, device: torch.device, spatial: bool = True, reference: bool = True
) -> list[Branch]:
    """Return the published four-pass formula as branches whose weights sum to 1 for every sample.

    Args:
        scales: Of each guidance.
        batch_size: Samples of the batch.
        device: Of the weights.
        spatial, reference: Whether there is such guidance. Without it, passes that differ only there are one branch.

    Returns:
        The branches whose weight is not 0 for every sample.
    """
    a_t, a_s, a_r = (
        torch.as_tensor(scale, dtype=torch.float32, device=device).expand(batch_size)
        for scale in (scales.semantic, scales.spatial, scales.reference)
    )
    weights: dict[tuple[bool, bool, bool], Tensor] = {}
    for weight, semantic, with_spatial, with_reference in (
        (1 - a_r, False, False, False),
        (a_r - a_t, False, False, True),
        (a_t - a_s, True, False, True),
        (a_s, True, True, True),
    ):
        parts = (semantic, with_spatial and spatial, with_reference and reference)
        weights[parts] = weights[parts] + weight if parts in weights else weight
    return [Branch(weight, *parts) for parts, weight in weights.items() if bool((weight != 0).any())]


def guided_predict(
    backbone: DenoisingBackbone, encoder: GuidanceEncoder, guidance: Guidance, scales: GuidanceScales
) -> Predict:
    """Bind guidance and scales to a backbone: each call runs one batch, with each sample's branches of non-zero weight.

    The guidance of all branches is made here, once, and used at every step.
    """
    size, device = len(guidance.tokens), guidance.tokens.device
    parts = branches(scales, size, device, guidance.spatial is not None, guidance.reference is not None)
    weights = torch.cat([branch.weight for branch in parts])
    rows = weights.nonzero().squeeze(1)
    dtype = next(
        (weight.dtype for weight in backbone.parameters() if weight.is_floating_point()), guidance.tokens.dtype
    )
    kept = _rows(Guidance.cat([_keep(encoder, guidance, branch) for branch in parts]), rows)
    stacked = kept.map(lambda value: value.to(dtype))

    def predict(x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        each = backbone(x_t[rows % size].to(dtype), t[rows % size], stacked)
        weighted = each.to(x_t.dtype) * rearrange(weights[rows].to(x_t.dtype), "k -> k 1 1 1")
        spread = x_t.new_zeros(len(weights), *x_t.shape[1:]).index_copy(0, rows, weighted)
        return reduce(spread, "(k b) c h w -> b c h w", "sum", b=size)

    return predict


def _keep(encoder: GuidanceEncoder, guidance: Guidance, branch: Branch) -> Guidance:
    """Replace the parts of guidance that a branch does not keep by their nulls."""
    size, flags = (len(branch.weight),), (branch.semantic, branch.spatial, branch.reference)
    return encoder.drop(guidance, *(branch.weight.new_full(size, not flag, dtype=torch.bool) for flag in flags))


def _rows(guidance: Guidance, rows: Int[Tensor, " k"]) -> Guidance:
    """Return some rows of every field."""
    return guidance.map(lambda value: value[rows])


@torch.no_grad()
def sample(
    backbone: DenoisingBackbone,
    encoder: GuidanceEncoder,
    guidance: Guidance,
    scheduler: Scheduler,
    noise: Float[Tensor, "b c h w"],
    scales: GuidanceScales,
    steps: int,
    callback: Callback | None = None,
    generators: Sequence[Generator] | None = None,
    guidance_interval: Times | None = None,
) -> Float[Tensor, "b c h w"]:
    """Denoise from noise to scaled latents.

    Args:
        scheduler: A fresh one, the objective's own or another that fits it (`got_core.diffusion.schedulers`).
        noise: Standard normal; its shape is that of the latents.
        steps: Number of scheduler steps; each is one call of the backbone.
        callback: See `Callback`.
        generators: One for each sample, for schedulers that add noise; torch's own generator if None.
        guidance_interval: See `Sampling`.
    """
    guide = guided_predict(backbone, encoder, guidance, scales)
    alone = guide if guidance_interval is None else guided_predict(backbone, encoder, guidance, CONDITIONED)
    scheduler.set_timesteps(steps, device=noise.device)
    scale_input = getattr(scheduler, "scale_model_input", lambda x, time: x)
    take_step = seeded_step(scheduler, generators)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for step, time in enumerate(scheduler.timesteps):
        t = repeat(time.to(torch.float32), "-> b", b=len(x))
        inside = guidance_interval is None or guidance_interval[0] <= float(time) <= guidance_interval[1]
        predict = guide if inside else alone
        x = take_step(step, predict(scale_input(x, time), t), time, x)
        if callback is not None:
            changed = callback(step, time, x)
            x = x if changed is None else changed
    return x
