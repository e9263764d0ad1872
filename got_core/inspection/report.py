"""The tables of `got inspect`: what training a recipe costs on the devices that it is meant for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from jsonargparse import Namespace
from rich.table import Table

from got_core.data.caches import precomputed
from got_core.data.datamodule import accumulated_batches
from got_core.errors import UserError, as_user_error
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
from got_core.inspection.inference import GIGA, ROOM
from got_core.inspection.shapes import ShapeRun, in_shape
from got_core.model import PARTS
from got_core.training.recipe import build_model
from got_core.training.system import GoTSystem
from got_core.weights.loading import without_weights

TERA = 1e12


@dataclass(frozen=True)
class Setup:
    """How a recipe would be trained.

    Attributes:
        devices: In all.
        batch_size: Samples of a device at a time.
        batches: Of a device, to an optimizer step.
        size: (height, width) of images in pixels.
        precision: Of the trainer.
        edits: Whether samples are edits, which take the most, or text-to-image.
        tflops: What a device computes, in TFLOP/s; None if times are not predicted.
        bandwidth: GB/s of a device to the others.
        cached: Whether training reads what `got data cache` has computed.
    """

    devices: int
    batch_size: int
    batches: int
    size: tuple[int, int]
    precision: Precision
    edits: bool
    tflops: float | None
    bandwidth: float
    cached: bool = False

    @classmethod
    def of(
        cls,
        config: Namespace,
        devices: int,
        size: tuple[int, int],
        edits: bool,
        tflops: float | None,
        bandwidth: float,
    ) -> "Setup":
        """Return the setup of a resolved recipe.

        Raises:
            UserError: Its global batch does not divide into batches of the devices.
        """
        data = config.get("data.init_args") or {}
        batch_size, batches = data.get("batch_size", 1), config.trainer.accumulate_grad_batches
        if data.get("global_batch_size") is not None:
            with as_user_error(ValueError):
                batches = accumulated_batches(data["global_batch_size"], batch_size, devices)
        precision = Precision.named(config.trainer.precision or "32-true")
        cached = data.get("cache") is not None
        return cls(devices, batch_size, batches, size, precision, edits, tflops, bandwidth, cached)

    @property
    def samples(self) -> int:
        """Samples of a device to an optimizer step."""
        return self.batch_size * self.batches

    @property
    def strategies(self) -> dict[str, bool]:
        """What is compared, by name, and whether it shards the weights."""
        return {"one device": False} if self.devices == 1 else {"DDP": False, "FSDP2": True}


def report(config: Namespace, setup: Setup, memory: int | None, price: float | None) -> Iterator[Table | str]:
    """Yield what a resolved recipe costs, in tables and sentences.

    Args:
        config: The recipe.
        setup: How it would be trained.
        memory: Bytes of a device, to say whether training fits.
        price: Of a device-hour, to predict the whole run; needs `setup.tflops` and a recipe that names its steps.

    Raises:
        UserError: The recipe's model is not a `GoTSystem`.
    """
    system = system_in_shape(config).train()
    yield _parameter_table({name: parameters(getattr(system, name)) for name in PARTS})
    cost, uses = _traced(system, setup)
    yield _flop_table(cost, setup)
    yield _memory_table(uses, setup)
    if setup.tflops:
        yield _time_table(system, cost, setup)
        if price is not None:
            yield _run_table(system, cost, setup, config.trainer.max_steps, price)
    if memory:
        for name, use in uses.items():
            yield f"{name}: {_fit(use, memory)}"
        if (proposal := _proposal(config, setup, system.activation_checkpointing, cost, uses, memory)) is not None:
            yield proposal


def system_in_shape(config: Namespace) -> GoTSystem:
    """Build the system of a resolved recipe without weights (UserError: its model is not a `GoTSystem`)."""
    with without_weights():
        system = build_model(config.model.as_dict())
    if not isinstance(system, GoTSystem):
        raise UserError(f"{type(system).__name__} is not a GoTSystem, so the costs of its parts are not known")
    return system


def _traced(system: GoTSystem, setup: Setup) -> tuple[StepCost, dict[str, DeviceMemory]]:
    """Return the cost of a training step, and by strategy the memory of a device."""
    system.configure_model()
    with in_shape(system, setup.precision.computed):
        samples = typical_samples(setup.size, setup.batch_size, setup.edits)
        if setup.cached:
            with ShapeRun():
                samples = precomputed(system.model, samples, shape_batch(system, samples, setup.precision.computed))
        cost = step_cost(system, shape_batch(system, samples, setup.precision.computed))
    return cost, {
        name: device_memory(system, cost, setup.precision, setup.devices, sharded)
        for name, sharded in setup.strategies.items()
    }


def _proposal(
    config: Namespace,
    setup: Setup,
    checkpointing: bool,
    cost: StepCost,
    uses: Mapping[str, DeviceMemory],
    memory: int,
) -> str | None:
    """Return a setting of activation checkpointing that is better for devices of so much memory; None if this one is.

    It is better to compute nothing twice where that fits, and to compute it twice where nothing fits without.

    Args:
        config, setup, memory: See `report`.
        checkpointing: The recipe's setting.
        cost, uses: With this setting.
    """
    if bool(_fitting(uses, memory)) != checkpointing:
        return None
    other = config.clone()
    other["model.init_args.activation_checkpointing"] = not checkpointing
    spent, taken = _traced(system_in_shape(other).train(), setup)
    if not (fitting := _fitting(taken, memory)):
        return None
    now, then = (each.total / setup.batch_size / TERA for each in (cost, spent))
    where = f" under {' and '.join(fitting)}" if setup.devices > 1 else ""
    return (
        f"--model.activation_checkpointing {str(not checkpointing).lower()} fits{where}, and "
        f"takes {then:.3g} instead of {now:.3g} TFLOP a sample"
    )


def _table(title: str, headings: Sequence[str]) -> Table:
    """Make a table whose first column is a name and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    return table


