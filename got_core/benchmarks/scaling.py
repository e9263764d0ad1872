"""How time, FLOPs and memory of each stage grow with what is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from got_core.benchmarks.inference import Request
from got_core.benchmarks.measuring import Stopwatch, in_turns
from got_core.benchmarks.models import benchmark_model, requests
from got_core.diffusion.sampling import sample
from got_core.evaluation.efficiency.measure import peak_bytes
from got_core.inspection.costs import on_meta
from got_core.inspection.shapes import ShapeRun, in_shape
from got_core.model import GoTModel

STAGES = ("read", "guide", "denoise", "decode")

AXES: Mapping[str, Sequence[int]] = {
    "boxes": (0, 1, 4, 16, 64),
    "tokens": (50, 100, 250, 500, 1000),
    "side": (64, 128, 256, 512),
    "batch": (1, 2, 4, 8),
    "states": (16, 64, 256),
}
"""What grows, and its values: boxes and tokens of the chain, pixels of a side, requests, states N."""

COUNTED: Mapping[str, Sequence[int]] = {"side": (1024, 2048)}
"""Values for which FLOPs are counted only."""

STEPS = 1
"""Denoising steps that are timed: further ones are alike."""


@dataclass(frozen=True)
class Point:
    """What one value costs.

    Attributes:
        value: On the axis.
        flops: By stage.
        seconds: By stage, medians; empty if it was only counted.
        memory: Peak bytes beside the weights, by stage; empty if it was only counted.
    """

    value: int
    flops: Mapping[str, int]
    seconds: Mapping[str, float]
    memory: Mapping[str, int]


def request_of(axis: str, value: int) -> tuple[Request, int]:
    """Return the request and the batch of a value on an axis; the others are as in `got bench inference`."""
    request = replace(Request(), size=(128, 128))
    if axis == "side":
        return replace(request, size=(value, value)), 1
    if axis == "boxes":  # Each takes some tokens: a chain with many is as long as it must be.
        return replace(request, boxes=value), 1
    if axis == "tokens":
        return replace(request, tokens=value), 1
    return request, value if axis == "batch" else 1


class Stages:
    """The stages of one value, each of which can be run by itself."""

    def __init__(self, model: GoTModel, axis: str, value: int, device: torch.device) -> None:
        self.model = model
        request, number = request_of(axis, value)
        samples = requests(model, number, request.size, request.edit, request.tokens, request.boxes)
        self.batch = model.processor(samples).to(device)

    @torch.no_grad()
    def run(self, name: str, kept: dict[str, Any]) -> None:
        """Run a stage; what it makes stays in `kept` for the next."""
        model, batch = self.model, self.batch
        if name == "read":
            kept["reasoning"] = model.read(batch, batch.chains)
        elif name == "guide":
            kept["guidance"] = model.guidance(kept["reasoning"], batch, model.codec)
        elif name == "denoise":
            noise = model.starting_noise(batch, 0)
            scheduler, scales = model.objective.scheduler(), model.generation_scales
            guidance = kept["guidance"]
            kept["latents"] = sample(model.backbone, model.guidance, guidance, scheduler, noise, scales, STEPS)
        else:
            kept["image"] = model.decode(kept["latents"])

    def task(self, watch: Stopwatch) -> None:
        """Run all stages, timed."""
        kept: dict[str, Any] = {}
        for name in STAGES:
            with watch.stage(name):
                self.run(name, kept)

    def memory(self, device: torch.device) -> dict[str, int]:
        """Return the peak bytes of each stage."""
        kept: dict[str, Any] = {}
        return {name: peak_bytes(lambda name=name: self.run(name, kept), device, 0) for name in STAGES}

    @torch.no_grad()
    def flops(self) -> dict[str, int]:
        """Return the FLOPs of each stage."""
        model, spent, batch = self.model, {}, on_meta(self.batch, torch.float32)
        with in_shape(model), ShapeRun() as run:
            reasoning = model.reasoner(batch)
            spent["read"], before = run.flops, run.flops
            guidance = model.guidance(reasoning, batch, model.codec)
            spent["guide"], before = run.flops - before, run.flops
            shape = (len(batch), *model.latent_shape(batch.size))
            noisy = torch.empty(shape, device="meta")
            model.backbone(noisy, torch.ones(len(batch), device="meta"), guidance)
            spent["denoise"], before = run.flops - before, run.flops
            model.codec.decode(noisy)
            spent["decode"] = run.flops - before
        return spent


def growth(axis: str, backbone: str, repeats: int, device: torch.device) -> list[Point]:
    """Measure all values of an axis in turns, and count those that are too large."""
    if axis == "states":
        models = {value: benchmark_model(backbone, device, value) for value in AXES[axis]}
    else:
        models = dict.fromkeys(AXES[axis], benchmark_model(backbone, device))
    for model in models.values():
        model.merge_adapters()
    stages = {value: Stages(model, axis, value, device) for value, model in models.items()}
    timings = in_turns({str(value): each.task for value, each in stages.items()}, repeats, device)
    points = []
    for value, each in stages.items():
        seconds = {name: timings.median(str(value), name) for name in STAGES}
        points.append(Point(value, each.flops(), seconds, each.memory(device)))
    for value in COUNTED.get(axis, ()):
        points.append(Point(value, Stages(models[AXES[axis][0]], axis, value, device).flops(), {}, {}))
    return points


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of costs over values in logarithms, over the larger half of the values."""
    pairs = [(value, cost) for value, cost in zip(values, costs, strict=True) if value > 0 and cost > 0]
    pairs = pairs[-max(2, (len(pairs) + 1) // 2) :]
    if len(pairs) < 2:
        return 0.0
    x, y = np.log(np.array(pairs, dtype=float)).T
    return float(np.polyfit(x, y, 1)[0])


def growth_table(axis: str, points: Sequence[Point]) -> Table:
    """Return a table of seconds by value, with the exponents of time, FLOPs and memory."""
    table = Table(title=f"Growth with {axis}, milliseconds", title_justify="left")
    measured = [point for point in points if point.seconds]
    table.add_column("")
    for point in measured:
        table.add_column(f"{point.value}", justify="right")
    for kind in ("time", "FLOPs", "memory"):
        table.add_column(f"exponent of {kind}", justify="right")
    values = [point.value for point in measured]
    for name in STAGES:
        seconds = [point.seconds[name] for point in measured]
        flops: list[float] = [point.flops[name] for point in measured]
        memory: list[float] = [point.memory[name] for point in measured]
        curves = [seconds, flops, memory]
        cells = [f"{1000 * each:.1f}" for each in seconds]
        table.add_row(name, *cells, *(f"{exponent(values, curve):.2f}" for curve in curves))
    return table


def draw_growth(curves: Mapping[str, Sequence[Point]], file: Path) -> None:
    """Draw seconds and FLOPs of all axes side by side, both in logarithms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 4), layout="constrained")
    for panel, (axis, points) in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves.items(), strict=True):
        for name in STAGES:
            timed = [point for point in points if point.seconds and point.value > 0]
            (line,) = panel.plot([p.value for p in timed], [p.seconds[name] for p in timed], "o-", label=name)
            counted = [point for point in points if point.value > 0]
            scale = timed[-1].seconds[name] / max(1, timed[-1].flops[name])
            flops = [scale * point.flops[name] for point in counted]
            panel.plot([p.value for p in counted], flops, ":", color=line.get_color())
        panel.set(xscale="log", yscale="log", xlabel=axis, ylabel="seconds" if axis == next(iter(curves)) else None)
        values = [point.value for point in points if point.value > 0]
        panel.set_xticks(values, labels=[str(value) for value in values], minor=False)
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.3)
    figure.axes[0].legend(title="dotted: as FLOPs", fontsize="small")
    figure.savefig(file, dpi=100)


def as_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Return all that was measured and counted."""
    return [asdict(point) for point in points]
