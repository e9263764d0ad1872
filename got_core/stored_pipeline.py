"""A system that can be drawn with: opened from folders and the hub, and written to them."""

from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import torch

from got_core.errors import UserError
from got_core.interfaces import Scheduler
from got_core.paths import BUNDLED_MODEL
from got_core.pipeline_hub import local_folder, push_pipeline, save_pipeline
from got_core.schedulers import check_scheduler, read_scheduler
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
        self._own_scheduler = system.objective.scheduler()
        self._set_scheduler: Scheduler | None = None

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that images are drawn with, by default the objective's own; each call uses a copy.

        Any of diffusers may be set that fits the objective (ValueError otherwise); `scheduler_named` makes them. It is
        saved with the pipeline.
        """
        return self._set_scheduler or self._own_scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Scheduler) -> None:
        check_scheduler(self.system.objective, deepcopy(scheduler))
        self._set_scheduler = None if scheduler is self._own_scheduler else scheduler

    @classmethod
    def from_pretrained(
        cls: type[P],
        path: str | Path = BUNDLED_MODEL,
        device: torch.device | str | None = None,
        size: tuple[int, int] | None = None,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> P:
        """Open a run's folder (its newest checkpoint), a checkpoint in it, an imported or saved folder, or a hub id.

        Averaged weights are loaded where the run averaged them. Only components and plain values are read of a
        recipe (`got_core.inference_settings`), and of the hub only what `save_pretrained` has written.

        Args:
            path: Folder, checkpoint or hub id; by default the small model of coloured shapes that comes along.
            device: Where to run; the best there is by default.
            size: (height, width) in pixels; that of the training data by default.
            revision, token, cache_dir, local_files_only: Of the hub, as `huggingface_hub.snapshot_download` has them.

        Raises:
            FileNotFoundError: There is no such run or checkpoint, here or on the hub.
            UserError: The recipe or the checkpoint is not of a GoTSystem, names something that models are not opened
                with, or does not fit.
        """
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        place, fetched = local_folder(path, **hub)
        opened = open_system(place, fetched)
        size = size or opened.size
        if size is None:
            raise UserError(f"{path} does not say how large its images are: give a size")
        scheduler = read_scheduler(opened.system.objective, place)
        pipeline = cls(opened.system.to(device or default_device()), size, dict(opened.settings))
        if scheduler is not None:
            pipeline.scheduler = scheduler
        return pipeline

    def save_pretrained(self, save_directory: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a self-contained folder for `from_pretrained`: configurations, safetensors and a model card.

        Args:
            save_directory: A new folder; it appears whole or not at all.
            dtype: Of the weights in the file; that of the system by default.

        Raises:
            UserError: There is something in that place already, it cannot be written to, or the pipeline was made from
                a system without its settings or has a scheduler that is none of diffusers'.
        """
        save_pipeline(self._opened(), save_directory, dtype, scheduler=self._set_scheduler)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        commit_message: str = "Upload GoTPipeline",
    ) -> str:
        """Save into a repository of the Hugging Face hub, which is made if need be; returns the address of the commit.

        Raises:
            UserError: As `save_pretrained`; or the hub refuses or cannot be reached.
        """
        return push_pipeline(self._opened(), repo_id, private, token, commit_message, self._set_scheduler)

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
