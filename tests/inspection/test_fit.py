"""What becomes of memory and traffic on several devices."""

from functools import partial

import pytest
import torch
from small_system import small_system

from got_core.inspection.costs import StepCost
from got_core.inspection.fit import PREFETCHED, Precision, communicated, device_memory, state_share
from got_core.model import COMPONENTS

COST = StepCost(flops={}, activations=1000, peaks={0: 5000, 10: 4000})
EXACT = Precision.named("32-true")
MIXED = Precision.named("bf16-mixed")


@pytest.mark.parametrize(
    ("optimizer", "share"),
    [(torch.optim.AdamW, 2.0), (torch.optim.SGD, 0.0), (partial(torch.optim.SGD, momentum=0.9), 1.0)],
)
def test_what_an_optimizer_keeps_is_tried(optimizer, share):
    assert state_share(partial(optimizer, lr=0.1)) == share


def test_the_peak_is_the_highest_sum_of_gradients_and_the_rest():
    assert COST.peak(4) == 5000
    assert COST.peak(1000) == 4000 + 10 * 1000


def test_one_device_holds_weights_gradients_and_two_moments_for_adam():
    system = small_system()
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    memory = device_memory(system, COST, EXACT)
    assert memory.weights == 4 * sum(p.numel() for p in system.parameters())
    assert memory.gradients == 4 * trained
    assert memory.optimizer == 2 * memory.gradients
    assert memory.peak == memory.weights + memory.optimizer + max(COST.peak(4), memory.gradients)


def test_mixed_precision_keeps_weights_and_a_copy_to_compute_with():
    system = small_system()
    assert device_memory(system, COST, MIXED).weights == 6 * sum(p.numel() for p in system.parameters())
    true = device_memory(system, COST, Precision.named("bf16-true"))
    assert true.weights == 2 * sum(p.numel() for p in system.parameters())


def test_sharding_divides_gradients_and_optimizer_state_but_not_activations():
    system = small_system()
    alone, whole = device_memory(system, COST, EXACT), device_memory(system, COST, EXACT, devices=4)
    divided = device_memory(system, COST, EXACT, devices=4, sharded=True)
    assert whole.gradients == 2 * alone.gradients  # and DDP's buckets
    assert alone.gradients / 4 <= divided.optimizer / 2 <= 1.1 * alone.gradients / 4  # rows that 4 does not divide
    outside, blocks = numbers_outside(system), numbers_of_blocks(system)
    assert divided.gradients == divided.optimizer // 2 + 2 * 4 * max([*outside, *blocks])
    assert divided.activations == whole.activations == COST.activations
    codec = 4 * sum(p.numel() for p in system.codec.parameters())
    shards = (alone.weights - codec) / 4 + codec
    gathered = 4 * (sum(outside) + PREFETCHED * max(blocks))
    assert shards + gathered <= divided.weights <= 1.1 * shards + gathered


def numbers_of_blocks(system):
    blocks = [block for name in COMPONENTS for block in getattr(system, name).blocks()]
    return [sum(p.numel() for p in block.parameters()) for block in blocks]


def numbers_outside(system):
    parts = [getattr(system, name) for name in COMPONENTS]
    return [
        sum(p.numel() for p in part.parameters())
        - sum(p.numel() for block in part.blocks() for p in block.parameters())
        for part in parts
    ]


def test_traffic_follows_the_ring():
    system = small_system()
    trained = sum(p.numel() for name in COMPONENTS for p in getattr(system, name).parameters() if p.requires_grad)
    assert communicated(system, EXACT, 1, sharded=False) == 0
    assert communicated(system, EXACT, 4, sharded=False) == pytest.approx(2 * 3 / 4 * 4 * trained)
    gathered = sum(numbers_outside(system)) + 2 * sum(numbers_of_blocks(system))
    exact = 2 * 3 / 4 * (2 * gathered + 4 * trained)
    assert (
        exact <= communicated(system, MIXED, 4, sharded=True, batches=2) <= 1.1 * exact
    )  # with rows that are filled up


def test_short_names_of_precisions_are_those_of_mixed_ones():
    assert Precision.named("bf16") == MIXED
    assert Precision.named(16) == Precision.named("16-mixed")
    assert Precision.named("16-mixed").gathered(torch.zeros(1)) == torch.float32
