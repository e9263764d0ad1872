"""`got inspect`: what a recipe's training costs, before anything is trained or downloaded but configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from got_core.cli.options import Count, Memory, Rate, Size
from got_core.data.datamodule import accumulated_batches
from got_core.errors import UserError
from got_core.inspection.costs import (
    Flops,
    Parameters,
    StepCost,
    parameters,
    shape_batch,
    step_cost,
    typical_samples,
)
from got_core.inspection.fit import DeviceMemory, Precision, communicated, device_memory
from got_core.inspection.shapes import in_shape
from got_core.model import PARTS
from got_core.pipelines.saving import trained_size
from got_core.training.recipe import ResolvedRecipe, build_model
from got_core.training.system import GoTSystem
from got_core.weights.loading import without_weights

GIGA = 1e9
TERA = 1e12
HOUR, DAY = 3600, 86_400
"""In seconds."""

OUTLOOK = (8, 64, 512)
"""Numbers of devices that a whole run is foretold for."""

ROOM = 0.92
"""Share of a device's memory that tensors may take; the rest goes to the runtime and to fragments."""


@dataclass(frozen=True)
class Plan:
    """How a recipe would be trained.

    Attributes:
        devices: In all.
        batch_size: Samples of a device at a time.
        batches: Of a device, to an optimizer step.
        size: (height, width) of images in pixels.
        precision: Of the trainer.
        edits: Whether samples are edits, which take the most, or text-to-image.
    """

    devices: int
    batch_size: int
    batches: int
    size: tuple[int, int]
    precision: Precision
    edits: bool


@dataclass(frozen=True)
class Rates:
    """What a device computes in TFLOP/s, and exchanges with the others in GB/s."""

    tflops: float
    bandwidth: float


def inspect(
    *overrides: str,
    config: Sequence[str] = (),
    nodes: Count = 1,
    devices: Count = 1,
    memory: Memory | None = None,
    tflops: Rate | None = None,
    bandwidth: Rate = 50.0,
    price: Rate | None = None,
    size: Size | None = None,
    text_to_image: bool = False,
) -> None:
    """Print what training a recipe costs, without weights or data.

    Args:
        overrides: Options of the recipe.
        config: A recipe; of several, the later ones win.
        nodes: Machines.
        devices: Devices of each machine.
        memory: Memory of a device such as 80GB, to say whether it fits.
        tflops: Sustained TFLOP/s of a device, to predict the time.
        bandwidth: GB/s of a device to the others.
        price: Of a device-hour, to predict the cost of the whole run.
        size: Of images as HEIGHTxWIDTH in pixels; by default the recipe's.
        text_to_image: Take samples without a source image instead of edits.

    Raises:
        UserError: What is wrong with the recipe, or what is missing for a prediction.

    Example:
        got inspect --config recipes/got_sdxl_finetune.yaml --devices 8 --memory 80GB
    """
    if not config:
        raise UserError("got inspect needs a recipe: --config FILE")
    if price is not None and not tflops:
        raise UserError("--price predicts a whole run, which needs --tflops, the rate it is computed at")
    recipe, console = ResolvedRecipe(config, overrides), Console()
    steps = recipe.config.trainer.max_steps
    if price is not None and steps < 1:
        raise UserError("--price predicts a whole run, but the recipe's trainer.max_steps names no end")
    plan, system = _plan(recipe, nodes * devices, size, not text_to_image), _in_shape(recipe).train()
    console.print(_parameter_table({name: parameters(getattr(system, name)) for name in PARTS}))
    system.configure_model()
    cost = _cost(system, plan)
    console.print(_flop_table(cost, plan))
    uses = {
        name: device_memory(system, cost, plan.precision, plan.devices, sharded)
        for name, sharded in _strategies(plan.devices).items()
    }
    console.print(_memory_table(uses, plan))
    if tflops:
        rates = Rates(tflops, bandwidth)
        console.print(_time_table(system, plan, cost, rates))
        if price is not None:
            console.print(_outlook_table(system, plan, cost, steps, rates, price))
    if memory:
        for name, use in uses.items():
            console.print(_verdict(name, use, memory), highlight=False)


def _in_shape(recipe: ResolvedRecipe) -> GoTSystem:
    """The recipe's model on the meta device."""
    with without_weights():
        system = build_model(recipe.config.model.as_dict())
    if not isinstance(system, GoTSystem):
        raise UserError(f"{type(system).__name__} is no GoTSystem, so its parts cannot be told apart")
    return system


def _plan(recipe: ResolvedRecipe, devices: int, size: tuple[int, int] | None, edits: bool) -> Plan:
    data = (recipe.config.data.as_dict() if recipe.config.data else {}).get("init_args", {})
    size = size or trained_size({"data": data})
    if size is None:
        raise UserError("the recipe does not say how large its images are: give --size HEIGHTxWIDTH")
    trainer = recipe.config.trainer
    batch_size = data.get("batch_size", 1)
    batches = trainer.accumulate_grad_batches
    if data.get("global_batch_size") is not None:
        try:
            batches = accumulated_batches(data["global_batch_size"], batch_size, devices)
        except ValueError as error:
            raise UserError(str(error)) from None
    return Plan(devices, batch_size, batches, size, Precision.named(trainer.precision or "32-true"), edits)


