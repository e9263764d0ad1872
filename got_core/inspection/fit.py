"""Memory and communication of a training step on one device, under DDP and under FSDP2."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.optim import Optimizer

from got_core.config import ModelSettings
from got_core.inspection.costs import StepCost, shape_batch, step_cost, typical_samples
from got_core.inspection.shapes import in_shape
from got_core.model import CODEC, COMPONENTS, PARTS
from got_core.training.system import GoTSystem
from got_core.weights.loading import without_weights


def check_size(settings: ModelSettings, size: tuple[int, int]) -> None:
    """Check that a model can divide images of `size` into its steps and patches.

    Args:
        settings: Of the model.
        size: (height, width) in pixels.

    Raises:
        ValueError: It cannot.
    """
    with without_weights():
        model = settings.build()
    parts = {name: getattr(model, name) for name in (*PARTS, "objective")}
    system = GoTSystem(**parts, optimizer=torch.optim.AdamW, learning_rates=dict.fromkeys(COMPONENTS, 0.0)).train()
    with in_shape(system, torch.float32):
        step_cost(system, shape_batch(system, typical_samples(size, 1, edit=False), torch.float32))


Group = list[nn.Parameter]
"""Weights that FSDP2 gathers and releases together."""

PREFETCHED = 2
"""Blocks whose weights are whole at a time under FSDP2: the one that runs and the next."""


@dataclass(frozen=True)
class Precision:
    """In which precision numbers are stored and computed.

    Attributes:
        computed: Precision of activations.
        mixed: Whether weights keep their own precision and are cast where they are used.
    """

    computed: torch.dtype
    mixed: bool

    @classmethod
    def named(cls, name: str | int) -> "Precision":
        """Return the precision of the trainer's `precision`, such as "bf16-mixed" (alias "bf16") or "32-true"."""
        name = str(name)
        number, _, kind = name.partition("-")
        computed = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}.get(number, torch.float32)
        return cls(computed, kind == "mixed" or name in ("16", "bf16"))

    def stored(self, weight: torch.Tensor) -> torch.dtype:
        """Return the precision in which a weight of the built model is stored."""
        return weight.dtype if self.mixed or self.computed == torch.float32 else self.computed

    def gathered(self, weight: torch.Tensor) -> torch.dtype:
        """Return the precision in which ranks send a sharded weight; see `got_core.training.parallel.shard`."""
        return self.computed if self.mixed and self.computed == torch.bfloat16 else self.stored(weight)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        weights: Of all components, and copies of them in the precision of computing.
        gradients: Of all trained weights, and the buffers that reduce them: DDP's buckets, or under FSDP2 the gradients
            of the largest block before they are divided, and their copy to send.
        optimizer: Its state.
        activations: Kept from the forward pass for the backward pass.
        peak: The most at a time; less than the sum, as gradients are added while activations are freed.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def state_share(optimizer: Callable[[Iterable], Optimizer]) -> float:
    """Return how many numbers an optimizer stores for each trained number, by a step on a small weight."""
    weight = nn.Parameter(torch.zeros(64, 64))
    built = optimizer([weight])
    weight.grad = torch.ones_like(weight)
    built.step()
    state = [value for value in built.state[weight].values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() for value in state if value.ndim) / weight.numel()


def device_memory(
    system: GoTSystem, step: StepCost, precision: Precision, devices: int = 1, sharded: bool = False
) -> DeviceMemory:
    """Compute the memory of one of several devices.

    Args:
        system: In shape alone, its weights in the precision they are built with.
        step: Of a device's batch.
        precision: Of the trainer.
        devices: Their number.
        sharded: FSDP2 in place of DDP: weights, gradients and optimizer state are divided, and gathered block by block.
            The frozen codec is whole on each device.
    """
    shards = devices if sharded else 1
    trained = [p for p in system.parameters() if p.requires_grad]
    parts = [getattr(system, name) for name in COMPONENTS]
    weights = sum(_stored(p, precision, shards) for part in parts for p in part.parameters())
    weights += sum(_stored(p, precision) for p in getattr(system, CODEC).parameters())
    gradients = sum(_stored(p, precision, shards) for p in trained)
    optimizer = int(state_share(system.optimizer) * gradients)
    reducing = gradients if devices > 1 else 0
    if shards > 1:
        outside, blocks = _groups(system)
        weights += sum(_gathered(group, precision) for group in outside)
        weights += PREFETCHED * max((_gathered(block, precision) for block in blocks), default=0)
        reducing = max(_undivided_gradients(group, precision) for group in [*outside, *blocks])
    elif precision.mixed:
        weights += sum(
            p.numel() * precision.computed.itemsize for p in system.parameters() if p.dtype != precision.computed
        )
    share = gradients / max(1, sum(p.numel() for p in trained))
    return DeviceMemory(
        weights=weights,
        gradients=gradients + reducing,
        optimizer=optimizer,
        activations=step.activations,
        peak=weights + optimizer + reducing + max(step.peak(share), gradients),
    )


def communicated(system: GoTSystem, precision: Precision, devices: int, sharded: bool, batches: int = 1) -> float:
    """Compute the bytes that one device sends in an optimizer step.

    DDP reduces gradients once a step (a ring sends each byte nearly twice). FSDP2 works for each batch: it gathers all
    weights before the forward pass and those of blocks again before the backward pass, and scatters gradients after
    it, in the precision they are stored in; a weight whose rows the devices do not divide is padded. A block that runs
    more than once in a batch (a reasoner's `length_groups`) is gathered each time, which is not counted.
    """
    if devices == 1:
        return 0.0
    share = (devices - 1) / devices
    if not sharded:
        parts = [getattr(system, name) for name in COMPONENTS]
        return 2 * share * sum(_stored(p, precision) for part in parts for p in part.parameters() if p.requires_grad)
    outside, blocks = _groups(system)
    gathered = sum(_gathered(group, precision, devices) for group in [*outside, *blocks, *blocks])
    scattered = sum(
        devices * _stored(p, precision, devices) for p in chain.from_iterable([*outside, *blocks]) if p.requires_grad
    )
    return share * batches * (gathered + scattered)


def _groups(system: GoTSystem) -> tuple[list[Group], list[Group]]:
    """Return what FSDP2 gathers together: of each component what is in no block, and the blocks."""
    outside: list[Group] = []
    blocks: list[Group] = []
    for name in COMPONENTS:
        part = getattr(system, name)
        own = [list(block.parameters()) for block in part.blocks()]
        inside = {id(p) for p in chain.from_iterable(own)}
        outside.append([p for p in part.parameters() if id(p) not in inside])
        blocks += own
    return outside, blocks


def _stored(weight: nn.Parameter, precision: Precision, shards: int = 1) -> int:
    """Return the bytes of the largest shard of a weight, cut between rows, in the precision it is stored in."""
    return _shard(weight, shards) * precision.stored(weight).itemsize


def _gathered(group: Group, precision: Precision, shards: int = 1) -> int:
    """Return the bytes of weights that are gathered from their shards."""
    return sum(shards * _shard(p, shards) * precision.gathered(p).itemsize for p in group)


def _undivided_gradients(group: Group, precision: Precision) -> int:
    """Return the bytes of a group's whole gradients, as they are computed and as they are sent."""
    trained = [p for p in group if p.requires_grad]
    return _gathered(trained, precision) + sum(_stored(p, precision) for p in trained)


def _shard(weight: nn.Parameter, shards: int) -> int:
    return weight.numel() if shards == 1 else -(-weight.shape[0] // shards) * weight.shape[1:].numel()
