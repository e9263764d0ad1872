"""Models in folders and on the Hugging Face hub: opened, and saved with all they need and a model card."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
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
from got_core.weights.quantization import check_bits, is_quantized

IN_FOLDER = "folder://"
"""Prefix of paths that are relative to the saved folder whose `config.yaml` contains them."""

FORMAT = "pipeline"
"""The key that the `config.yaml` of a saved folder has and that of a run has not; its value is `VERSION`."""

VERSION = 1

IMAGE_SIZE = "image_size"
"""The key of (height, width) in the `config.yaml` of a saved folder."""

DOWNLOADED = ["*.json", "*.md", "*.safetensors", "*.txt", "*.yaml"]
"""The files of a hub repository that are downloaded."""


@dataclass(frozen=True)
class OpenedModel:
    """A model and what its folder says of it.

    Attributes:
        model: With its weights.
        settings: The part of the folder's recipe under `model`, as far as inference uses it.
        size: (height, width) in pixels of the images it was trained on, or None if the recipe does not say.
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
        recipe: The content of `config.yaml`, unresolved.
        inside: The folder that contains all files of a saved model; None for a run.
        trusted: A folder whose code the user trusts.
    """

    run: Run
    weights: Path
    recipe: Mapping[str, Any]
    inside: Path | None
    trusted: Path | None = None

    def settings(self) -> ModelSettings:
        """Read the part under `model`, as far as inference uses it, with whole paths.

        Raises:
            UserError: It names something that models are not opened with.
        """
        settings = ModelSettings.read(self.recipe.get("model"), self.run.folder, self.inside, self.trusted)
        return settings if self.inside is None else replace(settings, components=self._whole_paths(settings.components))

    def _whole_paths(self, settings: Any) -> Any:
        if isinstance(settings, dict):
            return {name: self._whole_paths(value) for name, value in settings.items()}
        if isinstance(settings, list):
            return [self._whole_paths(value) for value in settings]
        if not isinstance(settings, str) or not settings.startswith(IN_FOLDER):
            return settings
        path = self.run.folder / settings.removeprefix(IN_FOLDER)
        if not path.exists():
            raise UserError(f"{self.run.folder}: its config.yaml names {settings!r}, which is not in the folder")
        return str(path)


def find_model(path: str | Path, downloaded: bool = False, trust_code: str | Path | None = None) -> ModelFiles:
    """Find the files of a run's folder (its newest checkpoint), a checkpoint in it, or an imported or saved folder.

    A saved folder has its weights in `model.safetensors`; no other file of weights in it is read.

    Args:
        path: The folder or checkpoint.
        downloaded: Whether it is a snapshot in the hub's cache, where files are links to those of the repository; only
            a saved folder is accepted then.
        trust_code: A folder of Python files that component classes may be in, beside installed packages; its code runs.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: There is no folder of trusted code, the recipe is not readable, or a saved folder is of another
            version, lacks its weights, or has files that lie elsewhere.
    """
    trusted = None if trust_code is None else Path(trust_code).expanduser().resolve()
    if trusted is not None and not trusted.is_dir():
        raise UserError(f"{trust_code}: not a folder, so there is no code in it to trust")
    run, checkpoint = find_checkpoint(path)
    recipe = read_recipe(run.recipe)
    if FORMAT not in recipe:
        if downloaded:
            raise UserError(
                f"{path}: not a saved model (its config.yaml lacks the key {FORMAT!r}), and the hub's must be"
            )
        return ModelFiles(run, checkpoint, recipe, None, trusted)
    if recipe[FORMAT] != VERSION:
        raise UserError(f"{run.recipe}: of another version of the format than {VERSION}, the only one that is read")
    if Path(locate(path)).absolute() not in (run.folder, run.weights):
        raise UserError(f"{path}: a saved model is opened by its folder, {run.folder}")
    inside = (run.folder.parents[1] if downloaded else run.folder).resolve()
    for file in run.folder.rglob("*"):
        if not file.resolve().is_relative_to(inside) or not (file.is_file() or file.is_dir()):
            raise UserError(f"{run.folder}: {file.relative_to(run.folder)} is not a file in the folder")
    if not run.weights.is_file():
        raise UserError(f"{run.folder}: a saved model has its weights in {run.weights.name}, which is missing")
    if left_to_bases(run.weights):
        raise UserError(f"{run.weights}: leaves weights to other folders, which a saved model does not")
    return ModelFiles(run, run.weights, recipe, inside, trusted)


def open_model(
    path: str | Path,
    downloaded: bool = False,
    trust_code: str | Path | None = None,
    dtype: torch.dtype | None = None,
    bits: int | None = None,
) -> OpenedModel:
    """Open the model of a run's folder (its newest checkpoint), a checkpoint in it, or an imported or saved folder.

    Averaged weights are loaded where the run averaged them. Base folders are not read if the checkpoint has all
    weights. Nothing of training is built; adapters are merged into the weights.

    Args:
        path, downloaded, trust_code: As in `find_model`.
        dtype: Of all weights but the codec's; those of a saved model are never in memory in another precision.
        bits: 8 or 4, of the linear layers of reasoner and backbone; None keeps the precision.

    Raises:
        FileNotFoundError: There is no such run or checkpoint.
        UserError: The recipe or the checkpoint is not of a GoTModel, names something that models are not opened with,
            or does not fit.
    """
    if bits is not None:
        check_bits(bits)
    files = find_model(path, downloaded, trust_code)
    settings = files.settings()
    complete = files.weights.suffix == SAFETENSORS and not left_to_bases(files.weights)
    with weights_to_follow() if complete else nullcontext():
        model = settings.build()
    if dtype is not None:
        model.convert(dtype, contents=not complete)
    load_weights(model, files.weights)
    model.merge_adapters()
    if bits is not None:
        model.quantize(bits)
    return OpenedModel(model, settings.as_plain(), trained_size(files.recipe))


def trained_size(recipe: Mapping[str, Any]) -> tuple[int, int] | None:
    """Find (height, width) of a recipe's images: its `image_size`, or the first `size` or `image_size` in its data."""
    return _first_size({IMAGE_SIZE: recipe.get(IMAGE_SIZE), "data": recipe.get("data")})


