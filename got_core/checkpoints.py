"""A system's weights from a checkpoint: one file, a folder that every rank has written, or safetensors beside bases."""

from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint

from got_core.distributed_files import DESCRIPTION, WEIGHTS, distributed_shapes
from got_core.errors import UserError
from got_core.loading import what_differs
from got_core.origins import ORIGINS, all_weights, check_origins, keep, left_out
from got_core.weight_files import SAFETENSORS, read_system_weights

STEP = "global_step"
"""Where a training checkpoint holds the step it was made at."""


def check_fits(system: LightningModule, checkpoint: Path) -> None:
    """Compare names and shapes of a training checkpoint's weights with a system's; copies no weights.

    Args:
        system: Built as the run's recipe says.
        checkpoint: A file, or the folder of a distributed one.

    Raises:
        UserError: It is no checkpoint, or of another model; tensors are named. Or what it leaves out was not loaded
            from where it says.
    """
    if checkpoint.is_dir():
        given, saved = distributed_shapes(checkpoint), _read_file(checkpoint / DESCRIPTION, STEP)
    else:
        saved = _read_weights(checkpoint)
        given = _shapes(saved[WEIGHTS])
    with all_weights():
        everything = _shapes(system.state_dict())
    missing = everything.keys() - left_out(system).keys() - given.keys()
    _complain(checkpoint, missing, given.keys() - everything.keys(), _misshapen(given, everything))
    _check_origins(system, saved.get(ORIGINS, {}), checkpoint)


def load_weights(system: LightningModule, checkpoint: Path) -> None:
    """Load the weights of a checkpoint of any kind, in one process.

    Nothing in a file is executed. The `.metadata` of a distributed one is unpickled by torch, which can execute what
    it holds: open only such folders as you trust.

    Raises:
        UserError: It is no checkpoint, or of another model; tensors are named. Or what it leaves out was not loaded
            from where it says.
    """
    if checkpoint.suffix == SAFETENSORS:
        _load_beside_base(system, checkpoint)
        return
    check_fits(system, checkpoint)
    if checkpoint.is_dir():
        keep(system, distributed_shapes(checkpoint))
        # Reads into the tensors of the state dict, which are the system's own.
        distributed_checkpoint.load({WEIGHTS: system.state_dict()}, checkpoint_id=checkpoint, no_dist=True)
    else:
        system.load_state_dict(_read_file(checkpoint)[WEIGHTS])


def _load_beside_base(system: LightningModule, file: Path) -> None:
    """Load what base folders do not have into a system that has been built from them."""
    saved = read_system_weights(file)
    with all_weights():
        own = system.state_dict(keep_vars=True)
    names = saved.tensors.keys() | saved.in_base
    given = {id(own[name]) for name in own.keys() & names}
    missing = [name for name, tensor in own.items() if id(tensor) not in given]
    _complain(file, missing, names - own.keys(), _misshapen(_shapes(saved.tensors), _shapes(own)))
    _check_origins(system, saved.origins, file)
    system.load_state_dict(saved.tensors, strict=False)


def _check_origins(system: LightningModule, saved: Mapping[str, Mapping[str, str]], checkpoint: Path) -> None:
    try:
        check_origins(system, saved)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}") from error


def _misshapen(given: Mapping[str, torch.Size], own: Mapping[str, torch.Size]) -> list[str]:
    differing = (name for name in given if name in own and given[name] != own[name])
    return [f"{name}: {list(given[name])} instead of {list(own[name])}" for name in differing]


def _complain(
    checkpoint: Path, missing: Collection[str], left_over: Collection[str], misshapen: Collection[str]
) -> None:
    if problem := what_differs(missing, left_over, misshapen):
        raise UserError(f"{checkpoint} does not fit its recipe: {problem}")


def _read_file(file: Path, wanted: str = WEIGHTS) -> dict[str, Any]:
    """What torch has saved there, which has something under `wanted`."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(f"{file}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(saved, dict) or wanted not in saved:
        raise UserError(f"{file}: not a readable checkpoint (it has no {wanted})")
    return saved


def _read_weights(file: Path) -> dict[str, Any]:
    """What a file holds, whose weights are tensors by name."""
    saved = _read_file(file)
    weights = saved[WEIGHTS]
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"{file}: not a readable checkpoint (its {WEIGHTS} does not hold tensors)")
    return saved


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
