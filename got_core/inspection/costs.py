"""What one training step of a system costs, by component: parameters, FLOPs, and the memory of its activations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from got_core.inspection.shapes import META, ShapeRun
from got_core.interfaces import LatentCodec
from got_core.model import CODEC, PARTS, GoTModel
from got_core.training.system import GoTSystem
from got_core.types import Batch, Sample

TYPICAL_PROMPT = "A photograph of a market square in the early morning, with a fountain, two benches and a dog."
TYPICAL_SENTENCE = "the stone fountain in the middle of the square, with water that catches the first light, "
TYPICAL_BOXES = 4
TYPICAL_CHARACTERS = 860
"""Of the published text-to-image chains: 810 to 910 characters and 3.8 to 4.1 boxes."""


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a component."""

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Those that are not trained."""
        return self.total - self.trainable

    def __add__(self, other: "Parameters") -> "Parameters":
        return Parameters(self.total + other.total, self.trainable + other.trainable)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of matrix products and convolutions."""

    forward: int = 0
    backward: int = 0

    @property
    def total(self) -> int:
        """Of a training step."""
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class StepCost:
    """What a training step on a batch takes.

    Attributes:
        flops: Of each of `PARTS`. What activation checkpointing computes again is part of the backward pass.
        activations: Bytes that the forward pass keeps for the backward pass.
        peaks: For each number of gradients (of single weights) made so far, the most bytes that were there at a time,
            gradients, weights and optimizer state not counted.
    """

    flops: Mapping[str, Flops]
    activations: int
    peaks: Mapping[int, int]

    @property
    def total(self) -> int:
        """Floating-point operations of all parts."""
        return sum(part.total for part in self.flops.values())

    def peak(self, gradient_bytes: float) -> int:
        """The most bytes at a time, with gradients of so many bytes each."""
        return max(int(live + made * gradient_bytes) for made, live in self.peaks.items())


def parameters(module: nn.Module) -> Parameters:
    """Parameters of a module, shared ones once."""
    found = list(module.parameters())
    return Parameters(sum(p.numel() for p in found), sum(p.numel() for p in found if p.requires_grad))


def typical_samples(size: tuple[int, int], number: int, edit: bool) -> list[Sample]:
    """Samples as long as those of the reference's datasets, with blank images of `size` (height, width)."""
    box = "<|box_start|>({0},{0}),({1},{1})<|box_end|> (red) "
    boxes = "".join(box.format(100 * i + 100, 100 * i + 300) for i in range(TYPICAL_BOXES))
    text = TYPICAL_SENTENCE * (TYPICAL_CHARACTERS // len(TYPICAL_SENTENCE) + 1)
    blank = torch.zeros(3, *size)
    chain = text[: TYPICAL_CHARACTERS - len(boxes)] + boxes
    sample = Sample(TYPICAL_PROMPT, chain, size, target=blank, source=blank if edit else None)
    return [sample] * number


def shape_batch(system: GoTSystem | GoTModel, samples: Sequence[Sample], dtype: torch.dtype) -> Batch:
    """A batch whose images are on the meta device and whose ids and masks are real."""
    return on_meta(system.processor(samples), dtype)


def on_meta(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch with its images on the meta device; its ids and masks, which decide about shapes, stay real."""
    inputs = {name: _image_like(value, dtype) for name, value in batch.inputs.items()}
    target = None if batch.target is None else _image_like(batch.target, dtype)
    return replace(batch, source=_image_like(batch.source, dtype), target=target, inputs=inputs)


def _image_like(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(META, dtype) if tensor.is_floating_point() else tensor


def step_cost(system: GoTSystem, batch: Batch) -> StepCost:
    """Trace one training step on a batch from `shape_batch`; the system is in shape alone and in training mode.

    Autograd goes backward through the parts in turn; a part's pass is over when the gradient of what it was given is
    there.
    """
    made = 0
    marks: dict[str, int] = {}

    def let_go(parameter: Tensor) -> None:
        nonlocal made
        made += parameter.numel()
        run.stage = made
        parameter.grad = None

    with ShapeRun() as run, _metered(system, run) as codec, ExitStack() as hooks:
        for parameter in system.parameters():
            if parameter.requires_grad:
                hooks.callback(parameter.register_post_accumulate_grad_hook(let_go).remove)
        reasoning = system.reasoner(batch)
        forward = {"reasoner": run.flops}
        guidance = system.guidance(reasoning, batch, codec)
        forward["guidance"] = run.flops - forward["reasoner"] - codec.flops
        denoising = system.denoising_loss(batch, guidance)
        forward["backbone"] = run.flops - forward["reasoner"] - forward["guidance"] - codec.flops
        loss = denoising if reasoning.loss is None else denoising + reasoning.loss
        _mark(guidance.tokens, "backbone", marks, run)
        _mark(reasoning.states, "guidance", marks, run)
        del reasoning, guidance, denoising
        activations, start = run.live, run.flops
        loss.backward()
        marks["reasoner"] = run.flops
        encoding = codec.flops
    spent = {CODEC: Flops(encoding)}
    for name in ("backbone", "guidance", "reasoner"):
        end = marks.get(name, start)
        spent[name] = Flops(forward[name], end - start)
        start = end
    return StepCost({name: spent[name] for name in PARTS}, activations, dict(run.peaks))


def _mark(tensor: Tensor, name: str, marks: dict[str, int], run: ShapeRun) -> None:
    """Note the FLOPs so far when the gradient of a tensor is complete."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: marks.__setitem__(name, run.flops))


class _MeteredCodec(LatentCodec):
    """A codec that notes the FLOPs of its encodings."""

    def __init__(self, codec: LatentCodec, run: ShapeRun) -> None:
        super().__init__()
        self.codec, self.run, self.flops = codec, run, 0
        self.latent_channels, self.downsample = codec.latent_channels, codec.downsample

    def encode(self, images: Float[Tensor, "b 3 H W"], scaled: bool = True) -> Float[Tensor, "b c h w"]:
        start = self.run.flops
        latents = self.codec.encode(images, scaled=scaled)
        self.flops += self.run.flops - start
        return latents

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        return self.codec.decode(latents)


@contextmanager
def _metered(system: GoTSystem, run: ShapeRun) -> Iterator[_MeteredCodec]:
    """Within, the system's codec notes its FLOPs."""
    own = system.codec
    metered = _MeteredCodec(own, run)
    system.codec = metered
    try:
        yield metered
    finally:
        system.codec = own
