"""Sharding (FSDP2), activation checkpointing and compilation of components, block by block."""

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

VECTORS_APART = "param_dtype_override_fn" in MixedPrecisionPolicy.__dataclass_fields__
"""Whether this torch (2.15 or newer) can gather vectors in another precision than matrices."""


def configure(
    components: Sequence[Component],
    activation_checkpointing: bool,
    compile_blocks: bool,
    mesh: DeviceMesh | None,
    trainer: Trainer | None,
) -> None:
    """Compile and checkpoint the components' blocks as configured and, if there is a mesh, shard the components.

    Args:
        components: What is trained.
        activation_checkpointing, compile_blocks: See `GoTSystem`.
        mesh: That of the trainer's `ModelParallelStrategy`, or None.
        trainer: The trainer; needed if there is a mesh.

    Raises:
        ValueError: A callback of the trainer cannot average sharded weights.
    """
    # Only the blocks' forward is replaced: parameters keep their names, and hooks, also those of sharding, run outside
    # of what is compiled or recomputed.
    for block in (block for component in components for block in component.blocks()):
        if compile_blocks:
            block.forward = torch.compile(block.forward)
        if activation_checkpointing:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if mesh is None or trainer is None:
        return
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError(
            "Lightning's weight averaging cannot copy weights that ModelParallelStrategy shards: "
            "use got_core.training.ema.AveragedWeights"
        )
    # No component is tensor parallel and every rank loads its own samples, so all ranks are one dimension, whatever the
    # two dimensions of the strategy's mesh.
    ranks = init_device_mesh(mesh.device_type, (distributed.get_world_size(),), mesh_dim_names=("ranks",))
    shard(components, ranks, trainer.precision)


def shard(components: Iterable[Component], mesh: DeviceMesh, precision: str) -> None:
    """Shard each component's blocks, and its other weights, over a mesh (FSDP2).

    Blocks are gathered as they are needed, forward and backward; the rest of a component from its forward to the end
    of its backward. Under "bf16-mixed" matrices are sent in bfloat16, vectors (norms, biases) as they are and gradients
    in float32; autocast does the rest, so times, positions and norms keep their precision.

    Args:
        components: What is trained.
        mesh: Of one dimension, over all ranks.
        precision: The trainer's.
    """
    policy = MixedPrecisionPolicy()
    # Before torch 2.15 vectors would be sent in bfloat16 too. On a CPU autocast computes norms in the precision of the
    # inputs, so there everything is sent in float32; elsewhere it computes norms in float32 anyway.
    if precision == "bf16-mixed" and (VECTORS_APART or mesh.device_type != "cpu"):
        own = {"param_dtype_override_fn": lambda parameter: parameter.dtype if parameter.ndim < 2 else None}
        vectors: dict[str, Any] = own if VECTORS_APART else {}
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False, **vectors)
    for component in components:
        for block in component.blocks():
            fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        fully_shard(component, mesh=mesh, reshard_after_forward=False, mp_policy=policy)
        # The other methods of the interfaces that read weights.
        for interface, methods in {Reasoner: ("generate", "summarize"), GuidanceEncoder: ("drop",)}.items():
            for method in methods if isinstance(component, interface) else ():
                register_fsdp_forward_method(component, method)


def _sharded_modules(module: nn.Module) -> list[FSDPModule]:
    """Return the modules in it that are sharded separately, outer ones first."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


@contextmanager
def gathered(components: Sequence[Component]) -> Iterator[None]:
    """Hold all weights of the components on every rank, for work whose length differs between ranks.

    A chain is as long as the model writes it: gathering block by block, a rank would wait for others that have ended.
    Without sharding nothing is done.
    """
    held = [(component, part) for component in components for part in _sharded_modules(component)]
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
    """Release gathered weights, so that `module.parameters()` are the shards that optimizers change."""
    for part in _sharded_modules(module):
        part.reshard()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a sharded tensor, in the same memory; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the whole of a sharded tensor, a call that every rank must make; other tensors as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
