"""One training step as one of many ranks, on torch's process group that sends nothing: it is counted what would be."""

import pytest
from small_system import scenes_batch, small_system
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from got_core.inspection.costs import StepCost
from got_core.inspection.fit import Precision, communicated, device_memory
from got_core.sharding import shard

EXACT = Precision.named("32-true")
FLOAT_BYTES = 4
WORLDS = [8, 64, 512]


class Traffic(TorchDispatchMode):
    """Counts the bytes that this rank's collectives send."""

    def __init__(self, ranks):
        super().__init__()
        self.share, self.sent, self.kinds = (ranks - 1) / ranks, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in ("_allgather_base_", "_reduce_scatter_base_"):
            output, source = args[0], args[1]
            whole = output if name == "_allgather_base_" else source
            self.sent += self.share * whole.numel() * whole.element_size()
            self.kinds.add(name)
        return result


@pytest.fixture(params=WORLDS)
def world(request):
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    distributed.destroy_process_group()


def test_a_sharded_step_sends_and_holds_what_is_predicted(world):
    # Each group of lengths would gather the decoder's layers anew.
    system = small_system(reasoner_values={"length_groups": 1})
    batch = scenes_batch(system)
    numbers = {name: p.numel() for name, p in system.named_parameters()}
    predicted = communicated(system, EXACT, world, sharded=True)
    memory = device_memory(system, StepCost({}, 0, {0: 0}), EXACT, world, sharded=True)
    shard(system.components, init_device_mesh("cpu", (world,), mesh_dim_names=("ranks",)), "32-true")
    sharded = {name: p for name, p in system.named_parameters() if isinstance(p, DTensor)}
    assert set(sharded) == {name for name, _ in system.named_parameters() if not name.startswith("codec.")}
    assert all(p.numel() == numbers[name] for name, p in sharded.items())
    assert all(p.to_local().shape[0] == -(-p.shape[0] // world) for p in sharded.values())

    with Traffic(world) as traffic:
        reasoning = system.reasoner(batch)
        loss = system.denoising_loss(batch, system.guidance(reasoning, batch, system.codec)) + reasoning.loss
        loss.backward()
    assert traffic.kinds == {"_allgather_base_", "_reduce_scatter_base_"}
    # Rows that the ranks do not divide are padded, so more is sent than the numbers alone; and what is in no block is
    # not gathered again going backward.
    padded = {name: -(-p.shape[0] // world) * world * (p.numel() // p.shape[0]) for name, p in sharded.items()}
    padding = sum(padded.values()) / sum(p.numel() for p in sharded.values())
    inside = {id(p) for part in system.components for block in part.blocks() for p in block.parameters()}
    gathered_once = sum(padded[name] for name, p in sharded.items() if id(p) not in inside)
    sent = FLOAT_BYTES * (world - 1) / world * (3 * sum(padded.values()) - gathered_once)
    assert traffic.sent == pytest.approx(sent, rel=0.01)
    assert traffic.sent <= padding * predicted * (1 + gathered_once / sum(padded.values()))
    gradients = FLOAT_BYTES * sum(p.grad.to_local().numel() for p in sharded.values() if p.grad is not None)
    held = FLOAT_BYTES * sum(p.to_local().numel() for p in sharded.values())
    assert held <= memory.weights
    assert memory.gradients <= gradients <= padding * memory.gradients * 1.01
