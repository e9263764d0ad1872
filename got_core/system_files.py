"""Folders that a system is opened from, and the one that it is saved into: self-contained, as safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from got_core.checkpoints import load_weights
from got_core.errors import UserError
from got_core.loading import weights_to_follow
from got_core.origins import all_weights
from got_core.paths import Run, find_checkpoint
from got_core.recipe import build_model, read_recipe
from got_core.system import PARTS, GoTSystem
from got_core.weight_files import SAFETENSORS, SystemWeights, left_to_bases, write_system_weights

HERE = "folder://"
"""What paths begin with that are meant from the saved folder whose `config.yaml` they stand in."""

SAVED = "pipeline"
"""The key by which a saved folder's `config.yaml` is told from a run's; its value is the version of the format."""

VERSION = 1

IMAGE_SIZE = "image_size"
"""The key of a saved folder's `config.yaml` under which (height, width) stands."""


@dataclass(frozen=True)
class OpenedSystem:
    """A system and what its folder says of it.

    Attributes:
        system: With its weights.
        settings: What stands under `model` in the folder's recipe.
        size: (height, width) in pixels of the images it was trained on, or None where that is not said.
    """

    system: GoTSystem
    settings: Mapping[str, Any]
    size: tuple[int, int] | None


def open_system(path: str | Path) -> OpenedSystem:
    """The system of a run's folder (its newest checkpoint), of a checkpoint in it, or of an imported or saved folder.

    Averaged weights are loaded where the run averaged them. Base folders are not read where the checkpoint has all
    weights.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe or the checkpoint is not of a GoTSystem, or does not fit it.
    """
    run, checkpoint = find_checkpoint(path)
    recipe = read_recipe(run.recipe)
    settings, saved = recipe.get("model"), SAVED in recipe
    if not isinstance(settings, dict):
        raise UserError(f"{run.recipe}: there is no model in it")
    if saved:
        if recipe[SAVED] != VERSION:
            raise UserError(f"{run.recipe}: of another version of the format, {recipe[SAVED]!r} and not {VERSION}")
        settings = _from_folder(settings, run.folder.resolve())
    if checkpoint.suffix == SAFETENSORS and not left_to_bases(checkpoint):
        with weights_to_follow():
            system = build_model(settings, own_classes=not saved)
    else:
        system = build_model(settings, own_classes=not saved)
    if not isinstance(system, GoTSystem):
        raise UserError(f"{path}: {type(system).__name__} draws nothing; a GoTSystem is needed")
    load_weights(system, checkpoint)
    return OpenedSystem(system, settings, trained_size(recipe))


def save_system(opened: OpenedSystem, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a system into an existing folder, from which `open_system` makes it again without anything else.

    `config.yaml` names the classes and their arguments; `model.safetensors` has all weights; configurations and
    tokenizers that components need lie in folders of their own.

    Args:
        opened: The system with the settings it was built from.
        folder: Where to write.
        dtype: Of floating-point weights in the file; that of the system by default.
    """
    settings = json.loads(json.dumps(opened.settings))
    for part in PARTS:
        arguments = settings["init_args"][part].setdefault("init_args", {})
        for name, value in getattr(opened.system, part).standalone(folder / part).items():
            inside = isinstance(value, Path)
            arguments[name] = f"{HERE}{value.relative_to(folder).as_posix()}" if inside else value
    size = {} if opened.size is None else {IMAGE_SIZE: list(opened.size)}
    recipe = {SAVED: VERSION, "model": settings, **size}
    Run(folder).recipe.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    with all_weights():
        weights = _each_once(opened.system.state_dict())
    if dtype is not None:
        weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in weights.items()}
    write_system_weights(Run(folder).weights, SystemWeights(weights, frozenset(), {}))


def trained_size(recipe: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of a recipe's images: its own `image_size`, or the first `size` or `image_size` in its data."""
    return _first_size({IMAGE_SIZE: recipe.get(IMAGE_SIZE), "data": recipe.get("data")})


def _first_size(settings: Any) -> tuple[int, int] | None:
    if isinstance(settings, dict):
        for name in ("size", IMAGE_SIZE):
            value = settings.get(name)
            if isinstance(value, int) and value > 0:
                return value, value
            if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(n, int) and n > 0 for n in value):
                return value[0], value[1]
    children = settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ()
    return next((size for child in children if (size := _first_size(child)) is not None), None)


def _from_folder(settings: Any, folder: Path) -> Any:
    """A saved folder's settings with whole paths, seen to read nothing else and to bring no code.

    Raises:
        UserError: A path leads out of the folder, a value is to be filled in from elsewhere, or a class lies in it.
    """
    if isinstance(settings, dict):
        if "class_path" in settings:
            _check_class(settings["class_path"], folder)
        return {name: _from_folder(value, folder) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_from_folder(value, folder) for value in settings]
    if not isinstance(settings, str):
        return settings
    if "${" in settings:
        raise UserError(f"{folder}: its config.yaml may not refer to other values, as {settings!r} does")
    if not settings.startswith(HERE):
        return settings
    place = (folder / settings.removeprefix(HERE)).resolve()
    if not place.is_relative_to(folder):
        raise UserError(f"{folder}: its config.yaml names {settings!r}, which is not in the folder")
    return str(place)


def _check_class(path: Any, folder: Path) -> None:
    """See that a class is not read from the folder that asks for it."""
    package = str(path).split(".")[0]
    try:
        spec = find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    origins = () if spec is None else (spec.origin, *(spec.submodule_search_locations or ()))
    if any(origin and Path(origin).resolve().is_relative_to(folder) for origin in origins):
        raise UserError(f"{folder}: {path} would be read from the folder itself; classes have to be installed")


def _each_once(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without second names of the same tensor, which a file of safetensors cannot hold."""
    kept: dict[Any, str] = {}
    for name, weight in weights.items():
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype) if weight.numel() else name
        kept.setdefault(key, name)
    return {name: weights[name] for name in kept.values()}