def _first_size(settings: Any) -> tuple[int, int] | None:
    if isinstance(settings, list):
        return next((size for value in settings if (size := _first_size(value)) is not None), None)
    if not isinstance(settings, dict):
        return None
    for name in ("size", IMAGE_SIZE):
        match settings.get(name):
            case int(side):
                return side, side
            case [int(height), int(width)]:
                return height, width
    return _first_size(list(settings.values()))


def local_path(path: str | Path, **hub: Any) -> tuple[Path, bool]:
    """Find a path on this machine, else download the hub repository of this id.

    Args:
        path: Folder, file or hub id.
        hub: Arguments of `huggingface_hub.snapshot_download`.

    Returns:
        The folder or file, and whether it was downloaded.

    Raises:
        FileNotFoundError: It is in neither place.
    """
    try:
        local = Path(locate(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such run folder, checkpoint or hub id") from None
    if local.exists():
        return local, False
    try:
        return Path(snapshot_download(str(path), allow_patterns=DOWNLOADED, **hub)), True
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"'{path}' is not a folder here, and the hub did not provide it ({type(error).__name__})"
        ) from error


def save_pipeline(
    opened: OpenedModel,
    path: str | Path,
    dtype: torch.dtype | None,
    address: str | None = None,
    scheduler: Scheduler | None = None,
) -> None:
    """Write a self-contained folder; it appears complete or not at all.

    `config.yaml` names the classes and their arguments; `model.safetensors` has all weights; configurations and
    tokenizers of components lie in folders of their own. `open_model` needs nothing else.

    Args:
        opened: The model with the settings it was built from.
        path: A new folder.
        dtype: Of floating-point weights in the file; that of the model when None.
        address: What the model card opens; the folder's name when None.
        scheduler: Of diffusers, to sample with; the objective's own when None.

    Raises:
        UserError: The folder already exists or cannot be written to, or the scheduler is not one of diffusers.
        ValueError: The type is not a floating-point type.
    """
    if is_quantized(opened.model):
        raise UserError("weights in 8 or 4 bits are not saved: save the model as it was, and open it in bits")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"weights are saved in a floating-point type, not in {dtype}")
    with new_folder(path) as folder:
        _save_model(opened, folder, dtype)
        if scheduler is not None:
            save_scheduler(scheduler, folder)
        card = model_card(opened, Path(path).name, address or Path(path).name)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _save_model(opened: OpenedModel, folder: Path, dtype: torch.dtype | None) -> None:
    write_settings(opened, folder)
    with all_weights():
        weights = _without_aliases(opened.model.state_dict())
    if dtype is not None:
        weights = {name: w.to(dtype) if w.is_floating_point() else w for name, w in weights.items()}
    write_system_weights(Run(folder).weights, SystemWeights(weights, frozenset(), {}))


