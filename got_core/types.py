"""The values that travel between components: Sample -> Batch -> Reasoning -> Guidance.

All are frozen dataclasses. Images are float tensors in [-1, 1], channels first; the codec defines the latents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

BLACK = -1.0
"""The pixel value of black in images that run from -1 to 1."""

TARGET, SPATIAL, REFERENCE = "target", "spatial", "reference"
"""Names of latents in `Sample.precomputed`: of the target image, and of two parts of the guidance."""


def to_pil(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """Convert a tensor in [-1, 1] to a PIL image."""
    levels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(rearrange(levels, "c H W -> H W c").numpy())


def from_pil(image: Image.Image, size: tuple[int, int] | None = None) -> Float[Tensor, "3 H W"]:
    """Convert an RGB image to a tensor in [-1, 1], resized bicubically by PIL if `size` (height, width) is given."""
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    return rearrange(torch.from_numpy(np.array(image)), "h w c -> c h w").contiguous() / 127.5 - 1


def resized(image: Float[Tensor, "3 h w"], size: tuple[int, int]) -> Float[Tensor, "3 H W"]:
    """Resize an image in [-1, 1] to `size` (height, width) in pixels as `from_pil` does, without a crop.

    PIL resizes levels of 8 bits. An image that has the size already is returned as it is.
    """
    return image if tuple(image.shape[1:]) == tuple(size) else from_pil(to_pil(image), size)


@dataclass(frozen=True)
class Step:
    """An image that was generated on the way to the one that was requested, with its chain.

    Attributes:
        chain: The reasoning chain.
        image: In [-1, 1], of any size.
    """

    chain: str
    image: Float[Tensor, "3 h w"]


@dataclass(frozen=True)
class Sample:
    """One sample: the prompt, its reasoning chain, and the target image.

    Attributes:
        prompt: The caption (text-to-image) or the instruction (editing).
        chain: The reasoning chain in any form that `got_core.chain` reads; empty where the reasoner must write it.
        target: The image to be generated, or None at inference.
        source: The image to be edited, of any size, or None for text-to-image.
        size: (height, width) of the image to be generated, in pixels; that of `target` if it has one.
        meta: Data for metrics and reports; never read by a model.
        earlier: The requests of earlier turns, the first one first, where the sample continues a conversation.
        steps: Where a request takes several images, those before this one; the last of them is edited next.
        precomputed: What training would compute from the images without trained weights (`GoTModel.precompute`). With
            these a sample has no target, and its source is read by a reasoner only.
    """

    prompt: str
    chain: str
    size: tuple[int, int]
    target: Float[Tensor, "3 H W"] | None = None
    source: Float[Tensor, "3 h w"] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    precomputed: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def edited(self) -> Float[Tensor, "3 h w"] | None:
        """The image that is edited: that of the last step, or the source."""
        return self.steps[-1].image if self.steps else self.source


@dataclass(frozen=True)
class Batch:
    """Samples made ready for the components by a reasoner's processor.

    Attributes:
        prompts, chains, earlier, meta: One entry a sample.
        target: Images to be generated, or None if no sample has one.
        source: Images to be edited, resized to the output size; black where a sample has none. Never None.
        has_source: True where there is an image to be edited.
        inputs: Tensors for the reasoner only, made by its processor.
        precomputed: What all samples have precomputed, stacked. The source is black then.
    """

    prompts: tuple[str, ...]
    chains: tuple[str, ...]
    source: Float[Tensor, "b 3 H W"]
    has_source: Bool[Tensor, " b"]
    target: Float[Tensor, "b 3 H W"] | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    meta: tuple[Mapping[str, Any], ...] = ()
    earlier: tuple[tuple[str, ...], ...] = ()
    precomputed: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def collate(cls, samples: Sequence[Sample]) -> "Batch":
        """Stack samples of one size, their sources resized to it; the reasoner's processor adds `inputs`.

        Raises:
            ValueError: No samples, sizes that differ, or targets or precomputed tensors in only some of the samples.
        """
        if not samples:
            raise ValueError("a batch needs at least one sample")
        sizes = {sample.size for sample in samples}
        if len(sizes) > 1:
            raise ValueError(f"samples of different sizes cannot share a batch: {sorted(sizes)}")
        with_target = [sample.target for sample in samples if sample.target is not None]
        if len(with_target) not in (0, len(samples)):
            raise ValueError(f"{len(with_target)} of {len(samples)} samples have a target; it must be all or none")
        precomputed = [sample for sample in samples if sample.precomputed]
        if len(precomputed) not in (0, len(samples)):
            raise ValueError(f"{len(precomputed)} of {len(samples)} samples are precomputed; it must be all or none")
        black = torch.full((1, 1, 1), BLACK).expand(3, *samples[0].size)
        if precomputed or all(sample.edited is None for sample in samples):
            # A view of one number: nothing is made of pixels that are all black.
            source = repeat(black[:, :1, :1], "c 1 1 -> b c 1 1", b=len(samples)).expand(-1, -1, *samples[0].size)
        else:
            source = torch.stack([black if s.edited is None else resized(s.edited, s.size) for s in samples])
        common = set.intersection(*(set(sample.precomputed) for sample in samples))
        return cls(
            prompts=tuple(sample.prompt for sample in samples),
            chains=tuple(sample.chain for sample in samples),
            source=source,
            precomputed={name: torch.stack([s.precomputed[name] for s in samples]) for name in sorted(common)},
            has_source=torch.tensor([sample.edited is not None for sample in samples]),
            target=torch.stack(with_target) if with_target else None,
            earlier=tuple(sample.earlier for sample in samples),
            meta=tuple(sample.meta for sample in samples),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images to be generated."""
        return self.source.shape[-2], self.source.shape[-1]

    def to(self, device: torch.device | str) -> "Batch":
        """Move the batch to another device; a copy to the CPU is complete when this returns."""
        leaves_cpu = torch.device(device).type != "cpu"
        return self.map(lambda tensor: tensor.to(device, non_blocking=leaves_cpu))

    def pin_memory(self) -> "Batch":
        """Move the batch to page-locked memory (called by the data loader)."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with a function applied to each tensor."""
        return replace(
            self,
            source=function(self.source),
            has_source=function(self.has_source),
            target=None if self.target is None else function(self.target),
            inputs={name: function(tensor) for name, tensor in self.inputs.items()},
            precomputed={name: function(tensor) for name, tensor in self.precomputed.items()},
        )


