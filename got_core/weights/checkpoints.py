"""Weights of a system on disk: checkpoints of one file or of all ranks, and safetensors beside base folders."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta, TensorStorageMetadata

from got_core.errors import UserError, parse_json
from got_core.weights.integrity import REST, check_intact
from got_core.weights.loading import ORIGINS, all_weights, check_origins, keep, left_out, what_differs

WEIGHTS = "state_dict"
"""Key of the weights in a training checkpoint of any kind; averaged ones if a run averaged them."""

TRAINED = "current_model_state"
"""Key of the trained weights in a checkpoint whose `state_dict` holds the averaged ones."""

SAFETENSORS = ".safetensors"
"""End of the names of files of safetensors."""

INDEX = ".index.json"
"""End of the name of a sharded model's index."""

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Names of a whole model's file in a folder, the preferred first."""

TENSORS_AT_ONCE = 64
"""Of a file, that are converted before it is mapped anew."""

IN_BASE = "in_base"
"""Metadata of `model.safetensors`: a JSON list of the names that are left to the base folders."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise what readers of checkpoints raise as a `UserError`."""
    try:
        yield
    except (
        OSError, EOFError, RuntimeError, ValueError, AttributeError, LookupError, ImportError, UnpicklingError,
        SafetensorError, TypeError, MemoryError,
    ) as error:  # fmt: skip
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error


