"""`got bench`: one function for each benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from got_core.cli.parsing import Count
from got_core.errors import UserError

if TYPE_CHECKING:
    import torch

Backbone = Literal["unet", "dit"]


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where it is measured, and written.

    Attributes:
        device: Such as cuda or cpu; by default the best available.
        json: File that gets every number.
    """

    device: str | None = None
    json: str | None = None


@dataclass(frozen=True, kw_only=True)
class How(Where):
    """How it is measured.

    Attributes:
        repeats: Turns that are counted.
    """

    repeats: Count = 8


def inference(
    how: How,
    *,
    backbone: Backbone | None = None,
    edit: bool | None = None,
    steps: Count = 50,
    measured_steps: Count = 4,
    tokens: Count = 165,
    boxes: Count = 4,
    side: Count = 256,
) -> None:
    """Time an image by stage, over the released algorithm.

    Args:
        how: How it is measured.
        backbone: One of the two; both by default.
        edit: Whether it edits an image; both by default.
        steps: Denoising steps.
        measured_steps: Steps that are taken; they are alike, and their time is multiplied.
        tokens: Of the chain.
        boxes: Of the chain.
        side: Of the image in pixels.

    Example:
        got bench inference --backbone dit --repeats 3
    """
    device = _device(how)
    from got_core.benchmarks.inference import Request, as_json, compare_images, image_table
    from got_core.benchmarks.models import BACKBONES
    from got_core.evaluation.results import print_table

    measured = []
    for name in BACKBONES if backbone is None else (backbone,):
        for task in (False, True) if edit is None else (edit,):
            request = Request((side, side), task, tokens, boxes, steps, measured_steps)
            found = compare_images(name, request, how.repeats, device)
            print_table(image_table(found))
            measured.append(as_json(found))
    _write(how, device, measured)


def training(how: How, *, recipe: Sequence[str] = (), steps: Count = 10, cached: bool = False) -> None:
    """Time a training step, over a bare loop and plain code.

    Args:
        how: How it is measured.
        recipe: Recipe file, recipes/scenes_dit.yaml by default; may be given several times. Its first batches are used.
        steps: Steps of a turn.
        cached: Give the Trainer and the bare loop what `got data cache` computes once; plain code encodes its images.

    Raises:
        UserError: The recipe cannot be built or trains something else.

    Example:
        got bench training --recipe recipes/scenes_sdxl.yaml
    """
    device = _device(how)
    from got_core.benchmarks.training import compare_steps, step_table
    from got_core.evaluation.results import print_table

    files = list(recipe) or ["recipes/scenes_dit.yaml"]
    timings, difference = compare_steps(files, steps, how.repeats, device, cached)
    print_table(step_table(timings, files, steps, difference))
    setting = {"recipe": files, "steps": steps, "cached": cached}
    _write(how, device, {**setting, "difference": difference, **timings.as_json()})


def startup(how: How) -> None:
    """Time a new process up to its first image, over its imports.

    Args:
        how: How it is measured; always on a CPU.

    Example:
        got bench startup --repeats 5
    """
    device = _device(How(repeats=how.repeats, device="cpu", json=how.json))
    from got_core.benchmarks.startup import startup_seconds, startup_table
    from got_core.evaluation.results import print_table

    spent = startup_seconds(how.repeats)
    print_table(startup_table(spent))
    _write(how, device, spent)


def scaling(
    how: How,
    *,
    axis: Literal["boxes", "tokens", "side", "batch", "states"] | None = None,
    backbone: Backbone = "dit",
    output: str | None = None,
) -> None:
    """Measure how time and memory grow with what is asked for.

    Args:
        how: How it is measured.
        axis: What grows; each by default.
        backbone: Of the model.
        output: PNG file of the curves.

    Raises:
        UserError: There is no matplotlib for the curves.

    Example:
        got bench scaling --axis boxes --output growth.png
    """
    from importlib.util import find_spec

    if output is not None and find_spec("matplotlib") is None:
        raise UserError('--output needs matplotlib: pip install "got-framework[study]"')
    device = _device(how)
    from got_core.benchmarks.scaling import AXES, as_json, draw_growth, growth, growth_table
    from got_core.evaluation.results import print_table

    curves = {}
    for name in AXES if axis is None else (axis,):
        curves[name] = growth(name, backbone, how.repeats, device)
        print_table(growth_table(name, curves[name]))
    if output is not None:
        draw_growth(curves, Path(output))
        print(f"written: {output}")
    _write(how, device, {name: as_json(points) for name, points in curves.items()})


def ranks(how: How, *, recipe: Sequence[str] = (), steps: Count = 10) -> None:
    """Time a training step on two ranks, over one rank.

    Args:
        how: How it is measured; always on CPUs.
        recipe: Recipe file, recipes/scenes_dit.yaml by default; may be given several times.
        steps: Steps of a run.

    Raises:
        UserError: A run failed.

    Example:
        got bench ranks --repeats 4
    """
    device = _device(How(repeats=how.repeats, device="cpu", json=how.json))
    from got_core.benchmarks.ranks import ranks_table, step_costs
    from got_core.evaluation.results import print_table

    files = list(recipe) or ["recipes/scenes_dit.yaml"]
    measured = step_costs(files, steps, how.repeats)
    print_table(ranks_table(measured, files))
    _write(how, device, {"recipe": files, "steps": steps, "ranks": measured})


