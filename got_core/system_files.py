"""Folders that a system is opened from, and the one that it is saved into: self-contained, as safetensors."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from got_core.checkpoints import load_weights
from got_core.errors import UserError
from got_core.inference_settings import USED, build_system, inference_settings
from got_core.loading import weights_to_follow
from got_core.origins import all_weights
from got_core.paths import Run, find_checkpoint, locate
from got_core.recipe import read_recipe
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
        settings: What stands under `model` in the folder's recipe, as far as inference uses it.
        size: (height, width) in pixels of the images it was trained on, or None where that is not said.
    """

    system: GoTSystem
    settings: Mapping[str, Any]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class ModelFiles:
    """The files that a system is opened from.

    Attributes:
        run: Its folder.
        weights: A checkpoint of the run, or the folder's `model.safetensors`.
        recipe: What `config.yaml` says, unresolved.
        saved: It is a saved folder, which anybody may have made, and not a run of the user's own.
        root: The folder that no file of a saved folder may lie outside of.
    """

    run: Run
    weights: Path
    recipe: Mapping[str, Any]
    saved: bool
    root: Path

    def settings(self) -> dict[str, Any]:
        """What stands under `model`, as far as inference uses it, with whole paths.

        Raises:
            UserError: It names something that models are not opened with.
        """
        model = self.recipe.get("model")
        if not isinstance(model, dict):
            raise UserError(f"{self.run.recipe}: there is no model in it")
        settings = inference_settings(model, self.run.folder, self.saved)
        return self._with_whole_paths(settings) if self.saved else settings

    def _with_whole_paths(self, settings: Any) -> Any:
        if isinstance(settings, dict):
            return {name: self._with_whole_paths(value) for name, value in settings.items()}
        if isinstance(settings, list):
            return [self._with_whole_paths(value) for value in settings]
        if not isinstance(settings, str) or not settings.startswith(HERE):
            return settings
        inside = Path(os.path.normpath(settings.removeprefix(HERE)))
        place = self.run.folder / inside
        if ".." in inside.parts or inside.is_absolute() or not place.resolve().is_relative_to(self.root.resolve()):
            raise UserError(f"{self.run.folder}: its config.yaml names {settings!r}, which is not in the folder")
        return str(place)


def find_model(path: str | Path, fetched: bool = False) -> ModelFiles:
    """The files of a run's folder (its newest checkpoint), a checkpoint in it, or an imported or saved folder.

    A saved folder has its weights in `model.safetensors`; no other file of weights in it is looked at.

    Args:
        path: The folder or checkpoint.
        fetched: It is a snapshot in the hub's cache, where files are links to those of the repository.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe is not readable, or a saved folder is of another version or lacks its weights.
    """
    run, checkpoint = find_checkpoint(path)
    recipe = read_recipe(run.recipe)
    saved = SAVED in recipe
    if saved:
        if recipe[SAVED] != VERSION:
            raise UserError(f"{run.recipe}: of another version of the format, {recipe[SAVED]!r} and not {VERSION}")
        if Path(locate(path)).absolute() not in (run.folder, run.weights):
            raise UserError(f"{path}: a saved model is opened by its folder, {run.folder}")
        if not run.weights.is_file():
            raise UserError(f"{run.folder}: a saved model has its weights in {run.weights.name}, which is missing")
    root = run.folder.parents[1] if fetched else run.folder
    return ModelFiles(run, run.weights if saved else checkpoint, recipe, saved, root)


def open_system(path: str | Path, fetched: bool = False) -> OpenedSystem:
    """The system of a run's folder (its newest checkpoint), of a checkpoint in it, or of an imported or saved folder.

    Averaged weights are loaded where the run averaged them. Base folders are not read where the checkpoint has all
    weights. Nothing of training is built.

    Args:
        path: The folder or checkpoint.
        fetched: It is a snapshot in the hub's cache: whatever is not a saved folder, such as a run, is refused.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe or the checkpoint is not of a GoTSystem, names something that models are not opened with,
            or does not fit.
    """
    files = find_model(path, fetched)
    if fetched and not files.saved:
        raise UserError(
            f"{path}: not a saved model (its config.yaml lacks the key {SAVED!r}), and only such are opened"
        )
    settings = files.settings()
    if files.weights.suffix == SAFETENSORS and not left_to_bases(files.weights):
        with weights_to_follow():
            system = build_system(settings, files.run.folder)
    else:
        system = build_system(settings, files.run.folder)
    load_weights(system, files.weights)
    return OpenedSystem(system, settings, trained_size(files.recipe))


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
    settings["init_args"] = {name: settings["init_args"][name] for name in USED if name in settings["init_args"]}
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


def _each_once(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without second names of the same tensor, which a file of safetensors cannot hold."""
    kept: dict[Any, str] = {}
    for name, weight in weights.items():
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype) if weight.numel() else name
        kept.setdefault(key, name)
    return {name: weights[name] for name in kept.values()}
