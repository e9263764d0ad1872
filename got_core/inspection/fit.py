"""Whether a training step fits a device, and how long it takes, alone, under DDP and under FSDP2."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn
from torch.optim import Optimizer

from got_core.inspection.costs import CODEC, StepCost
from got_core.system import COMPONENTS, GoTSystem

PREFETCHED = 2
"""Blocks whose weights are whole at a time under FSDP2: the one that runs and the next."""

PROBE = (64, 64)
"""Shape of the weight that an optimizer is tried on, to learn how much it keeps for each number."""


@dataclass(frozen=True)
class Precision:
    """How numbers are kept and computed with.

    Attributes:
        computed: Precision of activations.
        mixed: Whether weights keep their own precision and are cast where they are used.
    """

    computed: torch.dtype
    mixed: bool

    @classmethod
    def named(cls, name: str) -> "Precision":
        """From the trainer's `precision`, such as "bf16-mixed", "bf16-true" or "32-true"."""
        number, _, kind = str(name).partition("-")
        computed = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}.get(number, torch.float32)
        return cls(computed, kind == "mixed")

    def kept(self, weight: torch.Tensor) -> torch.dtype:
        """The precision that a weight of the built model is kept in."""
        return weight.dtype if self.mixed or self.computed == torch.float32 else self.computed


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on one device.

    Attributes:
        weights: Of all components, and copies of them that are made to compute with.
        gradients: Of all trained weights, and buckets to reduce them in.
        optimizer: Its state.
        activations: Kept from the forward pass for the backward pass.
        peak: The most that is there at a time; less than the sum, as gradients come while activations go.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    peak: int


def state_share(optimizer: Callable[[Iterable], Optimizer]) -> float:
    """Numbers that an optimizer keeps for each number it trains; tried on a small weight."""
    weight = nn.Parameter(torch.zeros(PROBE))
    tried = optimizer([weight])
    weight.grad = torch.ones_like(weight)
    tried.step()
    state = [value for value in tried.state[weight].values() if isinstance(value, torch.Tensor)]
    return sum(value.numel() for value in state if value.ndim) / weight.numel()


def device_memory(
    system: GoTSystem, step: StepCost, precision: Precision, devices: int = 1, sharded: bool = False
) -> DeviceMemory:
    """Memory of one of several devices.

    Args:
        system: In shape alone, its weights in the precision they are built with.
        step: Of a device's batch.
        precision: Of the trainer.
        devices: How many there are.
        sharded: FSDP2 in place of DDP: weights, gradients and optimizer state are divided, and put together block by
            block. The frozen codec is whole on each device.
    """
    parts = [getattr(system, name) for name in COMPONENTS]
    shards = devices if sharded else 1
    trained = [p for p in system.parameters() if p.requires_grad]
    weights = sum(_bytes(p, precision) for part in parts for p in part.parameters()) // shards
    weights += sum(_bytes(p, precision) for p in getattr(system, CODEC).parameters())
    computed = torch.empty(0, dtype=precision.computed).element_size()
    if sharded and devices > 1:
        weights += _whole(system) * computed
    elif precision.mixed:
        weights += sum(p.numel() for p in system.parameters() if p.dtype != precision.computed) * computed
    gradients = sum(_bytes(p, precision) for p in trained) // shards
    share = gradients / max(1, sum(p.numel() for p in trained))
    buckets = gradients if devices > 1 and not sharded else 0
    optimizer = int(state_share(system.optimizer) * gradients)
    return DeviceMemory(
        weights=weights,
        gradients=gradients + buckets,
        optimizer=optimizer,
        activations=step.activations,
        peak=weights + optimizer + buckets + max(step.peak(share), gradients),
    )


def _bytes(weight: nn.Parameter, precision: Precision) -> int:
    return weight.numel() * torch.empty(0, dtype=precision.kept(weight)).element_size()


def _whole(system: GoTSystem) -> int:
    """Numbers that are whole on a device while blocks come and go: what is in no block, and the largest blocks."""
    outside, sizes = 0, [0]
    for name in COMPONENTS:
        part = getattr(system, name)
        blocks = list(part.blocks())
        inside = {id(p) for p in chain.from_iterable(block.parameters() for block in blocks)}
        outside += sum(p.numel() for p in part.parameters() if id(p) not in inside)
        sizes += [sum(p.numel() for p in block.parameters()) for block in blocks]
    return outside + PREFETCHED * max(sizes)


def communicated(system: GoTSystem, precision: Precision, devices: int, sharded: bool, batches: int = 1) -> float:
    """Bytes that one device sends in an optimizer step.

    DDP reduces gradients once a step (a ring sends each byte nearly twice); FSDP2 gathers all weights before the
    forward and the backward pass of each batch and scatters gradients after it.
    """
    if devices == 1:
        return 0.0
    weights = [p for name in COMPONENTS for p in getattr(system, name).parameters()]
    computed = torch.empty(0, dtype=precision.computed).element_size()
    trained = sum(p.numel() for p in weights if p.requires_grad)
    share = (devices - 1) / devices
    if not sharded:
        return 2 * share * sum(_bytes(p, precision) for p in weights if p.requires_grad)
    return share * computed * batches * (2 * sum(p.numel() for p in weights) + trained)