METADATA_CLASSES = frozenset(
    {
        *((TensorStorageMetadata.__module__, name) for name in (
            "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "BytesStorageMetadata",
            "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
        )),
        (FileSystemReader.__module__, "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
    }
)  # fmt: skip
"""What the `.metadata` of a distributed checkpoint may name, beside torch's types of numbers."""


def _member(*arguments: Any) -> Enum:
    """Return a member of an enumeration by its name: Python 3.11.0 to 3.11.3 pickle members as a call of `getattr`."""
    match arguments:
        case (type() as kind, str(name)) if issubclass(kind, Enum) and name in kind.__members__:
            return kind[name]
    raise UnpicklingError("builtins.getattr is no part of torch's metadata")


class _MetadataUnpickler(pickle.Unpickler):
    """Reads the `.metadata` of a distributed checkpoint; nothing else than it consists of can be named in it."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if module == "torch" and isinstance(named := getattr(torch, name, None), torch.dtype):
            return named
        if (module, name) not in METADATA_CLASSES:
            raise UnpicklingError(f"{module}.{name} is no part of torch's metadata")
        return super().find_class(module, name)


def read_metadata(folder: Path) -> Metadata:
    """Read the `.metadata` of a distributed checkpoint; nothing in it is executed.

    Raises:
        UserError: It is not a distributed checkpoint, or its metadata names anything else than such metadata consists
            of, or files outside the folder.
    """
    with _readable(folder):
        with (folder / ".metadata").open("rb") as file:
            metadata = _MetadataUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise UnpicklingError("no metadata")
        for stored in (metadata.storage_data or {}).values():
            path = PurePath(stored.relative_path)
            if path.is_absolute() or ".." in path.parts or getattr(stored, "transform_descriptors", None):
                raise UnpicklingError("not as torch writes it by default")
        return metadata


class MetadataReader(FileSystemReader):
    """Reads a distributed checkpoint as torch's reader does, its metadata by `read_metadata`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the metadata."""
        metadata = read_metadata(Path(self.path))
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def check_values(folder: Path) -> None:
    """Check that what is no tensor in a distributed checkpoint, which torch unpickles on loading, is plain values.

    Raises:
        UserError: A value is of a class, or the checkpoint is not readable.
    """
    metadata = read_metadata(folder)
    with _readable(folder):
        for index, stored in (metadata.storage_data or {}).items():
            if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
                with (folder / stored.relative_path).open("rb") as file:
                    file.seek(stored.offset)
                    torch.load(io.BytesIO(file.read(stored.length)), map_location="cpu", weights_only=True)


def distributed_shapes(folder: Path) -> dict[str, torch.Size]:
    """Return the shapes of a distributed checkpoint's weights by name; no weights are read.

    Raises:
        UserError: It is not a distributed checkpoint.
    """
    entries = read_metadata(folder).state_dict_metadata
    with _readable(folder):
        return {
            name.removeprefix(f"{WEIGHTS}."): entry.size
            for name, entry in entries.items()
            if isinstance(entry, TensorStorageMetadata)
            and name.startswith(f"{WEIGHTS}.")
            and not name.startswith(f"{WEIGHTS}.{TRAINED}.")
        }


def load_left_out(module: nn.Module, folder: Path) -> None:
    """Load those weights that the module leaves to their origin but the checkpoint holds, and keep them.

    Lightning reads only what the module's `state_dict()` names. Every rank must call this.

    Raises:
        UserError: It is not a distributed checkpoint.
    """
    held = distributed_shapes(folder)
    loaded = {name: weight.detach() for name, weight in left_out(module).items() if name in held}
    keep(module, loaded)
    if loaded:
        distributed_checkpoint.load({WEIGHTS: loaded}, storage_reader=MetadataReader(folder))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint; nothing in it is executed.

    Args:
        path: A `.safetensors` file, one that torch has written (`.bin`, `.pt`), the index of a sharded one
            (`.index.json`), or a folder with one of these.

    Raises:
        UserError: There is no such file, a file is broken, or shards lack what their index lists.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        files = [file for end in (INDEX, "") for name in SINGLE if (file := path / f"{name}{end}").is_file()]
        if not files:
            raise UserError(f"{path}: there is no {' or '.join(SINGLE)} in this folder, whole or with an {INDEX}")
        path = files[0]
    elif not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    return _read_shards(path) if path.name.endswith(INDEX) else _read_tensors(path)


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
    return SystemWeights(_read_tensors(path), left_to_bases(path), _metadata(path, ORIGINS, dict))


def left_to_bases(path: Path) -> frozenset[str]:
    """Return the names that a `model.safetensors` of ours leaves to base folders; its tensors are not read.

    Raises:
        UserError: It cannot be read.
    """
    return frozenset(map(str, _metadata(path, IN_BASE, list)))


def write_system_weights(path: Path, weights: SystemWeights) -> None:
    """Write a `model.safetensors` of ours and wait until it is on the disk."""
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}
    metadata = {IN_BASE: json.dumps(sorted(weights.in_base)), ORIGINS: json.dumps(weights.origins)}
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _metadata(path: Path, key: str, kind: type) -> Any:
    """Read a JSON value of a file's metadata; empty if the key is missing."""
    with _readable(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    try:
        value = parse_json(metadata[key]) if key in metadata else kind()
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise UserError(f"{path}: not a readable checkpoint (its {key} is not a {kind.__name__} in JSON)")
    return value


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        files = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not a readable index of shards ({type(error).__name__})") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(files.values())):
        if not (index.parent / shard).is_file():
            raise UserError(f"{index}: its shard {shard} is missing")
        tensors.update(_read_tensors(index.parent / shard))
    if problem := what_differs(files.keys() - tensors.keys(), tensors.keys() - files.keys(), ()):
        raise UserError(f"{index}: the shards do not hold what it lists: {problem}")
    return tensors


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with _readable(path):
        if path.suffix == SAFETENSORS:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a checkpoint of names and tensors")
    return state


def check_fits(system: nn.Module, checkpoint: Path) -> None:
    """Compare names and shapes of a training checkpoint's weights with a system's; copies no weights.

    Args:
        system: Built as the run's recipe says.
        checkpoint: A file, or the folder of a distributed one.

    Raises:
        UserError: It is not a checkpoint, or one of another model (tensors are named), or what it leaves out was not
            loaded from its origin.
    """
    if checkpoint.is_dir():
        check_values(checkpoint)
        # This file holds all but weights and the optimizer's state.
        given, saved = distributed_shapes(checkpoint), _read_file(checkpoint / REST, "global_step")
    else:
        saved = _read_file(checkpoint, WEIGHTS)
        if not isinstance(saved[WEIGHTS], dict) or not all(
            isinstance(part, Tensor) for part in saved[WEIGHTS].values()
        ):
            raise UserError(f"{checkpoint}: not a readable checkpoint (its {WEIGHTS} does not hold tensors)")
        given = _shapes(saved[WEIGHTS])
    with all_weights():
        own = _shapes(system.state_dict())
    missing = own.keys() - left_out(system).keys() - given.keys()
    _check(system, checkpoint, missing, given, own, saved.get(ORIGINS, {}))


def read_rest(checkpoint: Path) -> dict[str, Any]:
    """Return what a training checkpoint holds; of a distributed one, what is no tensor. Tensors are read when used.

    Raises:
        UserError: It is not a training checkpoint.
    """
    if checkpoint.is_dir():
        return _read_file(checkpoint / REST, "global_step")
    return _read_file(checkpoint, WEIGHTS)


def load_weights(system: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint of any kind, in one process.

    Nothing in a file is executed.

    Raises:
        UserError: As `check_intact` and `check_fits`.
    """
    if checkpoint.suffix == SAFETENSORS:
        _load_beside_base(system, checkpoint)
        return
    check_intact(checkpoint)
    check_fits(system, checkpoint)
    if checkpoint.is_dir():
        keep(system, distributed_shapes(checkpoint))
        # Reads into the tensors of the state dict, which are the system's own.
        distributed_checkpoint.load(
            {WEIGHTS: system.state_dict()}, storage_reader=MetadataReader(checkpoint), no_dist=True
        )
    else:
        system.load_state_dict(_read_file(checkpoint, WEIGHTS)[WEIGHTS])


def _load_beside_base(system: nn.Module, file: Path) -> None:
    """Load what base folders do not have into a system that has been built from them.

    A tensor that the file has in the system's precision is the file's own, mapped into memory; others are converted, a
    few at a time, after which the file is mapped anew: weights are in memory once.
    """
    saved = read_system_weights(file)
    with all_weights():
        tensors = system.state_dict(keep_vars=True)
    own = _shapes(tensors)
    given = {name: own.get(name, torch.Size()) for name in saved.in_base} | _shapes(saved.tensors)
    held = {id(tensors[name]) for name in own.keys() & given.keys()}
    missing = [name for name, tensor in tensors.items() if id(tensor) not in held]
    _check(system, file, missing, given, own, saved.origins)
    keep(system, saved.tensors)
    names = list(saved.tensors)
    for start in range(0, len(names), TENSORS_AT_ONCE):
        with _readable(file), safe_open(file, framework="pt") as opened:
            for name in names[start : start + TENSORS_AT_ONCE]:
                tensors[name].data = opened.get_tensor(name).to(tensors[name])


def _check(
    system: nn.Module,
    checkpoint: Path,
    missing: Collection[str],
    given: Mapping[str, torch.Size],
    own: Mapping[str, torch.Size],
    origins: Mapping[str, Mapping[str, str]],
) -> None:
    """Check that a checkpoint's shapes and origins are those of a system."""
    differing = (name for name in given if name in own and given[name] != own[name])
    misshapen = [f"{name}: {list(given[name])} instead of {list(own[name])}" for name in differing]
    if problem := what_differs(missing, given.keys() - own.keys(), misshapen):
        raise UserError(f"{checkpoint} does not fit its recipe: {problem}")
    try:
        check_origins(system, origins)
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}") from error


def _read_file(file: Path, wanted: str) -> dict[str, Any]:
    """Read what torch has saved, which has something under `wanted`."""
    with _readable(file):
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(saved, dict) or wanted not in saved:
        raise UserError(f"{file}: not a readable checkpoint (it has no {wanted})")
    return saved


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