def _strategies(devices: int) -> dict[str, bool]:
    """What is compared, by name, and whether it divides the weights."""
    return {"one device": False} if devices == 1 else {"DDP": False, "FSDP2": True}


def _cost(system: GoTSystem, plan: Plan) -> StepCost:
    with in_shape(system, plan.precision.computed):
        samples = typical_samples(plan.size, plan.batch_size, plan.edits)
        return step_cost(system, shape_batch(system, samples, plan.precision.computed))


def _parameter_table(counted: Mapping[str, Parameters]) -> Table:
    table = Table("parameters, millions", title="Parameters", title_justify="left")
    for heading in ("total", "trained", "frozen"):
        table.add_column(heading, justify="right")
    rows = [*counted.items(), ("all", sum(counted.values(), Parameters(0, 0)))]
    for name, count in rows:
        table.add_row(name, *(f"{number / 1e6:,.2f}" for number in (count.total, count.trainable, count.frozen)))
    return table


def _flop_table(cost: StepCost, plan: Plan) -> Table:
    per_sample = cost.total / plan.batch_size
    unit, name = (TERA, "T") if per_sample >= TERA else (GIGA, "G")
    kind = "an edit" if plan.edits else "a text-to-image sample"
    title = f"{name}FLOP of training on {kind} of {plan.size[0]}x{plan.size[1]} pixels"
    table = Table("component", title=title, title_justify="left")
    for heading in ("forward", "backward", "share"):
        table.add_column(heading, justify="right")
    whole = sum(cost.flops.values(), Flops())
    for part, spent in [*cost.flops.items(), ("all", whole)]:
        numbers = (f"{value / plan.batch_size / unit:,.2f}" for value in (spent.forward, spent.backward))
        table.add_row(part, *numbers, f"{spent.total / whole.total:.0%}")
    return table


def _memory_table(uses: Mapping[str, DeviceMemory], plan: Plan) -> Table:
    samples = f"{plan.batch_size} sample{'s' if plan.batch_size > 1 else ''}"
    devices = f" of {plan.devices}" if plan.devices > 1 else ""
    table = Table("GB", title=f"Memory of each device{devices}, {samples} at a time", title_justify="left")
    for name in uses:
        table.add_column(name, justify="right")
    for kind in DeviceMemory.__dataclass_fields__:
        label = "most at a time" if kind == "peak" else kind
        table.add_row(label, *(f"{getattr(use, kind) / GIGA:,.2f}" for use in uses.values()))
    return table


def _time_table(system: GoTSystem, plan: Plan, cost: StepCost, rates: Rates) -> Table:
    """An optimizer step, by what is computed and what is sent, as far as one hides behind the other."""
    computing = cost.total * plan.batches / (rates.tflops * TERA)
    title = (
        f"Seconds of an optimizer step of {plan.devices * plan.batch_size * plan.batches} samples at "
        f"{rates.tflops:g} TFLOP/s a device"
    )
    table = Table("strategy", "computing", "sending", "predicted step", title=title, title_justify="left")
    for name, sharded in _strategies(plan.devices).items():
        sent = communicated(system, plan.precision, plan.devices, sharded, plan.batches)
        sending = sent / (rates.bandwidth * GIGA)
        table.add_row(name, *(f"{seconds:,.3g}" for seconds in (computing, sending, max(computing, sending))))
    return table


def _outlook_table(system: GoTSystem, plan: Plan, cost: StepCost, steps: int, rates: Rates, price: float) -> Table:
    """The whole run on more and more devices, sharded; the global batch grows where there is no sample for each."""
    title = f"{steps:,} steps under FSDP2, {rates.bandwidth:g} GB/s between devices, {price:g} a device-hour"
    table = Table(title=title, title_justify="left")
    for heading in ("devices", "batch", "compute s", "send s", "step s", "days", "device h", "cost"):
        table.add_column(heading, justify="right")
    sample = cost.total / plan.batch_size
    for devices in OUTLOOK:
        samples = max(1, round(plan.devices * plan.batch_size * plan.batches / devices))
        batches = -(-samples // plan.batch_size)
        computing = sample * samples / (rates.tflops * TERA)
        sending = communicated(system, plan.precision, devices, True, batches) / (rates.bandwidth * GIGA)
        step = max(computing, sending)
        hours = devices * steps * step / HOUR
        row = (computing, sending, step, steps * step / DAY)
        numbers = (f"{number:,.3g}" for number in row)
        table.add_row(f"{devices}", f"{samples * devices}", *numbers, f"{hours:,.0f}", f"{hours * price:,.0f}")
    return table


def _verdict(name: str, use: DeviceMemory, memory: int) -> str:
    if use.peak <= ROOM * memory:
        return f"{name}: fits, {use.peak / GIGA:,.1f} of {memory / GIGA:g} GB"
    if use.peak <= memory:
        return f"{name}: tight, {use.peak / GIGA:,.1f} of {memory / GIGA:g} GB leave no room for the allocator"
    return f"{name}: does not fit, {use.peak / GIGA:,.1f} GB are needed and {memory / GIGA:g} are there"
