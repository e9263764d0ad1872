"""Time by stage, FLOPs and memory of generating one image with a model, measured and put in a table."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile

from got_core.diffusion.sampling import Branch, branches, sample
from got_core.inspection.costs import shape_batch, typical_samples
from got_core.inspection.shapes import META, ShapeRun, in_shape
from got_core.model import PARTS, GoTModel
from got_core.types import Batch, Guidance, Sample

STAGES = ("reason", "guide", "denoise", "decode")
"""Of generating an image: writing and summarizing a chain; encoding guidance; all denoising steps; decoding."""

ROLES = ("reasoner or text encoders", "guidance encoder", "denoiser", "autoencoder")
"""Of models with weights."""

LARGEST_ON_CPU = 500_000_000
"""Parameters above which nothing is timed on a CPU."""

ROOM = 1.5
"""Free memory of a GPU that is required, as a multiple of that of the weights."""

MEMORY_STEPS = 2
"""Denoising steps at which memory is measured: a further one needs no more."""


STDERR = 2
"""The file descriptor of errors."""


class Clock:
    """Measures how long each stage takes; waits for work on an accelerator."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = 0.0

    def start(self) -> None:
        """Start timing."""
        self._last = self._now()

    def mark(self, stage: str) -> None:
        """Add the time since the last mark to a stage."""
        now = self._now()
        self.seconds[stage] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


class Workload(ABC):
    """A pipeline that generates an image, built on a device or in shape alone.

    Attributes:
        name: In tables.
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
        """Return its models by role."""

    @abstractmethod
    def flops(self) -> Mapping[str, int]:
        """Return floating-point operations of an image by stage, computed in shape alone."""

    @abstractmethod
    def run(self, clock: Clock, steps: int) -> None:
        """Generate an image in `steps` steps, and mark the end of each stage."""


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


def parameter_counts(workload: Workload) -> dict[str, int]:
    """Return numbers of parameters by role; shared ones count once."""
    return {
        role: sum(p.numel() for p in {id(p): p for m in models for p in m.parameters()}.values())
        for role, models in workload.modules().items()
    }


def obstacle(parameters: int, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why models of so many parameters are not measured on a device; None if they are."""
    if device.type == "cpu":
        if parameters > LARGEST_ON_CPU:
            return f"{parameters / 1e9:.2f} billion parameters are measured on a GPU only"
        return None
    free, _ = torch.accelerator.get_memory_info(device)
    needed = ROOM * parameters * dtype.itemsize
    return f"needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free" if needed > free else None


@torch.no_grad()
def latencies(workload: Workload, device: torch.device, repeats: int, warm_up: int) -> dict[str, Latency]:
    """Return seconds by stage, and of `all`, over repeats after warm-up runs."""
    clocks = []
    for run in range(warm_up + repeats):
        clock = Clock(device)
        workload.run(clock, workload.steps)
        if run >= warm_up:
            clocks.append(clock)
    found = {stage: Latency.of([clock.seconds[stage] for clock in clocks]) for stage in STAGES}
    return {**found, "all": Latency.of([sum(clock.seconds.values()) for clock in clocks])}


@torch.no_grad()
def peak_memory(workload: Workload, device: torch.device) -> int:
    """Return the peak memory of generating an image in bytes, weights included."""
    steps = min(workload.steps, MEMORY_STEPS)
    weights = {
        id(t): t for models in workload.modules().values() for m in models for t in (*m.parameters(), *m.buffers())
    }
    held = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return peak_bytes(lambda: workload.run(Clock(device), steps), device, held)


