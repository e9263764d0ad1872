"""What generating an image costs, beside well-known pipelines."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import torch

from got_core.errors import UserError, one_line
from got_core.evaluation.efficiency.measure import (
    CHAIN_TOKENS,
    Measured,
    ModelWorkload,
    Workload,
    efficiency_table,
    measured,
    random_weights,
    why_not,
)
from got_core.evaluation.efficiency.references import REFERENCES, Reference, ReferenceWorkload, build_reference
from got_core.evaluation.generation import find_run
from got_core.evaluation.results import RESULTS, check_writable, print_table, processor, versions, write_results
from got_core.inspection.shapes import META
from got_core.pipelines.calls import default_device
from got_core.pipelines.saving import open_model, trained_size
from got_core.training.recipe import ResolvedRecipe, build_model
from got_core.training.system import GoTSystem
from got_core.weights.files import checksum
from got_core.weights.loading import without_weights


def evaluate(options: Namespace) -> None:
    """Measure a checkpoint or a recipe and well-known pipelines, print a table and write `results.json`.

    Raises:
        UserError: Options that do not fit, nothing that can be built or generated at that size, no such device, or
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
        "suite": "efficiency",
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


def _device(options: Namespace) -> torch.device:
    device = default_device()
    if options.accelerator == "auto" or (options.accelerator == "gpu" and device.type != "cpu"):
        return device
    try:
        device = torch.device(options.accelerator)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--accelerator {options.accelerator}: there is no such device here") from error
    return device


def _own(options: Namespace, device: torch.device, dtype: torch.dtype) -> Measured:
    """What a checkpoint costs; or a recipe, with random weights."""
    if options.checkpoint:
        opened = open_model(options.checkpoint, trust_code=options.trust_code)
        built, trained, name = opened.model, opened.size, Path(options.checkpoint).name
    else:
        recipe = ResolvedRecipe(options.config)
        with without_weights():
            model = build_model(recipe.config.model.as_dict())
        if not isinstance(model, GoTSystem):
            raise UserError(f"{options.config[-1]}: {type(model).__name__} generates nothing; a GoTSystem is needed")
        built, trained, name = model.model, trained_size(recipe.config.as_dict()), Path(options.config[-1]).stem
    size = options.size or trained
    if size is None:
        raise UserError("the recipe does not say how large its images are: give --size HEIGHTxWIDTH")
    workload = ModelWorkload(built, name, size, options.steps, dtype)
    try:
        workload.flops()
    except ValueError as error:
        raise UserError(f"{name} at {size[0]}x{size[1]}: {one_line(error)}") from error
    reason = why_not(workload, dtype, device)
    if not reason and options.checkpoint:
        built.to(device, dtype)
    elif not reason:
        random_weights(built, device, dtype)
    result = measured(workload, device, options.repeats, options.warm_up, reason or "")
    built.to(META)  # gives the device's memory back to what is measured next
    return result


def _references(options: Namespace, device: torch.device, dtype: torch.dtype) -> Iterator[Measured]:
    """One after the other, so that only one has weights at a time."""
    for reference in REFERENCES:
        workload = _workload(reference, META, dtype, options)
        reason = why_not(workload, dtype, device) or ""
        if not reason:
            workload = _workload(reference, device, dtype, options)
        yield measured(workload, device, options.repeats, options.warm_up, reason)


def _workload(reference: Reference, device: torch.device, dtype: torch.dtype, options: Namespace) -> Workload:
    pipeline = build_reference(reference, device, dtype)
    return ReferenceWorkload(reference, pipeline, (reference.side, reference.side), options.steps)
