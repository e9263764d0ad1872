"""A system that can be drawn with: opened from folders and the hub, and written to them."""

from pathlib import Path
from typing import Any, TypeVar

import torch

from got_core.errors import UserError
from got_core.pipeline_hub import local_folder, push_pipeline, save_pipeline
from got_core.system import GoTSystem
from got_core.system_files import OpenedSystem, open_system

P = TypeVar("P", bound="StoredPipeline")


class StoredPipeline:
    """A system in evaluation mode with what it was built from.

    Args:
        system, size, settings: As `got_core.pipeline.GoTPipeline` has them.
    """

    def __init__(self, system: GoTSystem, size: tuple[int, int], settings: dict[str, Any] | None = None) -> None:
        self.system = system.eval()
        self.size = size
        self._settings = settings

    @classmethod
    def from_pretrained(
        cls: type[P],
        path: str | Path,
        device: torch.device | str | None = None,
        size: tuple[int, int] | None = None,
        **hub: Any,
    ) -> P:
        """Open a run's folder (its newest checkpoint), a checkpoint in it, an imported or saved folder, or a hub id.

        Averaged weights are loaded where the run averaged them.

        Args:
            path: Folder, checkpoint or hub id.
            device: Where to run; the best there is by default.
            size: (height, width) in pixels; that of the training data by default.
            hub: Arguments of `huggingface_hub.snapshot_download`, such as `revision`, `token` and `cache_dir`.

        Raises:
            FileNotFoundError: There is no such run or checkpoint, here or on the hub.
            UserError: The recipe or the checkpoint is not of a GoTSystem, or does not fit it.
        """
        opened = open_system(local_folder(path, **hub))
        size = size or opened.size
        if size is None:
            raise UserError(f"{path} does not say how large its images are: give a size")
        return cls(opened.system.to(device or default_device()), size, dict(opened.settings))

    def save_pretrained(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a self-contained folder for `from_pretrained`: configurations, safetensors and a model card.

        Args:
            path: A new folder; it appears whole or not at all.
            dtype: Of the weights in the file; that of the system by default.

        Raises:
            UserError: There is something in that place already, it cannot be written to, or the pipeline was made from
                a system without its settings.
        """
        save_pipeline(self._opened(), path, dtype)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Save into a repository of the Hugging Face hub, which is made if need be; returns the address of the commit.

        Raises:
            UserError: As `save_pretrained`; or the hub refuses.
        """
        return push_pipeline(self._opened(), repository, private, token)

    def to(self: P, device: torch.device | str) -> P:
        """Move to another device; returns the pipeline."""
        self.system.to(device)
        return self

    def _opened(self) -> OpenedSystem:
        if self._settings is None:
            raise UserError("this pipeline was made without `settings`: there is nothing to build it from again")
        return OpenedSystem(self.system, self._settings, self.size)


def default_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")