def peak_bytes(run: Callable[[], None], device: torch.device, held: int) -> int:
    """Return the peak memory of a run in bytes.

    On a GPU it is the allocator's own count. On a CPU it is the peak of the profiler's record of allocations, plus what
    was allocated before.

    Args:
        run: What to measure.
        device: Where it runs.
        held: Bytes of tensors that exist already.
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
    """Hide what the profiler writes to stderr about itself and about GPUs that are not used."""
    stderr, nowhere = os.dup(STDERR), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDERR)
    try:
        yield
    finally:
        os.dup2(stderr, STDERR)
        os.close(stderr)
        os.close(nowhere)


MEGA, GIGA = 1e6, 1e9

NOTE = (
    "Of one image. Steps are those of denoising, times the denoiser's passes in each. Seconds are medians (quartiles). "
    "Reason: FLOPs are of a chain of the published length, seconds of the chain that these weights write. Peak memory "
    "holds the weights; on a CPU it is what the allocator records."
)

NOTHING = "-"
"""In tables: there is none, or it was not measured."""


@dataclass(frozen=True)
class Measured:
    """What generating an image costs.

    Attributes:
        name: Of the workload.
        size: (height, width) in pixels.
        steps, passes: Denoising steps, and passes of the denoiser in each.
        parameters: By role.
        flops: By stage.
        latency: By stage, and `all`; None if it was not measured.
        memory: Peak in bytes, weights included; None if it was not measured.
        reason: Why time and memory were not measured; empty if they were.
    """

    name: str
    size: tuple[int, int]
    steps: int
    passes: int
    parameters: Mapping[str, int]
    flops: Mapping[str, int]
    latency: Mapping[str, Latency] | None
    memory: int | None
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Return everything, with sums."""
        return asdict(self) | {
            "size": list(self.size),
            "parameters": {**self.parameters, "all": sum(self.parameters.values())},
            "flops": {**self.flops, "all": sum(self.flops.values())},
        }


def measured(workload: Workload, device: torch.device, repeats: int, warm_up: int, reason: str = "") -> Measured:
    """Measure a workload.

    Args:
        workload: Built on the device, or in shape alone where there is a reason.
        device: Where it runs.
        repeats, warm_up: Runs that are timed, and runs before them.
        reason: Why only parameters and FLOPs are measured.
    """
    return Measured(
        name=workload.name,
        size=workload.size,
        steps=workload.steps,
        passes=workload.passes,
        parameters=parameter_counts(workload),
        flops=workload.flops(),
        latency=None if reason else latencies(workload, device, repeats, warm_up),
        memory=None if reason else peak_memory(workload, device),
        reason=reason,
    )


def why_not(workload: Workload, dtype: torch.dtype, device: torch.device) -> str | None:
    """Return why a workload cannot be measured on a device; None if it can."""
    return obstacle(sum(parameter_counts(workload).values()), dtype, device)


def efficiency_table(found: Sequence[Measured], title: str) -> Table:
    """Return a table with a column for each workload."""
    table = Table(title=title, title_justify="left", caption=NOTE, caption_justify="left")
    table.add_column("", overflow="fold")
    for entry in found:
        table.add_column(entry.name, justify="right", overflow="fold")
    table.add_row("pixels", *(f"{entry.size[0]}x{entry.size[1]}" for entry in found))
    table.add_row("steps", *(f"{entry.steps} x {entry.passes}" for entry in found), end_section=True)
    _rows(table, "params, M", ROLES, [entry.parameters for entry in found], MEGA)
    _rows(table, "GFLOP", STAGES, [entry.flops for entry in found], GIGA)
    table.add_row("seconds")
    for stage in (*STAGES, "all"):
        table.add_row(f"  {stage}", *(_seconds(entry, stage) for entry in found), end_section=stage == "all")
    table.add_row("peak GB", *(NOTHING if e.memory is None else f"{e.memory / GIGA:,.3f}" for e in found))
    return table


def _rows(table: Table, heading: str, names: Sequence[str], values: Sequence[Mapping[str, int]], unit: float) -> None:
    table.add_row(heading)
    for name in names:
        table.add_row(f"  {name}", *(f"{own[name] / unit:,.2f}" if own[name] else NOTHING for own in values))
    table.add_row("  all", *(f"{sum(own.values()) / unit:,.2f}" for own in values), end_section=True)


def _seconds(entry: Measured, stage: str) -> str:
    if entry.latency is None or not entry.latency[stage].median:
        return NOTHING
    spent = entry.latency[stage]
    return f"{spent.median:.3f} ({spent.low:.3f}, {spent.high:.3f})"


CHAIN_TOKENS = 256
"""A chain is cut here while timing: about as many tokens as the published 860 characters."""

SPREAD = 0.02
"""Standard deviation of random weights."""

CPU = torch.device("cpu")


