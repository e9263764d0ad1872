"""How far each stage is from what the machine can do: its FLOPs and weights against a measured rate and bandwidth."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from got_core.benchmarks.measuring import Stopwatch, in_turns
from got_core.benchmarks.models import benchmark_model
from got_core.benchmarks.scaling import Stages
from got_core.diffusion.sampling import branches
from got_core.model import GoTModel

WRITE = "write a token"
READ, GUIDE, DENOISE, DECODE = "read", "guide", "denoise", "decode"

SIDE = 2048
"""Of the square matrices whose product is the machine's rate."""

NUMBERS = 2**27
"""Of the tensor whose sum is the machine's bandwidth: 512 MiB, more than caches hold."""

TOKENS = 32
"""Tokens that are written."""


@dataclass(frozen=True)
class Distance:
    """A stage beside the machine.

    Attributes:
        seconds: Median over turns.
        flops: Floating-point operations.
        bytes: Of the weights, each read once; activations are not counted.
        limit: Seconds that the slower of arithmetic and reading takes at the machine's measured best.
    """

    seconds: float
    flops: float
    bytes: float
    limit: float

    @property
    def share(self) -> float:
        """Return which part of the stage's seconds the limit is."""
        return self.limit / self.seconds


def machine_limits(device: torch.device) -> tuple[float, float]:
    """Return FLOPs a second of a matrix product, and bytes a second of a sum, each the best of five."""
    matrix = torch.randn(SIDE, SIDE, device=device)
    numbers = torch.ones(NUMBERS, device=device)
    tasks: Mapping[str, Callable[[], Tensor]] = {"product": lambda: matrix @ matrix, "sum": numbers.sum}

    def timed(task: Callable[[], Tensor]) -> Callable[[Stopwatch], None]:
        def run(watch: Stopwatch) -> None:
            with watch.stage("all"):
                task()

        return run

    timings = in_turns({name: timed(task) for name, task in tasks.items()}, 5, device)
    product, total = (float(np.min(timings.seconds(name, "all"))) for name in tasks)
    return 2 * SIDE**3 / product, NUMBERS * numbers.element_size() / total


def distances(backbone: str, repeats: int, device: torch.device) -> tuple[dict[str, Distance], tuple[float, float]]:
    """Measure each stage of a text-to-image request, and the machine.

    Args:
        backbone: Of `got_core.benchmarks.models.BACKBONES`.
        repeats: Turns that are counted.
        device: Where it runs.

    Returns:
        The stages by name, and the machine's FLOPs and bytes a second.
    """
    model = benchmark_model(backbone, device)
    model.merge_adapters()
    stages = Stages(model, "batch", 1, device)

    def task(watch: Stopwatch) -> None:
        with watch.stage(WRITE, 1 / TOKENS):
            model.reasoner.generate(stages.batch, max_new_tokens=TOKENS)
        stages.task(watch)

    timings = in_turns({"all": task}, repeats, device)
    rate, bandwidth = machine_limits(device)
    flops, read = _flops(model, stages), _bytes(model)
    found = {}
    for name in (WRITE, READ, GUIDE, DENOISE, DECODE):
        limit = max(flops[name] / rate, read[name] / bandwidth)
        found[name] = Distance(timings.median("all", name), flops[name], read[name], limit)
    return found, (rate, bandwidth)


def _flops(model: GoTModel, stages: Stages) -> dict[str, float]:
    """Return FLOPs by stage: those of a token are its part of the reading, and a step has several passes."""
    counted = stages.flops()
    encoder, device = model.guidance, stages.batch.source.device
    has_spatial, has_reference = encoder.spatial_channels is not None, encoder.reference_channels is not None
    passes = branches(model.generation_scales, 1, device, has_spatial, has_reference)
    tokens = stages.batch.inputs["input_ids"].shape[1]
    return {**counted, WRITE: counted[READ] / tokens, DENOISE: len(passes) * counted[DENOISE]}


def _bytes(model: GoTModel) -> dict[str, float]:
    """Return the bytes of the weights that a stage reads; text-to-image uses no vision tower."""
    reasoner: Any = model.reasoner
    language = _size(reasoner.qwen) - _size(reasoner.qwen.model.visual)
    codec = _size(model.codec)
    parts = {READ: language, GUIDE: codec + _size(model.guidance), DENOISE: _size(model.backbone), DECODE: codec / 2}
    return {WRITE: language, **parts}


def _size(module: nn.Module) -> float:
    return float(sum(weight.numel() * weight.element_size() for weight in module.parameters()))


def limits_table(backbone: str, found: Mapping[str, Distance], machine: tuple[float, float]) -> Table:
    """Return a table of stages: seconds, what limits them, and which part of the seconds the limit is."""
    rate, bandwidth = machine
    table = Table(
        title=f"{backbone}: a request beside {rate / 1e9:,.0f} GFLOP/s and {bandwidth / 1e9:,.1f} GB/s, measured",
        title_justify="left",
        caption=f"farthest from its limit: {min(found, key=lambda name: found[name].share)}",
        caption_justify="left",
    )
    for heading in ("", "ms", "GFLOP", "MB of weights", "limit, ms", "limit / ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, stage in found.items():
        cells = (1e3 * stage.seconds, stage.flops / 1e9, stage.bytes / 1e6, 1e3 * stage.limit, stage.share)
        table.add_row(name, *(f"{cell:,.2f}" for cell in cells))
    return table


def as_json(found: Mapping[str, Distance]) -> dict[str, Any]:
    """Return all that was measured and counted."""
    return {name: {**asdict(stage), "share": stage.share} for name, stage in found.items()}
