"""What a machine has for runs: cores or GPUs."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from got_core.evaluation.processor import processor

VISIBLE = "CUDA_VISIBLE_DEVICES"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Slot:
    """A place for one process at a time.

    Attributes:
        environment: What is added to the process's environment.
        arguments: Of Lightning's Trainer.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def slots(jobs: int | None = None, gpus: list[str] | None = None) -> list[Slot]:
    """One slot a GPU where there are any, else one a core.

    Args:
        jobs: So many slots instead; GPUs are then shared, or some are left.
        gpus: Ids of the GPUs, as CUDA_VISIBLE_DEVICES has them; those of this machine when None.
    """
    gpus = visible_gpus() if gpus is None else gpus
    if not gpus:
        alone = Slot(("--trainer.accelerator=cpu", "--trainer.devices=1"), {**ONE_THREAD, VISIBLE: ""})
        return [alone] * (jobs or cores())
    arguments = ("--trainer.accelerator=gpu", "--trainer.devices=1")
    return [Slot(arguments, {VISIBLE: gpus[place % len(gpus)]}) for place in range(jobs or len(gpus))]


def crowded(places: Sequence[Slot]) -> bool:
    """Whether there is a process for every core already, so that more of them to load samples gain nothing."""
    return len(places) >= cores() and not any(place.environment[VISIBLE] for place in places)


def visible_gpus() -> list[str]:
    """The ids of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    return given.split(",")[:count] if given else [str(place) for place in range(count)]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    """What results name of this machine."""
    gpus = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": processor(), "cores": cores(), "gpus": gpus}
