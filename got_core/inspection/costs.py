"""Costs of one training step of a system, by component: parameters, FLOPs, and the memory of activations."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters of a component."""

    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Return the number of those that are not trained."""
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
        """Return the operations of a training step."""
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)


@dataclass(frozen=True)
class StepCost:
    """The cost of a training step on a batch.

    Attributes:
        flops: Of each of `PARTS`. What activation checkpointing computes again is part of the backward pass.
        activations: Bytes that the forward pass keeps for the backward pass.
        peaks: For each number of gradients (of single weights) computed so far, the peak of bytes, without gradients,
            weights and optimizer state.
    """

    flops: Mapping[str, Flops]
    activations: int
    peaks: Mapping[int, int]

    @property
    def total(self) -> int:
        """Return the floating-point operations of all parts."""
        return sum(part.total for part in self.flops.values())

    def peak(self, gradient_bytes: float) -> int:
        """Return the peak of bytes, with gradients of `gradient_bytes` each."""
        return max(int(live + made * gradient_bytes) for made, live in self.peaks.items())


def parameters(module: nn.Module) -> Parameters:
    """Count the parameters of a module, shared ones once."""
    weights = list(module.parameters())
    return Parameters(sum(p.numel() for p in weights), sum(p.numel() for p in weights if p.requires_grad))


def typical_samples(size: tuple[int, int], number: int, edit: bool) -> list[Sample]:
    """Return samples as long as those of the reference's datasets, with blank images of `size` (height, width).

    The published text-to-image chains have 810 to 910 characters and 3.8 to 4.1 boxes. No two of 100 samples share one.
    """
    prompt = "A photograph of a market square in the early morning, with a fountain, two benches and a dog."
    sentence = "the stone fountain in the middle of the square, with water that catches the first light, "
    box = "<|box_start|>({0},{0}),({1},{1})<|box_end|> (red) "
    blank = torch.zeros(3, *size)
    samples = []
    for sample in range(number):
        corners = range(100 + sample % 100, 500, 100)
        boxes = "".join(box.format(corner, corner + 200) for corner in corners)
        chain = (sentence * 10)[: 860 - len(boxes)] + boxes
        samples.append(Sample(prompt, chain, size, target=blank, source=blank if edit else None))
    return samples


def shape_batch(system: GoTSystem | GoTModel, samples: Sequence[Sample], dtype: torch.dtype) -> Batch:
    """Make a batch whose images are on the meta device and whose ids and masks are real."""
    return on_meta(system.processor(samples), dtype)


def on_meta(batch: Batch, dtype: torch.dtype) -> Batch:
    """Move a batch's images to the meta device; its ids and masks, which determine shapes, stay real."""

    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(META, dtype) if tensor.is_floating_point() else tensor

    inputs = {name: moved(value) for name, value in batch.inputs.items()}
    target = None if batch.target is None else moved(batch.target)
    precomputed = {name: moved(value) for name, value in batch.precomputed.items()}
    return replace(batch, source=moved(batch.source), target=target, inputs=inputs, precomputed=precomputed)


def step_cost(system: GoTSystem, batch: Batch) -> StepCost:
    """Trace one training step on a batch from `shape_batch`; the system is in shape alone and in training mode.

    Autograd goes backward through the parts in turn; a part's pass ends when the gradient of its input is complete.
    """
    made = 0
    marks: dict[str, int] = {}

    def release(parameter: Tensor) -> None:
        nonlocal made
        made += parameter.numel()
        run.stage = made
        parameter.grad = None

    with ShapeRun() as run, _encoding_flops(system.codec, run) as encoding, ExitStack() as hooks:
        for parameter in system.parameters():
            if parameter.requires_grad:
                hooks.callback(parameter.register_post_accumulate_grad_hook(release).remove)
        reasoning = system.reasoner(batch)
        forward = {"reasoner": run.flops}
        guidance = system.guidance(reasoning, batch, system.codec)
        forward["guidance"] = run.flops - forward["reasoner"] - encoding()
        denoising = system.denoising_loss(batch, guidance)
        forward["backbone"] = run.flops - forward["reasoner"] - forward["guidance"] - encoding()
        loss = denoising if reasoning.loss is None else denoising + reasoning.loss
        _mark(guidance.tokens, "backbone", marks, run)
        _mark(reasoning.states, "guidance", marks, run)
        del reasoning, guidance, denoising
        activations, start = run.live, run.flops
        loss.backward()
        marks["reasoner"] = run.flops
        spent = {CODEC: Flops(encoding())}
    for name in ("backbone", "guidance", "reasoner"):
        end = marks.get(name, start)
        spent[name] = Flops(forward[name], end - start)
        start = end
    return StepCost({name: spent[name] for name in PARTS}, activations, dict(run.peaks))


def _mark(tensor: Tensor, name: str, marks: dict[str, int], run: ShapeRun) -> None:
    """Record the FLOPs so far when the gradient of a tensor is complete."""
    if tensor.requires_grad:
        tensor.register_hook(lambda gradient: marks.__setitem__(name, run.flops))


@contextmanager
def _encoding_flops(codec: LatentCodec, run: ShapeRun) -> Iterator[Callable[[], int]]:
    """Inside, count the FLOPs of a codec's encodings; yields a function that returns them."""
    encode, spent = codec.encode, 0

    def counted(images: Float[Tensor, "b 3 H W"], scaled: bool = True) -> Float[Tensor, "b c h w"]:
        nonlocal spent
        start = run.flops
        latents = encode(images, scaled=scaled)
        spent += run.flops - start
        return latents

    vars(codec)["encode"] = counted
    try:
        yield lambda: spent
    finally:
        del vars(codec)["encode"]