@dataclass(frozen=True)
class Reasoning:
    """The output of a reasoner for a batch.

    Attributes:
        states: The semantic summary: last hidden states at the N image tokens, width d.
        chains: The reasoning chains before the image tokens, as text.
        loss: Mean cross-entropy over chain tokens; None when chains were generated or given.
        reproducible: Of chains that were written or read, whether reading the text again gives the same tokens, and so
            the same states; empty where the reasoner does not say.
    """

    states: Float[Tensor, "b n d"]
    chains: tuple[str, ...]
    loss: Float[Tensor, ""] | None = None
    reproducible: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Guidance:
    """The guidance of a denoising backbone; a field is None if the encoder does not make it.

    Attributes:
        tokens: Semantic guidance G_t as a sequence.
        pooled: Semantic guidance as one vector.
        spatial: Spatial guidance G_s: colour-coded box masks in latent space.
        reference: Reference guidance G_r: the source image in latent space.
    """

    tokens: Float[Tensor, "b l d"]
    pooled: Float[Tensor, "b p"] | None = None
    spatial: Float[Tensor, "b cs h w"] | None = None
    reference: Float[Tensor, "b cr h w"] | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Guidance":
        """Return the guidance with a function applied to each field that there is."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(Guidance)}
        return replace(self, **{name: function(value) for name, value in values.items() if value is not None})

    @staticmethod
    def cat(parts: Sequence["Guidance"]) -> "Guidance":
        """Concatenate guidances to one batch, in order; a field that is None in the first is None in the result."""
        joined: dict[str, Tensor | None] = {}
        for entry in fields(Guidance):
            values = [getattr(part, entry.name) for part in parts]
            joined[entry.name] = None if values[0] is None else torch.cat(values)
        return Guidance(**joined)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Generation:
    """The generated images of a batch.

    Attributes:
        images: In [-1, 1].
        chains: The chains of the images.
    """

    images: Float[Tensor, "b 3 H W"]
    chains: tuple[str, ...]