def limits(how: How, *, backbone: Backbone | None = None) -> None:
    """Hold each stage against what the machine can do.

    Args:
        how: How it is measured.
        backbone: One of the two; both by default.

    Example:
        got bench limits --backbone dit
    """
    device = _device(how)
    from got_core.benchmarks.limits import as_json, distances, limits_table
    from got_core.benchmarks.models import BACKBONES
    from got_core.evaluation.results import print_table

    measured = {}
    for name in BACKBONES if backbone is None else (backbone,):
        found, machine = distances(name, how.repeats, device)
        print_table(limits_table(name, found, machine))
        measured[name] = {"flops_a_second": machine[0], "bytes_a_second": machine[1], "stages": as_json(found)}
    _write(how, device, measured)


def reading(how: How, *, rows: Count = 2000) -> None:
    """Time image records in Parquet, shuffled over in order.

    Args:
        how: How it is measured; always on a CPU.
        rows: Records of a turn.

    Example:
        got bench reading --repeats 5
    """
    device = _device(How(repeats=how.repeats, device="cpu", json=how.json))
    from got_core.benchmarks.reading import read_records, reading_table
    from got_core.evaluation.results import print_table

    timings = read_records(rows, how.repeats)
    print_table(reading_table(timings, rows))
    _write(how, device, {"rows": rows, **timings.as_json()})


def data(how: How, *, images: Count = 64, side: Count = 256, records: Count = 10_000_000) -> None:
    """Time the loading of samples, over decoding images and reading bytes.

    Args:
        how: How it is measured; always on a CPU.
        images: Files of a turn.
        side: Of the samples in pixels.
        records: Of a stream that is opened.

    Example:
        got bench data --repeats 5
    """
    device = _device(How(repeats=how.repeats, device="cpu", json=how.json))
    from got_core.benchmarks.loading import loading_rates, loading_table, opening
    from got_core.evaluation.results import print_table

    timings = loading_rates(images, side, how.repeats)
    print_table(loading_table(timings, images, side))
    seconds, memory = opening(records)
    print(f"{records:,} records are opened in {seconds:.2f} CPU seconds and {memory / 1e6:,.0f} MB")
    setting = {"images": images, "side": side, "records": records, "opening": seconds, "memory": memory}
    _write(how, device, {**setting, **timings.as_json()})


def shards(how: How, *, rows: Count = 4096) -> None:
    """Time formats of shards: Parquet, tar with an index, and MDS.

    MDS is timed where the package mosaicml-streaming is installed.

    Args:
        how: How it is measured; always on a CPU.
        rows: Records of a turn.

    Example:
        got bench shards --repeats 5
    """
    device = _device(How(repeats=how.repeats, device="cpu", json=how.json))
    from got_core.benchmarks.shards import compare_shards, shards_table
    from got_core.evaluation.results import print_table

    timings, sizes = compare_shards(rows, how.repeats)
    print_table(shards_table(timings, sizes, rows))
    _write(how, device, {"rows": rows, "bytes": sizes, **timings.as_json()})


def memory(where: Where, *, backbone: Backbone | None = None, edit: bool | None = None, side: Count = 256) -> None:
    """Measure the memory of an image, beside what is predicted.

    Args:
        where: Where it is measured.
        backbone: One of the two; both by default.
        edit: Whether it edits an image; both by default.
        side: Of the image in pixels.

    Example:
        got bench memory --side 512
    """
    device = _device(where)
    from dataclasses import asdict

    from got_core.benchmarks.inference import Request
    from got_core.benchmarks.memory import compare_memory, memory_table
    from got_core.benchmarks.models import BACKBONES
    from got_core.evaluation.results import print_table

    measured = []
    for name in BACKBONES if backbone is None else (backbone,):
        for task in (False, True) if edit is None else (edit,):
            request = Request((side, side), task)
            found = compare_memory(name, request, device)
            print_table(memory_table(found, request))
            measured += [asdict(each) for each in found]
    _write(where, device, measured)


def _device(how: Where) -> "torch.device":
    from got_core.paths import importing

    with importing():
        import torch

        from got_core.pipelines.calls import default_device
    try:
        device = default_device() if how.device is None else torch.device(how.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {how.device}: there is no such device here") from error
    return device


def _write(how: Where, device: "torch.device", measured: Any) -> None:
    """Print what it ran on, and write every number if a file is named."""
    import json

    from got_core.benchmarks.measuring import machine
    from got_core.weights.files import write_whole

    ran_on = machine(device)
    repeats = {"repeats": how.repeats} if isinstance(how, How) else {}
    words = "".join(f"; {number} {name}" for name, number in repeats.items())
    print(f"{ran_on['machine']}, {ran_on['threads']} of {ran_on['cores']} threads{words}")
    if how.json is not None:
        content = {**ran_on, **repeats, "measured": measured}
        write_whole(Path(how.json), json.dumps(content, indent=1) + "\n")
        print(f"written: {how.json}")
