"""A system's weights from a checkpoint: one file, a folder that every rank has written, or safetensors beside bases."""

from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from got_core.averaging import TRAINED
from got_core.errors import UserError
from got_core.loading import what_differs
from got_core.weight_files import SAFETENSORS, read_system_weights

WEIGHTS = "state_dict"
"""Where a training checkpoint holds the weights, averaged ones where a run averaged them."""


def check_fits(system: LightningModule, checkpoint: Path) -> None:
    """Compare names and shapes of a training checkpoint's weights with a system's; copies no weights.

    Args:
        system: Built as the run's recipe says.
        checkpoint: A file, or the folder of a distributed one.

    Raises:
        UserError: It is no checkpoint, or of another model; tensors are named.
    """
    shapes = _distributed_shapes(checkpoint) if checkpoint.is_dir() else _shapes(_file_weights(checkpoint))
    _compare(system, shapes, checkpoint)


def load_weights(system: LightningModule, checkpoint: Path) -> None:
    """Load the weights of a checkpoint of any kind, in one process.

    Nothing in a file is executed. The `.metadata` of a distributed one is unpickled by torch, which can execute what
    it holds: open only such folders as you trust.

    Raises:
        UserError: It is no checkpoint, or of another model; tensors are named.
    """
    if checkpoint.is_dir():
        check_fits(system, checkpoint)
        # Reads into the tensors of the state dict, which are the system's own.
        distributed_checkpoint.load({WEIGHTS: system.state_dict()}, checkpoint_id=checkpoint, no_dist=True)
    elif checkpoint.suffix == SAFETENSORS:
        _load_beside_base(system, checkpoint)
    else:
        weights = _file_weights(checkpoint)
        _compare(system, _shapes(weights), checkpoint)
        system.load_state_dict(weights)


def _load_beside_base(system: LightningModule, file: Path) -> None:
    """Load what base folders do not have into a system that has been built from them."""
    tensors, in_base = read_system_weights(file)
    own = system.state_dict(keep_vars=True)
    given = {id(own[name]) for name in own.keys() & (tensors.keys() | in_base)}
    missing = [name for name, tensor in own.items() if id(tensor) not in given]
    _complain(file, missing, (tensors.keys() | in_base) - own.keys(), _misshapen(_shapes(tensors), _shapes(own)))
    system.load_state_dict(tensors, strict=False)


def _compare(system: LightningModule, given: Mapping[str, torch.Size], checkpoint: Path) -> None:
    own = _shapes(system.state_dict())
    _complain(checkpoint, own.keys() - given.keys(), given.keys() - own.keys(), _misshapen(given, own))


def _misshapen(given: Mapping[str, torch.Size], own: Mapping[str, torch.Size]) -> list[str]:
    differing = (name for name in given if name in own and given[name] != own[name])
    return [f"{name}: {list(given[name])} instead of {list(own[name])}" for name in differing]


def _complain(
    checkpoint: Path, missing: Collection[str], left_over: Collection[str], misshapen: Collection[str]
) -> None:
    if problem := what_differs(missing, left_over, misshapen):
        raise UserError(f"{checkpoint} does not fit its recipe: {problem}")


def _file_weights(file: Path) -> Mapping[str, Tensor]:
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)[WEIGHTS]
    except (OSError, RuntimeError, KeyError, EOFError, UnpicklingError) as error:
        raise UserError(f"{file}: not a readable checkpoint ({type(error).__name__})") from error


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _distributed_shapes(folder: Path) -> dict[str, torch.Size]:
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, EOFError, UnpicklingError, AttributeError, ValueError, LookupError, ImportError) as error:
        raise UserError(f"{folder}: not a readable checkpoint ({type(error).__name__})") from error
    prefixes = (f"{WEIGHTS}.", f"{WEIGHTS}.{TRAINED}.")
    return {
        name.removeprefix(prefixes[0]): entry.size
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        and name.startswith(prefixes[0])
        and not name.startswith(prefixes[1])
    }
