"""Guidance as a weighted sum of branches, and one denoising loop for every objective (GoT, section 4.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Float, Int
from torch import Generator, Tensor

from got_core.interfaces import DenoisingBackbone, GuidanceEncoder, Predict, Scheduler
from got_core.noise import chancy_step
from got_core.types import Guidance

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
        scheduler: A fresh one, the objective's own or another that fits it (`got_core.schedulers`).
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
