"""Memory of generating an image: what is predicted in shape alone, and what is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table

from got_core.benchmarks.inference import Request
from got_core.benchmarks.models import benchmark_model, requests
from got_core.evaluation.efficiency.measure import MEMORY_STEPS, peak_bytes
from got_core.inspection.inference import GIGA, inference_memory
from got_core.pipelines.pipeline import GoTPipeline
from got_core.planning.plan import Plan

WAYS = {"all on the device": None, "--offload model": "model", "--offload layer": "layer"}
"""Where weights wait, in words and as `got generate --offload` names it."""


@dataclass(frozen=True)
class PeakMemory:
    """The most bytes at a time of one way to generate an image.

    Attributes:
        backbone: Of `got_core.benchmarks.models`.
        edit: Whether an image is edited.
        way: Of `WAYS`.
        tiling: Whether the codec works in tiles.
        predicted, measured: Bytes.
    """

    backbone: str
    edit: bool
    way: str
    tiling: bool
    predicted: int
    measured: int


def compare_memory(backbone: str, request: Request, device: torch.device) -> list[PeakMemory]:
    """Measure the memory of an image in every way; on a CPU, where nothing is offloaded from, in those without."""
    found = []
    for tiling in (False, True):
        model = benchmark_model(backbone, device)
        model.merge_adapters()
        if tiling:
            model.codec.enable_tiling()
        (sample,) = samples = requests(model, 1, request.size, request.edit, request.tokens, request.boxes)
        source = None if sample.source is None else (sample.source + 1) / 2
        memory = inference_memory(model, samples, on_cpu=device.type == "cpu")
        pipe = GoTPipeline(model, request.size)
        pipe.set_progress_bar_config(disable=True)
        plan = pipe.given_plan(sample.chain, sample.prompt, source, request.size)
        for way, offload in WAYS.items():
            if offload == "model":
                pipe.enable_model_cpu_offload(device)
            elif offload == "layer":
                pipe.enable_sequential_cpu_offload(device)
            measured = _measured(pipe, plan, device, sum(memory.weights.values()))
            found.append(PeakMemory(backbone, request.edit, way, tiling, memory.peak(offload), measured))
            if device.type == "cpu":
                break
    return found


def _measured(pipe: GoTPipeline, plan: Plan, device: torch.device, held: int) -> int:
    def generate() -> None:
        pipe.generate(plan, num_inference_steps=MEMORY_STEPS, exact=True, output_type="pt")

    return peak_bytes(generate, device, held)


def memory_table(found: Sequence[PeakMemory], request: Request) -> Table:
    """Return a table of predicted and measured gigabytes."""
    kind = "an edit" if request.edit else "an image"
    title = f"{found[0].backbone}: GB of {kind} of {request.size[0]}x{request.size[1]} pixels"
    table = Table(title=title, title_justify="left")
    for heading in ("", "predicted", "measured", "predicted / measured"):
        table.add_column(heading, justify="right" if heading else "left")
    for each in found:
        table.add_row(
            each.way + (", tiles" if each.tiling else ""),
            f"{each.predicted / GIGA:.3f}",
            f"{each.measured / GIGA:.3f}",
            f"{each.predicted / each.measured:.3f}",
        )
    return table
