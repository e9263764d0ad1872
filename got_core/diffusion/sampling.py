"""Guidance as a weighted sum of branches, one denoising loop for every objective (GoT, section 4.2), and its noise."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
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
    """Which of (semantic, spatial, reference) to drop, from uniform draws in [0, 1).

    Up to `probability` everything is dropped, up to twice it all but the reference, up to three times the spatial
    guidance alone; above that nothing.
    """
    return draw < 2 * probability, draw < 3 * probability, draw < probability


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


Scale = float | Float[Tensor, " b"]
Callback = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called after each step with its number, its time and the latents; may return other latents to go on with."""


@dataclass(frozen=True)
class GuidanceScales:
    """The scales a_t, a_s and a_r; a tensor holds one number a sample, so that kinds of samples can share a batch."""

    semantic: Scale
    spatial: Scale
    reference: Scale

    @staticmethod
    def choose(edits: Tensor, editing: "GuidanceScales", text_to_image: "GuidanceScales") -> "GuidanceScales":
        """`editing` where the mask `edits` (bool, one a sample) is True, `text_to_image` elsewhere."""

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


@dataclass(frozen=True)
class Branch:
    """One guidance the backbone is asked with: its weight for each sample, and which parts it keeps."""

    weight: Float[Tensor, " b"]
    semantic: bool
    spatial: bool
    reference: bool


def branches(
    scales: GuidanceScales, batch_size: int, device: torch.device, spatial: bool = True, reference: bool = True
) -> list[Branch]:
    """The published four-pass formula, collected by pass; its weights sum to 1 for every sample.

    Args:
        spatial, reference: Whether there is such guidance at all. Without it, passes that differ only there are one.

    Returns:
        The branches whose weight is not 0 for every sample.
    """
    a_t, a_s, a_r = (
        torch.as_tensor(scale, dtype=torch.float32, device=device).expand(batch_size)
        for scale in (scales.semantic, scales.spatial, scales.reference)
    )
    kept: dict[tuple[bool, bool, bool], Tensor] = {}
    for weight, semantic, with_spatial, with_reference in (
        (1 - a_r, False, False, False),
        (a_r - a_t, False, False, True),
        (a_t - a_s, True, False, True),
        (a_s, True, True, True),
    ):
        parts = (semantic, with_spatial and spatial, with_reference and reference)
        kept[parts] = kept[parts] + weight if parts in kept else weight
    return [Branch(weight, *parts) for parts, weight in kept.items() if bool((weight != 0).any())]


def guided_predict(
    backbone: DenoisingBackbone, encoder: GuidanceEncoder, guidance: Guidance, scales: GuidanceScales
) -> Predict:
    """Bind guidance and scales to a backbone: one batch a call, holding each sample's branches of non-zero weight.

    The guidance of all branches is made here, once, and used at every step.
    """
    size, device = len(guidance.tokens), guidance.tokens.device
    asked = branches(scales, size, device, guidance.spatial is not None, guidance.reference is not None)
    weights = torch.cat([branch.weight for branch in asked])
    rows = weights.nonzero().squeeze(1)
    stacked = _rows(Guidance.cat([_keep(encoder, guidance, branch) for branch in asked]), rows)

    def predict(x_t: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        each = backbone(x_t[rows % size], t[rows % size], stacked)
        weighted = each.to(x_t.dtype) * rearrange(weights[rows].to(x_t.dtype), "k -> k 1 1 1")
        spread = x_t.new_zeros(len(weights), *x_t.shape[1:]).index_copy(0, rows, weighted)
        return reduce(spread, "(k b) c h w -> b c h w", "sum", b=size)

    return predict


def _keep(encoder: GuidanceEncoder, guidance: Guidance, branch: Branch) -> Guidance:
    """The guidance with the parts that the branch does not keep replaced by their nulls."""
    masks = (branch.weight.new_full((len(branch.weight),), not kept, dtype=torch.bool) for kept in _flags(branch))
    return encoder.drop(guidance, *masks)


def _flags(branch: Branch) -> tuple[bool, bool, bool]:
    return branch.semantic, branch.spatial, branch.reference


def _rows(guidance: Guidance, rows: Int[Tensor, " k"]) -> Guidance:
    """The named rows of every field."""
    values = {entry.name: getattr(guidance, entry.name) for entry in fields(guidance)}
    return replace(guidance, **{name: value[rows] for name, value in values.items() if value is not None})


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
) -> Float[Tensor, "b c h w"]:
    """Denoise from noise to scaled latents.

    Args:
        scheduler: A fresh one, the objective's own or another that fits it (`got_core.diffusion.schedulers`).
        noise: Standard normal; its shape is that of the latents.
        steps: Number of scheduler steps; each is one call of the backbone.
        callback: See `Callback`.
        generators: One for each sample, for schedulers that add noise on the way; torch's own chance otherwise.
    """
    predict = guided_predict(backbone, encoder, guidance, scales)
    scheduler.set_timesteps(steps, device=noise.device)
    scale_input = getattr(scheduler, "scale_model_input", _unscaled)
    take_step = chancy_step(scheduler, generators)
    x = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    for step, time in enumerate(scheduler.timesteps):
        t = repeat(time.to(torch.float32), "-> b", b=len(x))
        x = take_step(step, predict(scale_input(x, time), t), time, x)
        if callback is not None:
            changed = callback(step, time, x)
            x = x if changed is None else changed
    return x


def _unscaled(x: Tensor, time: Tensor) -> Tensor:
    return x
