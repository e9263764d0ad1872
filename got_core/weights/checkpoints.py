"""Weights of a system on disk: checkpoints of one file or of all ranks, and safetensors beside base folders."""

import json
import os
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from got_core.errors import UserError
from got_core.weights.loading import ORIGINS, all_weights, check_origins, keep, left_out, what_differs

DESCRIPTION = "meta.pt"
"""The file in the folder that holds all but weights and the optimizer's state."""

WEIGHTS = "state_dict"
"""Where a training checkpoint of any kind holds the weights, averaged ones where a run averaged them."""

TRAINED = "current_model_state"
"""Where a checkpoint holds the trained weights; `state_dict` holds the averaged ones."""

_PREFIX = f"{WEIGHTS}."


def distributed_shapes(folder: Path) -> dict[str, torch.Size]:
    """The shapes of the weights by name; copies no weights.

    Raises:
        UserError: It is no distributed checkpoint.
    """
    try:
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    except (OSError, EOFError, UnpicklingError, AttributeError, ValueError, LookupError, ImportError) as error:
        raise UserError(f"{folder}: not a readable checkpoint ({type(error).__name__})") from error
    return {
        name.removeprefix(_PREFIX): entry.size
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
        and name.startswith(_PREFIX)
        and not name.startswith(f"{_PREFIX}{TRAINED}.")
    }


def load_left_out(module: nn.Module, folder: Path) -> None:
    """Load those weights that the module leaves to their origin and the checkpoint holds all the same; and keep them.

    Lightning reads only what the module's `state_dict()` asks for. Every rank must call this.

    Raises:
        UserError: It is no distributed checkpoint.
    """
    held = distributed_shapes(folder)
    brought = {name: weight.detach() for name, weight in left_out(module).items() if name in held}
    keep(module, brought)
    if brought:
        distributed_checkpoint.load({WEIGHTS: brought}, checkpoint_id=folder)


SAFETENSORS = ".safetensors"
"""How the name of a file of safetensors ends."""

INDEX = ".index.json"
"""How the name of a sharded model's index ends."""

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Names of a whole model's file in a folder, the preferred first."""

IN_BASE = "in_base"
"""Metadata of `model.safetensors`: a JSON list of the names that are left to the base folders."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint; nothing in it is executed.

    Args:
        path: A `.safetensors` file, one that torch has written (`.bin`, `.pt`), the index of a sharded one
            (`.index.json`), or a folder with one of these.

    Raises:
        UserError: Nothing of the kind is there, a file is broken, or shards lack what their index promises.
    """
    file = _checkpoint_file(Path(path).expanduser())
    return _read_shards(file) if file.name.endswith(INDEX) else _read_tensors(file)


@dataclass(frozen=True)
class SystemWeights:
    """What a `model.safetensors` of ours holds.

    Attributes:
        tensors: By the system's names.
        in_base: Names that are left to the base folders.
        origins: The base folders, as `got_core.weights.loading.origins` describes them.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    in_base: frozenset[str]
    origins: Mapping[str, Mapping[str, str]]


def read_system_weights(path: Path) -> SystemWeights:
    """Read a `model.safetensors` of ours.

    Raises:
        UserError: It cannot be read.
    """
    tensors = _read_tensors(path)
    metadata = _metadata(path)
    return SystemWeights(tensors, _names_in_base(metadata, path), _described(metadata, ORIGINS, dict, path))


def left_to_bases(path: Path) -> frozenset[str]:
    """The names that a `model.safetensors` of ours leaves to base folders; its tensors are not read.

    Raises:
        UserError: It cannot be read.
    """
    return _names_in_base(_metadata(path), path)


def write_system_weights(path: Path, weights: SystemWeights) -> None:
    """Write a `model.safetensors` of ours and wait until it is on the disk."""
    whole = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    described = {IN_BASE: sorted(weights.in_base), ORIGINS: weights.origins}
    save_file(whole, path, metadata={"format": "pt", **{name: json.dumps(value) for name, value in described.items()}})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _checkpoint_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    names = [path / f"{name}{ending}" for ending in (INDEX, "") for name in SINGLE]
    found = [name for name in names if name.is_file()]
    if not found:
        raise UserError(f"{path}: there is no {' or '.join(SINGLE)} in this folder, whole or with an {INDEX}")
    return found[0]


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error


def _names_in_base(metadata: Mapping[str, str], path: Path) -> frozenset[str]:
    return frozenset(map(str, _described(metadata, IN_BASE, list, path)))


def _described(metadata: Mapping[str, str], key: str, kind: type, path: Path) -> Any:
    """What a file's metadata say under a key, in JSON; empty where they say nothing."""
    try:
        value = json.loads(metadata[key]) if key in metadata else kind()
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{path}: not a readable checkpoint (its {key} is no {kind.__name__} in JSON)")
    return value


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not a readable index of shards ({type(error).__name__})") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if not (index.parent / shard).is_file():
            raise UserError(f"{index}: its shard {shard} is missing")
        tensors.update(_read_tensors(index.parent / shard))
    if problem := what_differs(places.keys() - tensors.keys(), tensors.keys() - places.keys(), ()):
        raise UserError(f"{index}: the shards do not hold what it lists: {problem}")
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a checkpoint of names and tensors")
    return state


STEP = "global_step"
"""Where a training checkpoint holds the step it was made at."""


def check_fits(system: nn.Module, checkpoint: Path) -> None:
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


def load_weights(system: nn.Module, checkpoint: Path) -> None:
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


def _load_beside_base(system: nn.Module, file: Path) -> None:
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


def _check_origins(system: nn.Module, saved: Mapping[str, Mapping[str, str]], checkpoint: Path) -> None:
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
