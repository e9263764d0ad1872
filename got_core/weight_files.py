"""Tensors in files: read from the layouts in circulation, written whole or not at all."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from got_core.errors import UserError, one_line
from got_core.loading import what_differs
from got_core.origins import ORIGINS

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
    return _read_shards(file) if file.name.endswith(INDEX) else _read_file(file)


@dataclass(frozen=True)
class SystemWeights:
    """What a `model.safetensors` of ours holds.

    Attributes:
        tensors: By the system's names.
        in_base: Names that are left to the base folders.
        origins: The base folders, as `got_core.origins.origins` describes them.
    """

    tensors: Mapping[str, Tensor] = field(repr=False)
    in_base: frozenset[str]
    origins: Mapping[str, Mapping[str, str]]


def read_system_weights(path: Path) -> SystemWeights:
    """Read a `model.safetensors` of ours.

    Raises:
        UserError: It cannot be read.
    """
    tensors = _read_file(path)
    metadata = _metadata(path)
    return SystemWeights(tensors, _names_in_base(metadata), json.loads(metadata.get(ORIGINS, "{}")))


def left_to_bases(path: Path) -> frozenset[str]:
    """The names that a `model.safetensors` of ours leaves to base folders; its tensors are not read.

    Raises:
        UserError: It cannot be read.
    """
    return _names_in_base(_metadata(path))


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder that appears with all that is put into it, or not at all.

    Yields:
        A temporary folder beside it, renamed at the end and removed after an error.

    Raises:
        UserError: There is something in that place already, or it cannot be written to.
    """
    folder = Path(path).expanduser().absolute()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already; name a new folder")
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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


def _names_in_base(metadata: Mapping[str, str]) -> frozenset[str]:
    return frozenset(json.loads(metadata.get(IN_BASE, "[]")))


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index}: not a readable index of shards ({type(error).__name__})") from error
    tensors: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        if not (index.parent / shard).is_file():
            raise UserError(f"{index}: its shard {shard} is missing")
        tensors.update(_read_file(index.parent / shard))
    if problem := what_differs(places.keys() - tensors.keys(), tensors.keys() - places.keys(), ()):
        raise UserError(f"{index}: the shards do not hold what it lists: {problem}")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == SAFETENSORS:
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (OSError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: not a checkpoint of names and tensors")
    return state
