"""Seconds of an image by stage, over the released algorithm and over the same with its passes batched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from got_core.benchmarks.measuring import WHOLE, Stopwatch, Timings, in_turns
from got_core.benchmarks.models import benchmark_model, requests
from got_core.benchmarks.released import Released
from got_core.diffusion.sampling import Sampling, sample
from got_core.model import GoTModel
from got_core.types import Batch

OURS, FAST, RELEASED, BATCHED = "ours", "ours, fast", "released", "released, batched"
STAGES = ("write", "read", "guide", "denoise", "decode")


@dataclass(frozen=True)
class Request:
    """What is generated.

    Attributes:
        size: (height, width) in pixels.
        edit: Whether it edits an image.
        tokens: Of the chain.
        boxes: Of the chain.
        steps: Denoising steps.
        measured_steps: How many of these are taken; they are alike, and their time is multiplied.
    """

    size: tuple[int, int] = (256, 256)
    edit: bool = False
    tokens: int = 165
    boxes: int = 4
    steps: int = 50
    measured_steps: int = 4


@dataclass(frozen=True)
class Compared:
    """An image of one backbone, timed in all ways.

    Attributes:
        backbone: Of `got_core.benchmarks.models`.
        request: What was generated.
        timings: Of each way.
        difference: Largest absolute difference of the latents from those of the released algorithm.
        fast: The fast procedure, in words.
    """

    backbone: str
    request: Request
    timings: Timings
    difference: float
    fast: str


def compare_images(backbone: str, request: Request, repeats: int, device: torch.device) -> Compared:
    """Time an image by ours, exact and fast, and both baselines in turns, on the same weights and noise.

    The latents of the exact procedure are compared with the released algorithm's.
    """
    model = benchmark_model(backbone, device)
    released = {RELEASED: Released(model, batched=False), BATCHED: Released(model, batched=True)}
    model.merge_adapters()
    batch = model.processor(requests(model, 1, request.size, request.edit, request.tokens, request.boxes)).to(device)
    noise = model.starting_noise(batch, 0)
    scales = model.editing_scales if request.edit else model.generation_scales

    def by(baseline: Released) -> Callable[[Stopwatch], None]:
        return lambda watch: baseline.generate(
            watch, batch, request.tokens, noise, scales, request.measured_steps, request.steps
        )

    tasks = {name: by(baseline) for name, baseline in released.items()}
    part = request.steps / request.measured_steps
    tasks[OURS] = lambda watch: generate(model, watch, batch, noise, request, Sampling(request.measured_steps), part)
    tasks[FAST] = lambda watch: generate(model, watch, batch, noise, request, model.sampling())
    with torch.no_grad():
        theirs = released[RELEASED]
        expected = theirs.denoise(theirs.guide(theirs.read(batch), batch), noise, scales, request.measured_steps)
        reasoning = model.read(batch, batch.chains)
        found, _ = model.generate_latents(batch, reasoning, noise=noise, steps=request.measured_steps, exact=True)
    difference = float((found - expected).abs().max())
    fast = model.sampling()
    words = f"{fast.steps} steps" + (f", guided at times {fast.guidance_interval}" if fast.guidance_interval else "")
    return Compared(backbone, request, in_turns(tasks, repeats, device), difference, words)


def generate(
    model: GoTModel,
    watch: Stopwatch,
    batch: Batch,
    noise: Tensor,
    request: Request,
    sampling: Sampling,
    times: float = 1.0,
) -> None:
    """Generate as `GoTPipeline` does, timed by stage; what is written is replaced by the batch's chain.

    Denoising is timed `times` over.
    """
    with watch.stage("write"):
        written = model.reasoner.generate(batch, max_new_tokens=request.tokens)
    with watch.stage("read"):
        pass
    reasoning = type(written)(written.states, batch.chains)
    with watch.stage("guide"):
        guidance = model.guidance(reasoning, batch, model.codec)
    with watch.stage("denoise", times):
        latents = sample(
            model.backbone,
            model.guidance,
            guidance,
            model.objective.scheduler(),
            noise,
            model.editing_scales if request.edit else model.generation_scales,
            sampling.steps,
            guidance_interval=sampling.guidance_interval,
        )
    with watch.stage("decode"):
        model.decode(latents)


def image_table(found: Compared) -> Table:
    """Return a table of stages: seconds of each way, and how many times as fast ours is."""
    request, timings = found.request, found.timings
    task = "an edit" if request.edit else "an image"
    height, width = request.size
    table = Table(
        title=f"{found.backbone}: {task} of {height}x{width}, {request.steps} steps, {request.tokens} tokens, "
        f"{request.boxes} boxes",
        title_justify="left",
        caption=f"{timings.clock} seconds, medians; latents of {OURS} and {RELEASED} differ by at most "
        f"{found.difference:.1e}; {FAST}: {found.fast}",
        caption_justify="left",
    )
    ratios = ((RELEASED, OURS), (BATCHED, OURS), (RELEASED, FAST))
    for heading in ("", RELEASED, BATCHED, OURS, FAST, *(f"{ours} over {baseline}" for baseline, ours in ratios)):
        table.add_column(heading, justify="left" if not heading else "right")
    for stage in (*STAGES, WHOLE):
        seconds = [f"{timings.median(name, stage):.3f}" for name in (RELEASED, BATCHED, OURS, FAST)]
        times = [] if stage == "read" else [str(timings.ratio(*pair, stage)) for pair in ratios]
        table.add_row(stage, *seconds, *times, end_section=stage == STAGES[-1])
    return table


def as_json(found: Compared) -> dict[str, Any]:
    """Return everything that was measured."""
    whole = {
        ours: {name: str(found.timings.ratio(name, ours)) for name in (RELEASED, BATCHED)} for ours in (OURS, FAST)
    }
    return {
        "backbone": found.backbone,
        "request": vars(found.request),
        "difference": found.difference,
        "times_as_fast": whole,
        **found.timings.as_json(),
    }