def write_settings(opened: OpenedModel, folder: Path) -> None:
    """Write all of a saved folder but its weights: `config.yaml`, and what its components need beside it."""
    # The settings of training are left out, and the rest is copied through JSON, as it is changed below.
    settings = json.loads(json.dumps(ModelSettings.read(dict(opened.settings), folder, None).as_plain()))
    for part in PARTS:
        arguments = settings["init_args"][part]["init_args"]
        for name, value in getattr(opened.model, part).standalone(folder / part).items():
            is_file = isinstance(value, Path)
            arguments[name] = f"{IN_FOLDER}{value.relative_to(folder).as_posix()}" if is_file else value
    size = {} if opened.size is None else {IMAGE_SIZE: list(opened.size)}
    recipe = {FORMAT: VERSION, "model": settings, **size}
    Run(folder).recipe.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")


def _without_aliases(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out second names of the same tensor, which a file of safetensors cannot hold."""
    names: dict[Any, str] = {}
    for name, weight in weights.items():
        key = (weight.data_ptr(), weight.shape, weight.stride(), weight.dtype) if weight.numel() else name
        names.setdefault(key, name)
    return {name: weights[name] for name in names.values()}


def upload(folder: Path, repo_id: str, private: bool, token: str | None, commit_message: str) -> str:
    """Upload a saved folder into a repository of the hub, created if necessary; returns the address of the commit.

    Raises:
        UserError: The hub refuses or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=created.repo_id, folder_path=folder, commit_message=commit_message))
    except Exception as error:  # The network's errors are those of an HTTP library that changes with the hub's.
        raise UserError(f"{repo_id}: the upload to the hub failed ({one_line(error)})") from error


CARD = """---
{metadata}
---

# {title}

Reasons in words and boxes before it generates or edits an image (GoT, arXiv 2503.10639). Opened with got-framework:

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

Images are {size} unless a call says otherwise. `config.yaml` names all classes and their arguments;
`model.safetensors` has all weights.
"""


def model_card(opened: OpenedModel, title: str, address: str) -> str:
    """Write what the model is made of and how it is opened, in Markdown."""
    rows = []
    for part in PARTS:
        parameters = sum(parameter.numel() for parameter in getattr(opened.model, part).parameters())
        rows.append(f"| {part} | `{opened.settings['init_args'][part]['class_path']}` | {parameters:,} |")
    size = "of any size" if opened.size is None else f"{opened.size[1]} x {opened.size[0]} pixels"
    data = ModelCardData(library_name="got-framework", pipeline_tag="text-to-image", tags=["image-editing", "got"])
    return CARD.format(metadata=data.to_yaml(), title=title, address=address, components="\n".join(rows), size=size)
