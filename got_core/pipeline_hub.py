"""Saved pipelines: written whole with a model card, taken from and pushed to the Hugging Face hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCardData, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from got_core.errors import UserError, one_line
from got_core.interfaces import Scheduler
from got_core.paths import locate
from got_core.schedulers import save_scheduler
from got_core.system import PARTS
from got_core.system_files import OpenedSystem, save_system
from got_core.weight_files import new_folder

FILES = ["*.json", "*.md", "*.safetensors", "*.txt", "*.yaml"]
"""What of a repository is fetched."""

CARD = """---
{metadata}
---

# {title}

Reasons in words and boxes before it draws or edits an image (GoT, arXiv 2503.10639). Opened with got-framework:

```python
from got_core.pipeline import GoTPipeline

pipe = GoTPipeline.from_pretrained("{address}")
plan = pipe.plan("a red circle left of a blue square")[0]
print(plan.chain)
image = pipe.draw(plan).images[0]
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
    opened: OpenedSystem,
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
        save_system(opened, folder, dtype)
        if scheduler is not None:
            save_scheduler(scheduler, folder)
        card = model_card(opened, Path(path).name, address or Path(path).name)
        (folder / "README.md").write_text(card, encoding="utf-8")


def push_pipeline(
    opened: OpenedSystem,
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


def model_card(opened: OpenedSystem, title: str, address: str) -> str:
    """What the model is made of and how it is opened."""
    arguments = opened.settings["init_args"]
    rows = [
        f"| {part} | `{arguments[part]['class_path']}` | {_parameters(getattr(opened.system, part)):,} |"
        for part in PARTS
    ]
    size = "of any size" if opened.size is None else f"{opened.size[1]} x {opened.size[0]} pixels"
    data = ModelCardData(library_name="got-framework", pipeline_tag="text-to-image", tags=["image-editing", "got"])
    metadata = data.to_yaml()
    return CARD.format(metadata=metadata, title=title, address=address, components="\n".join(rows), size=size)


def _parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
