"""Checks on the user's own machines that a killed run continues as if nothing had happened."""

import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from torch import Tensor
from torch.distributed import checkpoint as distributed_checkpoint
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from got_core.errors import UserError
from got_core.paths import Run
from got_core.training.recipe import ResolvedRecipe
from got_core.weights.checkpoints import MetadataReader, read_metadata, read_rest
from got_core.weights.files import write_whole

LAST_CHECKPOINT = "got_core.training.checkpointing.LastCheckpoint"
SCORES = "got_core.evaluation.callbacks."
POLL = 0.05
"""Seconds between two looks at a run that is to be killed."""


@dataclass(frozen=True)
class Verification:
    """How a resumed run compares with an uninterrupted one.

    Attributes:
        killed: The steps of the newest checkpoints when the run was killed, one a kill.
        compared: Tensors of the last checkpoints: weights, averages, optimizer and random states.
        differing: Those that differ, with the largest difference.
    """

    killed: Sequence[int]
    compared: int
    differing: Mapping[str, float]


def short_recipe(recipe: ResolvedRecipe, run: Run, steps: int, every: int) -> dict[str, Any]:
    """Return a recipe's settings for a run of a few steps that saves often and scores nothing."""
    settings: dict[str, Any] = yaml.safe_load(recipe.as_yaml())
    trainer = settings["trainer"]
    callbacks = [each for each in trainer["callbacks"] or [] if not each["class_path"].startswith(SCORES)]
    given = [each["init_args"] or {} for each in callbacks if each["class_path"] == LAST_CHECKPOINT]
    arguments = {**(given[0] if given else {}), "every_n_steps": every}
    trainer["callbacks"] = [
        *(each for each in callbacks if each["class_path"] != LAST_CHECKPOINT),
        {"class_path": LAST_CHECKPOINT, "init_args": arguments},
    ]
    trainer.update(max_steps=steps, limit_val_batches=0, default_root_dir=str(run.folder), enable_progress_bar=False)
    return settings


def verify_resume(
    recipe: ResolvedRecipe, folder: Path, steps: int, every: int, kills: int, launcher: str | None, seed: int
) -> Verification:
    """Train a recipe twice for a few steps, once without interruption and once killed at random, and compare.

    Args:
        recipe: The user's own.
        folder: Of both runs and what they print: new.
        steps: Of a run.
        every: Steps between two checkpoints.
        kills: How often the second run is killed (SIGKILL, with all of its processes here).
        launcher: What starts training on all nodes, such as `srun python -m`; this Python by default.
        seed: Of the moments.

    Raises:
        UserError: A run fails by itself, or ends before it can be killed.
    """
    folder.mkdir(parents=True)
    start = shlex.split(launcher) if launcher else [sys.executable, "-m"]
    checkpoints = []
    killed: list[int] = []
    for name, interruptions in (("uninterrupted", 0), ("killed", kills)):
        run = Run(folder / name)
        file = folder / f"{name}.yaml"
        write_whole(file, yaml.safe_dump(short_recipe(recipe, run, steps, every), sort_keys=False))
        command = [*start, "got_core.cli.main", "fit", "--config", str(file)]
        log = folder / f"{name}.log"
        moments = random.Random(seed)
        for _ in range(interruptions):
            killed.append(_killed(command, run, log, moments, steps, every))
        _ended(command, run, log)
        checkpoints.append(run.last)
    compared, differing = compare(*checkpoints)
    return Verification(killed, compared, differing)


def _started(command: Sequence[str], run: Run, log: Path) -> subprocess.Popen:
    resuming = ["--ckpt_path", "last"] if run.last.exists() else ["--overwrite"]
    with log.open("ab") as output:
        return subprocess.Popen([*command, *resuming], stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _ended(command: Sequence[str], run: Run, log: Path) -> None:
    process = _started(command, run, log)
    try:
        status = process.wait()
    except BaseException:
        _kill(process)
        raise
    if status or not run.last.exists():
        raise UserError(f"training ended with status {status}: see {log}")


def _killed(command: Sequence[str], run: Run, log: Path, moments: random.Random, steps: int, every: int) -> int:
    """Start a run and kill it at random after one of its next checkpoints; return that one's step."""
    begun = _step(run)
    left = (steps - begun - 1) // every
    if left < 1:
        raise UserError(
            f"{steps} steps with a checkpoint every {every} leave no room for so many kills: give more steps"
        )
    wanted = begun + every * moments.randint(1, max(1, left // 2))
    process = _started(command, run, log)
    step, written, seen, interval = begun, _written(run), time.monotonic(), 0.0
    try:
        while step < wanted:
            if process.poll() is not None:
                raise UserError(f"training ended with status {process.returncode} before it was killed: see {log}")
            time.sleep(POLL)
            if (now := _written(run)) != written:
                interval, seen, written, step = time.monotonic() - seen, time.monotonic(), now, _step(run)
        # A moment between this checkpoint and the next one; the first interval has the start in it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.random() * min(interval, 1.0))
    finally:
        _kill(process)
    if (step := _step(run)) >= steps:
        raise UserError(f"training ended before it was killed: give more steps; see {log}")
    return step


def _written(run: Run) -> int | None:
    """When the newest checkpoint, or the link to it, was written; None without one."""
    with suppress(FileNotFoundError):
        return run.last.lstat().st_mtime_ns
    return None


def _step(run: Run) -> int:
    """The step of a run's newest checkpoint; 0 without one."""
    try:
        return int(read_rest(run.last)["global_step"])
    except (UserError, OSError):
        return 0


def _kill(process: subprocess.Popen) -> None:
    """Kill a process with all that it has started, and wait for its end."""
    with suppress(psutil.NoSuchProcess):
        for each in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            with suppress(psutil.NoSuchProcess):
                each.kill()
    process.wait()


def compare(one: Path, other: Path) -> tuple[int, dict[str, float]]:
    """Compare all tensors of two checkpoints of one kind, bit for bit.

    Returns:
        Their number, and the largest difference of each that differs; infinite where only one has it.
    """
    differing: dict[str, float] = {}
    others = dict(_readers(other))
    names = []
    for name, tensor in _readers(one):
        names.append(name)
        if name not in others:
            differing[name] = float("inf")
            continue
        a, b = tensor(), others[name]()
        if a.shape != b.shape or a.dtype != b.dtype:
            differing[name] = float("inf")
        elif not torch.equal(a, b):
            differing[name] = float((a.double() - b.double()).abs().max())
    differing |= dict.fromkeys(others.keys() - set(names), float("inf"))
    return len(names), differing


def _readers(checkpoint: Path) -> Iterator[tuple[str, Any]]:
    """The tensors of a checkpoint by name, each as a function that reads it."""
    if checkpoint.is_dir():
        for name, entry in read_metadata(checkpoint).state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata):
                yield name, lambda name=name, entry=entry: _shard(checkpoint, name, entry)
    for name, tensor in _tensors(read_rest(checkpoint), ""):
        yield name, lambda tensor=tensor: tensor


def _shard(checkpoint: Path, name: str, entry: TensorStorageMetadata) -> Tensor:
    tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
    distributed_checkpoint.load({name: tensor}, storage_reader=MetadataReader(checkpoint), no_dist=True)
    return tensor


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _tensors(inner, f"{name}.{index}")
