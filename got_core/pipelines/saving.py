"""Models in folders and on the Hugging Face hub: opened, and saved with all they need and a model card."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from huggingface_hub import HfApi, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor

from got_core.config import ModelSettings, read_recipe
from got_core.diffusion.schedulers import save_scheduler
from got_core.errors import UserError, one_line
from got_core.interfaces import Scheduler
from got_core.model import PARTS, GoTModel
from got_core.paths import Run, find_checkpoint, locate
from got_core.weights.checkpoints import SAFETENSORS, SystemWeights, left_to_bases, load_weights, write_system_weights
from got_core.weights.files import new_folder
from got_core.weights.loading import all_weights, weights_to_follow

HERE = "folder://"
"""What paths begin with that are meant from the saved folder whose `config.yaml` they stand in."""

SAVED = "pipeline"
"""The key by which a saved folder's `config.yaml` is told from a run's; its value is the version of the format."""

VERSION = 1

IMAGE_SIZE = "image_size"
"""The key of a saved folder's `config.yaml` under which (height, width) stands."""


@dataclass(frozen=True)
class OpenedModel:
    """A model and what its folder says of it.

    Attributes:
        model: With its weights.
        settings: What stands under `model` in the folder's recipe, as far as inference uses it.
        size: (height, width) in pixels of the images it was trained on, or None where that is not said.
    """

    model: GoTModel
    settings: Mapping[str, Any]
    size: tuple[int, int] | None


@dataclass(frozen=True)
class ModelFiles:
    """The files that a model is opened from.

    Attributes:
        run: Its folder.
        weights: A checkpoint of the run, or the folder's `model.safetensors`.
        recipe: What `config.yaml` says, unresolved.
        inside: The folder that all files of a saved model lie in, which anybody may have made; None for a run of the
            user's own.
    """

    run: Run
    weights: Path
    recipe: Mapping[str, Any]
    inside: Path | None

    def settings(self) -> ModelSettings:
        """What stands under `model`, as far as inference uses it, with whole paths.

        Raises:
            UserError: It names something that models are not opened with.
        """
        settings = ModelSettings.read(self.recipe.get("model"), self.run.folder, self.inside)
        return settings if self.inside is None else replace(settings, components=self._whole_paths(settings.components))

    def _whole_paths(self, settings: Any) -> Any:
        if isinstance(settings, dict):
            return {name: self._whole_paths(value) for name, value in settings.items()}
        if isinstance(settings, list):
            return [self._whole_paths(value) for value in settings]
        if not isinstance(settings, str) or not settings.startswith(HERE):
            return settings
        place = self.run.folder / settings.removeprefix(HERE)
        if not place.exists():
            raise UserError(f"{self.run.folder}: its config.yaml names {settings!r}, which is not in the folder")
        return str(place)


def find_model(path: str | Path, fetched: bool = False) -> ModelFiles:
    """The files of a run's folder (its newest checkpoint), a checkpoint in it, or an imported or saved folder.

    A saved folder has its weights in `model.safetensors`; no other file of weights in it is looked at.

    Args:
        path: The folder or checkpoint.
        fetched: It is a snapshot in the hub's cache, where files are links to those of the repository; only a saved
            folder will do.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe is not readable, or a saved folder is of another version, lacks its weights, or has files
            that lie elsewhere.
    """
    run, checkpoint = find_checkpoint(path)
    recipe = read_recipe(run.recipe)
    if SAVED not in recipe:
        if fetched:
            raise UserError(
                f"{path}: not a saved model (its config.yaml lacks the key {SAVED!r}), and only such are opened"
            )
        return ModelFiles(run, checkpoint, recipe, None)
    version = recipe[SAVED]
    if type(version) is not int or version != VERSION:
        raise UserError(f"{run.recipe}: of another version of the format than {VERSION}, which is all that is read")
    if Path(locate(path)).absolute() not in (run.folder, run.weights):
        raise UserError(f"{path}: a saved model is opened by its folder, {run.folder}")
    inside = (run.folder.parents[1] if fetched else run.folder).resolve()
    _check_files(run.folder, inside)
    if not run.weights.is_file():
        raise UserError(f"{run.folder}: a saved model has its weights in {run.weights.name}, which is missing")
    if left_to_bases(run.weights):
        raise UserError(f"{run.weights}: leaves weights to other folders, which a saved model does not")
    return ModelFiles(run, run.weights, recipe, inside)


def open_model(path: str | Path, fetched: bool = False) -> OpenedModel:
    """The model of a run's folder (its newest checkpoint), of a checkpoint in it, or of an imported or saved folder.

    Averaged weights are loaded where the run averaged them. Base folders are not read where the checkpoint has all
    weights. Nothing of training is built.

    Args:
        path, fetched: As `find_model` has them.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe or the checkpoint is not of a GoTModel, names something that models are not opened with,
            or does not fit.
    """
    files = find_model(path, fetched)
    settings = files.settings()
    whole = files.weights.suffix == SAFETENSORS and not left_to_bases(files.weights)
    with weights_to_follow() if whole else nullcontext():
        model = settings.build()
    load_weights(model, files.weights)
    return OpenedModel(model, settings.as_plain(), trained_size(files.recipe))


