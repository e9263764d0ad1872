"""`got evaluate efficiency`: what drawing an image costs, beside well-known pipelines."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from got_core.cli.suite_drawing import find_run
from got_core.cli.tables import print_table
from got_core.errors import UserError, one_line
from got_core.evaluation.efficiency.measure import (
    CHAIN_TOKENS,
    SUITE,
    Drawer,
    Measured,
    SystemDrawer,
    efficiency_table,
    in_shape_alone,
    measured,
    random_weights,
    why_not,
)
from got_core.evaluation.efficiency.references import REFERENCES, Reference, ReferenceDrawer, build_reference
from got_core.evaluation.results import RESULTS, check_writable, processor, versions, write_results
from got_core.inspection.shapes import META
from got_core.pipelines.pipeline import default_device
from got_core.pipelines.saving import open_model, trained_size
from got_core.training.recipe import ResolvedRecipe, build_model
from got_core.training.system import GoTSystem
from got_core.weights.files import checksum
from got_core.weights.loading import without_weights


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Count and time a checkpoint or a recipe and the pipelines it stands beside; print a table, write `results.json`.

    Raises:
        UserError: Options that do not go together, nothing that can be built or drawn at that size, no such device, or
            a folder that cannot be written to.
    """
    if bool(options.checkpoint) == bool(options.config) or not options.output:
        raise UserError("the efficiency suite needs --checkpoint RUN or --config FILE, and --output FOLDER")
    output = Path(options.output)
    check_writable(output)
    device = _device(options)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    found = [_own(options, device, dtype), *_references(options, device, dtype)]
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{processor()}, {_threads()}"
    content = {
        "suite": SUITE,
        "machine": machine,
        "dtype": str(dtype).removeprefix("torch."),
        "repeats": options.repeats,
        "warm_up": options.warm_up,
        "most_chain_tokens": CHAIN_TOKENS,
        "measured": [entry.as_json() for entry in found],
        "checksums": {"checkpoint": checksum(find_run(options.checkpoint).weights)} if options.checkpoint else {},
        "versions": versions(),
    }
    file = output / RESULTS
    write_results(file, content)
    runs = f"{options.repeats} repeats after {options.warm_up}"
    title = f"One image; {machine}; {content['dtype']}; {runs}"
    print_table(efficiency_table(found, title))
    for entry in found:
        if entry.reason:
            print(f"{entry.name}: time and memory not measured: {entry.reason}")
    print(f"written: {file}")


def _threads() -> str:
    number = torch.get_num_threads()
    return "1 thread" if number == 1 else f"{number} threads"


def _device(options: argparse.Namespace) -> torch.device:
    device = default_device()
    if options.accelerator == "auto" or (options.accelerator == "gpu" and device.type != "cpu"):
        return device
    try:
        device = torch.device(options.accelerator)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--accelerator {options.accelerator}: there is no such device here") from error
    return device


def _own(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Measured:
    """What a checkpoint costs; or a recipe, with random weights."""
    if options.checkpoint:
        opened = open_model(options.checkpoint)
        built, trained, name = opened.model, opened.size, Path(options.checkpoint).name
    else:
        recipe = ResolvedRecipe(options.config)
        with without_weights():
            model = build_model(recipe.config.model.as_dict())
        if not isinstance(model, GoTSystem):
            raise UserError(f"{options.config[-1]}: {type(model).__name__} draws nothing; a GoTSystem is needed")
        built, trained, name = model.model, trained_size(recipe.config.as_dict()), Path(options.config[-1]).stem
    size = options.size or trained
    if size is None:
        raise UserError("the recipe does not say how large its images are: give --size HEIGHTxWIDTH")
    drawer = SystemDrawer(built, name, size, options.steps, dtype)
    try:
        drawer.flops()
    except ValueError as error:
        raise UserError(f"{name} at {size[0]}x{size[1]}: {one_line(error)}") from error
    reason = why_not(drawer, dtype, device)
    if reason:
        return in_shape_alone(drawer, reason)
    if options.checkpoint:
        built.to(device, dtype)
    else:
        random_weights(built, device, dtype)
    found = measured(drawer, device, options.repeats, options.warm_up)
    built.to(META)  # gives the device's memory back to what is measured next
    return found


def _references(options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[Measured]:
    """One after the other, so that only one has weights at a time."""
    for reference in REFERENCES:
        shape = _drawer(reference, META, dtype, options)
        reason = why_not(shape, dtype, device)
        if reason:
            yield in_shape_alone(shape, reason)
        else:
            yield measured(_drawer(reference, device, dtype, options), device, options.repeats, options.warm_up)


def _drawer(reference: Reference, device: torch.device, dtype: torch.dtype, options: argparse.Namespace) -> Drawer:
    pipeline = build_reference(reference, device, dtype)
    return ReferenceDrawer(reference, pipeline, (reference.side, reference.side), options.steps)
