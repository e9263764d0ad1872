"""Figures of items summed up: mean, interval and number of each, and a table of them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from got_core.evaluation.bootstrap import Interval, stratum
from got_core.evaluation.results_file import DIGITS, Better


@dataclass(frozen=True)
class Summary:
    """A figure over the items that have it.

    Attributes:
        mean: Over those items.
        interval: 95% bootstrap interval of the mean, over items; None for fewer than `bootstrap.FEWEST` items, or where
            all are alike in a figure that is no share.
        items: How many have it.
    """

    mean: float
    interval: Interval | None
    items: int

    def as_json(self) -> dict[str, Any]:
        """Rounded, for results."""
        ends = None if self.interval is None else [round(end, DIGITS) for end in self.interval]
        return {"mean": round(self.mean, DIGITS), "interval": ends, "n": self.items}


def summaries(
    found: Float[Tensor, "items figures"], names: Sequence[str], seed: int = 0, yes_or_no: Collection[str] = ()
) -> dict[str, Summary]:
    """The summary of each figure that an item has; the same for a seed.

    Args:
        found: NaN where an item has no such figure.
        names: Of the columns.
        seed: Of the bootstrap.
        yes_or_no: Figures that are 0 or 1; where all items agree in one, its interval is Wilson's.
    """
    summed = {}
    for place, name in enumerate(names):
        column = found[:, place].double().numpy()
        values = column[~np.isnan(column)]
        if len(values):
            part = stratum(values.tolist(), np.ones(len(values)).tolist(), seed)
            told = not part.agree or name in yes_or_no
            summed[name] = Summary(part.mean, part.interval if told else None, part.items)
    return summed


def figures_of(row: Float[Tensor, " figures"], names: Sequence[str]) -> dict[str, float]:
    """The figures that an item has, by name, rounded for results."""
    return {name: round(value, DIGITS) for name, value in zip(names, row.tolist(), strict=True) if not np.isnan(value)}


def summary_table(summed: Mapping[str, Summary], better: Mapping[str, Better], title: str) -> Table:
    """Summaries for people to read; `better` says which way each figure is better."""
    table = Table("figure", "better", title=title, title_justify="left")
    for heading in ("mean", "95% interval", "items"):
        table.add_column(heading, justify="right")
    for name, entry in summed.items():
        span = "-" if entry.interval is None else f"{entry.interval[0]:.4f} to {entry.interval[1]:.4f}"
        table.add_row(name, better.get(name) or "", f"{entry.mean:.4f}", span, str(entry.items))
    return table
