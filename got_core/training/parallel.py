"""What `Component.blocks()` is for: sharding (FSDP2), activation checkpointing and compilation, block by block."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from got_core.interfaces import Component, GuidanceEncoder, Reasoner

MIXED = "bf16-mixed"
"""The precision under which matrices that are sharded are gathered in bfloat16."""

VECTORS_APART = "param_dtype_override_fn" in MixedPrecisionPolicy.__dataclass_fields__
"""Whether this torch (2.15 or newer) can gather vectors in another precision than matrices."""


def configure(
    components: Sequence[Component],
    activation_checkpointing: bool,
    compile_blocks: bool,
    mesh: DeviceMesh | None,
    trainer: Trainer | None,
) -> None:
    """Have the components' blocks compiled and checkpointed as asked and, where there is a mesh, sharded.

    Args:
        components: What is trained.
        activation_checkpointing, compile_blocks: See `GoTSystem`.
        mesh: That of the trainer's `ModelParallelStrategy`, or None.
        trainer: The trainer; there is one where there is a mesh.

    Raises:
        ValueError: A callback of the trainer cannot average sharded weights.
    """
    for component in components:
        prepare_blocks(component, activation_checkpointing, compile_blocks)
    if mesh is None or trainer is None:
        return
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError(
            "Lightning's weight averaging cannot copy weights that ModelParallelStrategy shards: "
            "use got_core.training.ema.AveragedWeights"
        )
    shard(components, all_ranks(mesh), trainer.precision)


def prepare_blocks(component: Component, activation_checkpointing: bool, compile_blocks: bool) -> None:
    """Have a component's blocks compiled, or recomputed in the backward pass instead of keeping their activations.

    Only the blocks' `forward` is replaced: parameters keep their names, and hooks, those of sharding included, run
    outside of what is compiled or recomputed.
    """
    if not (compile_blocks or activation_checkpointing):
        return
    for block in component.blocks():
        forward = torch.compile(block.forward) if compile_blocks else block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False) if activation_checkpointing else forward


def all_ranks(mesh: DeviceMesh) -> DeviceMesh:
    """A mesh of one dimension over every rank, of the device type of a strategy's own mesh.

    No component is tensor parallel and every rank loads its own samples, so both dimensions of the strategy's mesh
    count as data parallel, however many ranks it gave to each.
    """
    return init_device_mesh(mesh.device_type, (distributed.get_world_size(),), mesh_dim_names=("ranks",))


def shard(components: Iterable[Component], mesh: DeviceMesh, precision: str) -> None:
    """Shard each component's blocks, and what is outside of them, over a mesh (FSDP2).

    Blocks are gathered as they are needed, forward and backward; the rest of a component from its forward to the end
    of its backward. Under "bf16-mixed" matrices travel in bfloat16, vectors (norms, biases) as they are and gradients
    in float32; autocast takes care of the rest, so times, positions and norms keep their precision.

    Args:
        components: What is trained.
        mesh: Of one dimension, over all ranks.
        precision: The trainer's.
    """
    policy = MixedPrecisionPolicy()
    # Before torch 2.15 vectors would travel in bfloat16 too. On a CPU autocast leaves norms to the precision they are
    # given, so there everything then travels in float32; elsewhere it computes them in float32 all the same.
    if precision == MIXED and (VECTORS_APART or mesh.device_type != "cpu"):
        vectors: dict[str, Any] = {"param_dtype_override_fn": _precision_of_vectors} if VECTORS_APART else {}
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False, **vectors)
    for component in components:
        for block in component.blocks():
            fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        fully_shard(component, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
        for method in _forward_methods(component):
            register_fsdp_forward_method(component, method)


def _precision_of_vectors(parameter: nn.Parameter) -> torch.dtype | None:
    return parameter.dtype if parameter.ndim < 2 else None


def _forward_methods(component: Component) -> tuple[str, ...]:
    """The methods of the interfaces, besides `forward`, that read weights."""
    if isinstance(component, Reasoner):
        return "generate", "summarize"
    return ("drop",) if isinstance(component, GuidanceEncoder) else ()


def sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """The modules in it that are sharded on their own, outer ones first."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextmanager
def gathered(components: Sequence[Component]) -> Iterator[None]:
    """Hold all of the components' weights on every rank, for work whose length differs from rank to rank.

    A chain is as long as the model makes it: gathering block by block, a rank would wait for others that have ended.
    Without sharding nothing is done.
    """
    held = [(component, part) for component in components for part in sharded_modules(component)]
    for _, part in held:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for component, part in held:
            part.reshard()
            part.set_reshard_after_forward(cast(nn.Module, part) is not component, recurse=False)


def reshard(module: nn.Module) -> None:
    """Let go of gathered weights, so that `module.parameters()` are the shards that optimizers change."""
    for part in sharded_modules(module):
        part.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, sharing its memory; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a sharded tensor, which every rank must ask for; other tensors as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
