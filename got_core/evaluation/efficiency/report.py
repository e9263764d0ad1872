"""What was measured of several drawers: one table, and plain numbers for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table

from got_core.evaluation.efficiency.measuring import (
    ROLES,
    STAGES,
    Drawer,
    Latency,
    drawing_memory,
    latencies,
    obstacle,
    parameter_counts,
)

SUITE = "efficiency"
"""What results of this suite call it."""

MEGA, GIGA = 1e6, 1e9

NOTE = (
    "Of one image. Steps are those of denoising, times the denoiser's passes in each. Seconds are medians (quartiles). "
    "Reason: FLOPs are of a chain of the published length, seconds of the chain that these weights write. Peak memory "
    "holds the weights; on a CPU it is what the allocator records."
)

NOTHING = "-"
"""In tables: there is no such thing here, or it was not measured."""


@dataclass(frozen=True)
class Measured:
    """What drawing an image costs.

    Attributes:
        name: Of the drawer.
        size: (height, width) in pixels.
        steps, passes: Denoising steps, and passes of the denoiser in each.
        parameters: By role.
        flops: By stage.
        latency: By stage, and `all`; None where it was not timed.
        memory: The most bytes at a time, weights included; None where it was not measured.
        reason: Why time and memory were not measured; empty where they were.
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
        """All of it, with sums."""
        return asdict(self) | {
            "size": list(self.size),
            "parameters": {**self.parameters, "all": sum(self.parameters.values())},
            "flops": {**self.flops, "all": sum(self.flops.values())},
        }


def in_shape_alone(drawer: Drawer, reason: str) -> Measured:
    """Parameters and FLOPs alone, and why it is no more."""
    return Measured(
        drawer.name, drawer.size, drawer.steps, drawer.passes, parameter_counts(drawer), drawer.flops(), None, None,
        reason,
    )  # fmt: skip


def measured(drawer: Drawer, device: torch.device, repeats: int, warm_up: int) -> Measured:
    """All of it, of a drawer that is built on a device."""
    return Measured(
        drawer.name, drawer.size, drawer.steps, drawer.passes, parameter_counts(drawer), drawer.flops(),
        latencies(drawer, device, repeats, warm_up), drawing_memory(drawer, device), "",
    )  # fmt: skip


def why_not(drawer: Drawer, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why a drawer cannot be timed on a device; None where it can."""
    return obstacle(sum(parameter_counts(drawer).values()), dtype, device)


def efficiency_table(found: Sequence[Measured], title: str) -> Table:
    """Everything for people to read, a column for each drawer."""
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
