"""Times tasks against each other in one process, in turns, so that whatever slows the machine slows all of them."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap

from got_core.evaluation.results import processor, versions
from got_core.evaluation.statistics import DRAWS, LEVEL

WHOLE = "whole"
"""The sum of a task's stages."""


@dataclass
class Spent:
    """Seconds of a stage.

    Attributes:
        cpu: Of all threads of this process.
        wall: On the clock.
    """

    cpu: float = 0.0
    wall: float = 0.0


class Stopwatch:
    """Adds up the seconds of stages of one run; waits for an accelerator's work.

    Attributes:
        stages: Seconds by stage, in the order of their first end.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stages: dict[str, Spent] = {}

    @contextmanager
    def stage(self, name: str, times: float = 1.0) -> Iterator[None]:
        """Time what is inside as a stage, `times` over."""
        cpu, wall = self._now()
        yield
        then_cpu, then_wall = self._now()
        spent = self.stages.setdefault(name, Spent())
        spent.cpu += times * (then_cpu - cpu)
        spent.wall += times * (then_wall - wall)

    def _now(self) -> tuple[float, float]:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.process_time(), time.perf_counter()


Task = Callable[[Stopwatch], None]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as a baseline, with the 95% interval of the median over turns."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = "" if isnan(self.low) else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.median:.2f}x{spread}"


@dataclass(frozen=True)
class Timings:
    """Runs of tasks in turns.

    Attributes:
        runs: Of each task, the seconds by stage of each turn.
        clock: Which seconds count: those of the CPU, or on the clock where an accelerator works.
    """

    runs: Mapping[str, Sequence[Mapping[str, Spent]]]
    clock: str

    def seconds(self, task: str, stage: str) -> np.ndarray:
        """Return the seconds of a task's stage, or of the `WHOLE`, of each turn."""
        stages = [run if stage == WHOLE else {stage: run[stage]} for run in self.runs[task]]
        return np.array([sum(getattr(spent, self.clock) for spent in run.values()) for run in stages])

    def median(self, task: str, stage: str = WHOLE) -> float:
        """Return the median of `seconds`."""
        return float(np.median(self.seconds(task, stage)))

    def ratio(self, baseline: str, task: str, stage: str = WHOLE) -> Ratio:
        """Return how many times as fast as the baseline of the same turn a task is."""
        ratios = self.seconds(baseline, stage) / self.seconds(task, stage)
        return Ratio(*median_and_interval(ratios))

    def as_json(self) -> dict[str, Any]:
        """Return the seconds of every run."""
        runs = {task: [{stage: asdict(spent) for stage, spent in run.items()} for run in runs]
                for task, runs in self.runs.items()}  # fmt: skip
        return {"clock": self.clock, "seconds": runs}


def median_and_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Return the median with its 95% bootstrap interval, which is NaN for a single value."""
    if len(values) < 2:
        return float(values[0]), nan, nan
    found = bootstrap(
        (np.asarray(values),), np.median, n_resamples=DRAWS, confidence_level=LEVEL, method="percentile", rng=0
    ).confidence_interval
    return float(np.median(values)), float(found.low), float(found.high)


def in_turns(tasks: Mapping[str, Task], repeats: int, device: torch.device, warm_up: int = 1) -> Timings:
    """Run tasks A B C A B C ...; the first turns are not counted."""
    runs: dict[str, list[dict[str, Spent]]] = {name: [] for name in tasks}
    for turn in range(warm_up + repeats):
        for name, task in tasks.items():
            watch = Stopwatch(device)
            with torch.no_grad():
                task(watch)
            if turn >= warm_up:
                runs[name].append(watch.stages)
    return Timings(runs, "cpu" if device.type == "cpu" else "wall")


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a benchmark ran on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"machine": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "versions": versions()}