def _parameter_table(counted: Mapping[str, Parameters]) -> Table:
    table = _table("Parameters", ("parameters, millions", "total", "trained", "frozen"))
    for name, count in [*counted.items(), ("all", sum(counted.values(), Parameters(0, 0)))]:
        table.add_row(name, *(f"{number / 1e6:,.2f}" for number in (count.total, count.trainable, count.frozen)))
    return table


def _flop_table(cost: StepCost, setup: Setup) -> Table:
    unit, name = (TERA, "T") if cost.total / setup.batch_size >= TERA else (GIGA, "G")
    kind = "an edit" if setup.edits else "a text-to-image sample"
    title = f"{name}FLOP of training on {kind} of {setup.size[0]}x{setup.size[1]} pixels"
    table = _table(title, ("component", "forward", "backward", "share"))
    for part, spent in [*cost.flops.items(), ("all", sum(cost.flops.values(), Flops()))]:
        numbers = (f"{value / setup.batch_size / unit:,.2f}" for value in (spent.forward, spent.backward))
        table.add_row(part, *numbers, f"{spent.total / cost.total:.0%}")
    return table


def _memory_table(uses: Mapping[str, DeviceMemory], setup: Setup) -> Table:
    samples = f"{setup.batch_size} sample{'s' if setup.batch_size > 1 else ''}"
    devices = f" of {setup.devices}" if setup.devices > 1 else ""
    table = _table(f"Memory of each device{devices}, {samples} at a time", ("GB", *uses))
    for field in fields(DeviceMemory):
        label = "most at a time" if field.name == "peak" else field.name
        table.add_row(label, *(f"{getattr(use, field.name) / GIGA:,.2f}" for use in uses.values()))
    return table


def _step_seconds(
    system: GoTSystem, cost: StepCost, setup: Setup, samples: int, sharded: bool
) -> tuple[float, float, float]:
    """Return the time of computing, of sending, and of a step, where one hides behind the other as far as it can.

    Args:
        system, cost: See `report`.
        setup: With `tflops`; its devices are those of the step.
        samples: Of a device to an optimizer step.
        sharded: FSDP2 in place of DDP.
    """
    computing = cost.total / setup.batch_size * samples / ((setup.tflops or 0) * TERA)
    batches = -(-samples // setup.batch_size)
    sending = communicated(system, setup.precision, setup.devices, sharded, batches) / (setup.bandwidth * GIGA)
    return computing, sending, max(computing, sending)


def _time_table(system: GoTSystem, cost: StepCost, setup: Setup) -> Table:
    samples = setup.devices * setup.samples
    title = f"Seconds of an optimizer step of {samples} samples at {setup.tflops:g} TFLOP/s a device"
    table = _table(title, ("strategy", "computing", "sending", "predicted step"))
    for name, sharded in setup.strategies.items():
        seconds = _step_seconds(system, cost, setup, setup.samples, sharded)
        table.add_row(name, *(f"{number:,.3g}" for number in seconds))
    return table


def _run_table(system: GoTSystem, cost: StepCost, setup: Setup, steps: int, price: float) -> Table:
    """Predict the whole run on more and more devices, sharded; the global batch grows if a device has no sample."""
    title = f"{steps:,} steps under FSDP2, {setup.bandwidth:g} GB/s between devices, {price:g} a device-hour"
    headings = ("devices", "batch", "compute s", "send s", "step s", "days", "device h", "cost")
    table = _table(title, headings)
    for devices in (8, 64, 512):
        samples = max(1, round(setup.devices * setup.samples / devices))
        seconds = _step_seconds(system, cost, replace(setup, devices=devices), samples, sharded=True)
        hours = steps * seconds[-1] / 3600
        numbers = (f"{number:,.3g}" for number in (*seconds, hours / 24))
        device_hours = devices * hours
        table.add_row(
            f"{devices}", f"{samples * devices}", *numbers, f"{device_hours:,.0f}", f"{device_hours * price:,.0f}"
        )
    return table


def _fitting(uses: Mapping[str, DeviceMemory], memory: int) -> list[str]:
    return [name for name, use in uses.items() if use.peak <= ROOM * memory]


def _fit(use: DeviceMemory, memory: int) -> str:
    if use.peak <= ROOM * memory:
        return f"fits, {use.peak / GIGA:,.1f} of {memory / GIGA:g} GB"
    if use.peak <= memory:
        return f"tight, {use.peak / GIGA:,.1f} of {memory / GIGA:g} GB leave no room for the allocator"
    return f"does not fit, {use.peak / GIGA:,.1f} GB are needed and {memory / GIGA:g} are there"