def save_model(opened: OpenedModel, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model into an existing folder, from which `open_model` makes it again without anything else.

    `config.yaml` names the classes and their arguments; `model.safetensors` has all weights; configurations and
    tokenizers that components need lie in folders of their own.

    Args:
        opened: The model with the settings it was built from.
        folder: Where to write.
        dtype: Of floating-point weights in the file; that of the model by default.
    """
    # Of a recipe's settings those of training are left out.
    settings = json.loads(json.dumps(ModelSettings.read(dict(opened.settings), folder, None).as_plain()))
    for part in PARTS:
        arguments = settings["init_args"][part]["init_args"]
        for name, value in getattr(opened.model, part).standalone(folder / part).items():
            inside = isinstance(value, Path)
            arguments[name] = f"{HERE}{value.relative_to(folder).as_posix()}" if inside else value
    size = {} if opened.size is None else {IMAGE_SIZE: list(opened.size)}
    recipe = {SAVED: VERSION, "model": settings, **size}
    Run(folder).recipe.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    with all_weights():
        weights = _each_once(opened.model.state_dict())
    if dtype is not None:
        weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in weights.items()}
    write_system_weights(Run(folder).weights, SystemWeights(weights, frozenset(), {}))


def _check_files(folder: Path, inside: Path) -> None:
    """Refuse a saved folder with files that are none, or links that lead out of it.

    Raises:
        UserError: There is one.
    """
    for file in folder.rglob("*"):
        if not file.resolve().is_relative_to(inside) or not (file.is_file() or file.is_dir()):
            raise UserError(f"{folder}: {file.relative_to(folder)} is not a file in the folder")


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


FILES = ["*.json", "*.md", "*.safetensors", "*.txt", "*.yaml"]
"""What of a repository is fetched."""

CARD = """---
{metadata}
---

# {title}

Reasons in words and boxes before it draws or edits an image (GoT, arXiv 2503.10639). Opened with got-framework:

```python
from got_core import GoTPipeline

pipe = GoTPipeline.from_pretrained("{address}")
plan = pipe.plan("a red circle left of a blue square")[0]
print(plan.chain)
image = pipe.generate(plan).images[0]
```

| component | class | parameters |
|---|---|---:|
{components}

Images are {size} unless asked for otherwise. `config.yaml` names all classes and their arguments;
`model.safetensors` has all weights.
"""


def local_folder(path: str | Path, **hub: Any) -> tuple[Path, bool]:
    """A path as it is, if it is there; else the repository of the hub under that id, fetched.

    Args:
        path: Folder, file or hub id.
        hub: Arguments of `huggingface_hub.snapshot_download`.

    Returns:
        The folder or file, and whether it was fetched.

    Raises:
        FileNotFoundError: It is in neither place.
    """
    try:
        found = Path(locate(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such run folder, checkpoint or hub id") from None
    if found.exists():
        return found, False
    try:
        return Path(snapshot_download(str(path), allow_patterns=FILES, **hub)), True
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"'{path}' is not a folder here, and could not be had from the hub ({type(error).__name__})"
        ) from error


def save_pipeline(
    opened: OpenedModel,
    path: str | Path,
    dtype: torch.dtype | None,
    address: str | None = None,
    scheduler: Scheduler | None = None,
) -> None:
    """Write a self-contained folder; it appears whole or not at all.

    Args:
        opened: What to save.
        path: A new folder.
        dtype: Of the weights in the file; that of the system when None.
        address: What the model card opens; the folder's name when None.
        scheduler: One of diffusers' to draw with; the objective's own when None.

    Raises:
        UserError: There is something in that place already, it cannot be written to, or the scheduler is no such.
        ValueError: The type is none of weights.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"weights are saved in a floating-point type, not in {dtype}")
    with new_folder(path) as folder:
        save_model(opened, folder, dtype)
        if scheduler is not None:
            save_scheduler(scheduler, folder)
        card = model_card(opened, Path(path).name, address or Path(path).name)
        (folder / "README.md").write_text(card, encoding="utf-8")


def push_pipeline(
    opened: OpenedModel,
    repo_id: str,
    private: bool,
    token: str | None,
    message: str,
    scheduler: Scheduler | None = None,
) -> str:
    """Save into a repository of the hub; returns the address of the commit.

    Raises:
        UserError: The hub refuses, or cannot be reached.
    """
    api = HfApi(token=token)
    with TemporaryDirectory() as parent:
        folder = Path(parent) / repo_id.split("/")[-1]
        save_pipeline(opened, folder, None, repo_id, scheduler)
        try:
            place = api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=place.repo_id, folder_path=folder, commit_message=message))
        except Exception as error:  # The network's errors are those of an HTTP library that changes with the hub's.
            raise UserError(f"{repo_id}: the hub did not take it ({one_line(error)})") from error


def model_card(opened: OpenedModel, title: str, address: str) -> str:
    """What the model is made of and how it is opened."""
    arguments = opened.settings["init_args"]
    rows = [
        f"| {part} | `{arguments[part]['class_path']}` | {_parameters(getattr(opened.model, part)):,} |"
        for part in PARTS
    ]
    size = "of any size" if opened.size is None else f"{opened.size[1]} x {opened.size[0]} pixels"
    data = ModelCardData(library_name="got-framework", pipeline_tag="text-to-image", tags=["image-editing", "got"])
    metadata = data.to_yaml()
    return CARD.format(metadata=metadata, title=title, address=address, components="\n".join(rows), size=size)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
