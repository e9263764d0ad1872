"""Time by stage and memory of drawing one image, measured."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

STAGES = ("reason", "guide", "denoise", "decode")
"""Of drawing an image: writing a chain and summing it up; encoding what guides; all denoising steps; decoding."""

ROLES = ("reasoner or text encoders", "guidance encoder", "denoiser", "autoencoder")
"""What has weights."""

LARGEST_ON_CPU = 500_000_000
"""Parameters above which nothing is timed on a CPU."""

ROOM = 1.5
"""Free memory of a GPU that is asked for, over that of the weights."""

MEMORY_STEPS = 2
"""Denoising steps at which memory is measured: a further one needs no more."""


STDERR = 2
"""The file descriptor of errors."""


class Clock:
    """Notes how long each stage takes; work on an accelerator is waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = 0.0

    def start(self) -> None:
        """What follows is timed."""
        self._last = self._now()

    def mark(self, stage: str) -> None:
        """What came since the last mark was of that stage."""
        now = self._now()
        self.seconds[stage] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


class Drawer(ABC):
    """Something that draws images, built on a device or in shape alone.

    Attributes:
        name: What tables call it.
        size: (height, width) of its images in pixels.
        steps: Denoising steps.
        passes: Of the denoiser in a step.
    """

    name: str
    size: tuple[int, int]
    steps: int
    passes: int

    @abstractmethod
    def modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """Its models, by their role."""

    @abstractmethod
    def flops(self) -> Mapping[str, int]:
        """Floating-point operations of an image, by stage, found in shape alone."""

    @abstractmethod
    def draw(self, clock: Clock, steps: int) -> None:
        """Draw an image in so many steps, and mark the end of each stage."""


@dataclass(frozen=True)
class Latency:
    """Seconds of a stage over repeats: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Latency":
        """Of measured seconds, at least one."""
        low, median, high = np.quantile(np.array(seconds), [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high)


def parameter_counts(drawer: Drawer) -> dict[str, int]:
    """Parameters by role, shared ones once."""
    return {
        role: sum(p.numel() for p in {id(p): p for m in models for p in m.parameters()}.values())
        for role, models in drawer.modules().items()
    }


def obstacle(parameters: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why models of so many parameters are not measured on a device; None where they are."""
    if device.type == "cpu":
        if parameters > LARGEST_ON_CPU:
            return f"{parameters / 1e9:.2f} billion parameters are measured on a GPU only"
        return None
    free, _ = torch.accelerator.get_memory_info(device)
    needed = ROOM * parameters * dtype.itemsize
    return f"needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free" if needed > free else None


@torch.no_grad()
def latencies(drawer: Drawer, device: torch.device, repeats: int, warm_up: int) -> dict[str, Latency]:
    """Seconds by stage, and `all` of them, over repeats after runs that are not counted."""
    clocks = []
    for run in range(warm_up + repeats):
        clock = Clock(device)
        drawer.draw(clock, drawer.steps)
        if run >= warm_up:
            clocks.append(clock)
    found = {stage: Latency.of([clock.seconds[stage] for clock in clocks]) for stage in STAGES}
    return {**found, "all": Latency.of([sum(clock.seconds.values()) for clock in clocks])}


@torch.no_grad()
def drawing_memory(drawer: Drawer, device: torch.device) -> int:
    """The most bytes that drawing an image takes, weights included."""
    steps = min(drawer.steps, MEMORY_STEPS)
    weights = {
        id(t): t for models in drawer.modules().values() for m in models for t in (*m.parameters(), *m.buffers())
    }
    held = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return peak_bytes(lambda: drawer.draw(Clock(device), steps), device, held)


def peak_bytes(run: Callable[[], None], device: torch.device, held: int) -> int:
    """The most bytes at a time while something runs.

    On a GPU by the allocator's own count. On a CPU by the allocator's record of what is made while it runs, with what
    is held before added.

    Args:
        run: What is measured.
        device: Where it runs.
        held: Bytes of tensors that are there already.
    """
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        run()
        return torch.accelerator.max_memory_allocated(device)
    with _silenced(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda entry: entry.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return held + peak


@contextmanager
def _silenced() -> Iterator[None]:
    """Without what the profiler's own code writes to stderr, of itself and of GPUs that are not asked for."""
    former, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(former, STDERR)
        os.close(former)
        os.close(nowhere)
