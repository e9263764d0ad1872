"""One training step as one of many ranks, on torch's process group that sends nothing: it is counted what would be."""

import pytest
import torch
from small_system import scenes_batch, small_system
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from got_core.inspection.costs import StepCost
from got_core.inspection.fit import Precision, communicated, device_memory
from got_core.training.parallel import VECTORS_APART, shard

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


MIXED = pytest.param(
    "bf16-mixed",
    marks=pytest.mark.skipif(not VECTORS_APART, reason="before torch 2.15 all travels in float32 between CPUs"),
)


@pytest.mark.parametrize("precision", ["32-true", MIXED])
def test_a_sharded_step_sends_and_holds_what_is_predicted(world, precision):
    # Each group of lengths would gather the decoder's layers again.
    system = small_system(reasoner_values={"length_groups": 1})
    batch = scenes_batch(system)
    numbers = {name: p.numel() for name, p in system.named_parameters()}
    kept = Precision.named(precision)
    predicted = communicated(system, kept, world, sharded=True)
    memory = device_memory(system, StepCost({}, 0, {0: 0}), kept, world, sharded=True)
    parts = [sum(p.numel() for p in part.parameters()) for part in system.model.components]
    codec = FLOAT_BYTES * sum(p.numel() for p in system.codec.parameters())
    shard(system.model.components, init_device_mesh("cpu", (world,), mesh_dim_names=("ranks",)), precision)
    sharded = {name: p for name, p in system.named_parameters() if isinstance(p, DTensor)}
    assert set(sharded) == {name for name, _ in system.named_parameters() if not name.startswith("codec.")}
    assert all(p.numel() == numbers[name] for name, p in sharded.items())
    assert all(p.to_local().shape[0] == -(-p.shape[0] // world) for p in sharded.values())

    with Traffic(world) as traffic, torch.autocast("cpu", torch.bfloat16, enabled=kept.mixed):
        reasoning = system.reasoner(batch)
        loss = system.denoising_loss(batch, system.guidance(reasoning, batch, system.codec)) + reasoning.loss
        loss.backward()
    assert traffic.kinds == {"_allgather_base_", "_reduce_scatter_base_"}
    # Under bf16-mixed norms and biases travel as they are, which the prediction does not know of.
    assert predicted <= 1.001 * traffic.sent
    assert traffic.sent == pytest.approx(predicted, rel=0.05 if kept.mixed else 0.001)
    held = FLOAT_BYTES * sum(p.to_local().numel() for p in sharded.values()) + codec
    assert held < memory.weights < held + FLOAT_BYTES * sum(parts)
    gradients = FLOAT_BYTES * sum(p.grad.to_local().numel() for p in sharded.values() if p.grad is not None)
    assert gradients < memory.gradients < gradients + 2 * FLOAT_BYTES * max(parts)

    before = {name: p.to_local().clone() for name, p in sharded.items()}
    optimizer = system.optimizer(p for p in sharded.values() if p.requires_grad)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, DTensor)]
    assert FLOAT_BYTES * sum(value.to_local().numel() for value in moments) == memory.optimizer
    assert not all(torch.equal(p.to_local(), before[name]) for name, p in sharded.items())