class ModelWorkload(Workload):
    """Generates a text-to-image sample whose prompt and chain are as long as those of the reference's datasets.

    Time: the reasoner writes a chain from the prompt, greedily, of at most `CHAIN_TOKENS`; the other stages use the
    typical chain with its four boxes, so that they are the same for any weights. FLOPs of `reason` are those of one
    pass over prompt, typical chain and image tokens: token by token with a cache, the products are the same.

    Args:
        model: Built, on a device or in shape alone.
        name: In tables.
        size: (height, width) in pixels.
        steps: Denoising steps; the model's own by default.
        dtype: Of the model's weights.
    """

    def __init__(
        self,
        model: GoTModel,
        name: str,
        size: tuple[int, int],
        steps: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model = model.eval()
        self.name, self.size, self.dtype = name, size, dtype
        self.steps = steps or model.sampling_steps
        self.branches = branches(
            model.generation_scales,
            1,
            CPU,
            model.guidance.spatial_channels is not None,
            model.guidance.reference_channels is not None,
        )
        self.passes = len(self.branches)

    @property
    def most_tokens(self) -> int:
        """The longest chain in tokens."""
        return min(self.model.max_chain_tokens, CHAIN_TOKENS)

    def modules(self) -> Mapping[str, Sequence[nn.Module]]:
        """Return its models by role."""
        return dict(zip(ROLES, ([getattr(self.model, name)] for name in PARTS), strict=True))

    @torch.no_grad()
    def flops(self) -> Mapping[str, int]:
        """Return FLOPs by stage; each step costs the same."""
        model, codec = self.model, self.model.codec
        with in_shape(model, self.dtype):
            batch = shape_batch(model, self._samples(), self.dtype)
            with ShapeRun() as run:
                reasoning = model.reasoner(batch)
                reasoned = run.flops
                guidance = model.guidance(reasoning, batch, codec)
                guided = run.flops
                parts = Guidance.cat([self._part(guidance, branch) for branch in self.branches])
                bound = run.flops
                height, width = (side // codec.downsample for side in self.size)
                noisy = torch.empty(self.passes, codec.latent_channels, height, width, device=META, dtype=self.dtype)
                model.backbone(noisy, torch.ones(self.passes, device=META), parts)
                step = run.flops - bound
                codec.decode(noisy[:1])
                decoding = run.flops - bound - step
        denoising = bound - guided + self.steps * step
        return {"reason": reasoned, "guide": guided - reasoned, "denoise": denoising, "decode": decoding}

    @torch.no_grad()
    def run(self, clock: Clock, steps: int) -> None:
        """Reason, guide, denoise and decode."""
        model, device = self.model, clock.device
        batch = self._batch(device)
        noise = model.starting_noise(batch, 0).to(self.dtype)
        mixed = torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)
        with mixed:
            clock.start()
            reasoning = model.reasoner.generate(batch, max_new_tokens=self.most_tokens)
            clock.mark("reason")
            guidance = model.guidance(replace(reasoning, chains=batch.chains), batch, model.codec)
            clock.mark("guide")
            latents = sample(
                model.backbone,
                model.guidance,
                guidance,
                model.objective.scheduler(),
                noise,
                model.generation_scales,
                steps,
            )
            clock.mark("denoise")
            model.codec.decode(latents)
            clock.mark("decode")

    def _samples(self) -> list[Sample]:
        return typical_samples(self.size, 1, edit=False)

    def _batch(self, device: torch.device) -> Batch:
        batch = self.model.processor(self._samples())
        inputs = {
            name: value.to(self.dtype) if value.is_floating_point() else value for name, value in batch.inputs.items()
        }
        return replace(batch, source=batch.source.to(self.dtype), target=None, inputs=inputs).to(device)

    def _part(self, guidance: Guidance, branch: Branch) -> Guidance:
        """The guidance of a branch, as `got_core.diffusion.sampling` makes it."""
        kept = (branch.semantic, branch.spatial, branch.reference)
        masks = (torch.full((1,), not part, device=META) for part in kept)
        return self.model.guidance.drop(guidance, *masks)


def random_weights(model: GoTModel, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a model that was built in shape alone small random weights.

    Buffers that were made in shape alone, such as rotary frequencies, become zeros: time and memory do not depend on
    their values.
    """
    generator = torch.Generator(device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for part in model.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    shape = torch.empty(parameter.shape, device=device, dtype=dtype)
                    made[id(parameter)] = nn.Parameter(shape.normal_(std=SPREAD, generator=generator), False)
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                kind = dtype if buffer.is_floating_point() else buffer.dtype
                zeros = torch.zeros(buffer.shape, dtype=kind, device=device)
                part._buffers[name] = zeros if buffer.is_meta else buffer.to(device, kind)
