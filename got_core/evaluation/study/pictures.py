"""A study's results as figures."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from got_core.evaluation.bootstrap import LEVEL
from got_core.evaluation.study.plan import Grid, Study, point_name
from got_core.evaluation.study.results import Arm, Results

PANEL_WIDTH, ROW_HEIGHT, MARGIN = 3.2, 0.32, 1.0
"""In inches."""

MOST_ACROSS = 4
"""Panels side by side: more of them are too small to be read in a page."""

SPREAD = 0.5
"""Of the backbones of a variant, as a share of the distance between two variants."""

DOTS = 150
"""Dots an inch."""

MOST_TICKS = 4
"""Intervals between the numbers below a panel."""

MISSING = "-"
"""Stands where there was nothing to score."""


def draw_means(results: Results, path: Path) -> bool:
    """Draw means with their intervals: one panel a figure, one line a variant, one colour a backbone.

    Points of a grid are left to `draw_grid`.

    Returns:
        Whether there was more than one arm to draw.
    """
    study, arms = results.study, results.compared
    if len(arms) < 2:
        return False
    labels = list(dict.fromkeys(arm.label for arm in arms))
    down = ceil(len(study.columns) / MOST_ACROSS)
    across = ceil(len(study.columns) / down)
    height = down * (MARGIN + ROW_HEIGHT * len(labels) * len(study.backbones)) + MARGIN
    panels = Figure(figsize=(PANEL_WIDTH * (across + 1), height), layout="constrained")
    axes = panels.subplots(down, across, sharey=True, squeeze=False).ravel()
    for axis, column in zip(axes, study.columns, strict=False):
        for place, backbone in enumerate(study.backbones):
            offset = SPREAD * ((place + 0.5) / len(study.backbones) - 0.5)
            own = [arm for arm in arms if arm.backbone == backbone]
            _draw_points(axis, results, own, column, [labels.index(arm.label) + offset for arm in own])
        axis.set_title(column)
        axis.grid(axis="x", alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    for axis in axes[len(study.columns) :]:
        axis.remove()
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    panels.suptitle(f"{study.title}, {study.steps:,} steps")
    panels.supxlabel(_caption(study), fontsize="medium")
    if len(study.backbones) > 1:
        panels.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    panels.savefig(path, dpi=DOTS)
    return True


def _caption(study: Study) -> str:
    number = len(study.seeds)
    if number == 1:
        return "One seed."
    bars = f"bars are Student's t intervals of {LEVEL:.0%}, which seeds that all agree have none of"
    return f"Means over {number} seeds; {bars}."


def _draw_points(axis: Axes, results: Results, arms: Sequence[Arm], column: str, heights: Sequence[float]) -> None:
    drawn = [(height, found) for arm, height in zip(arms, heights, strict=True) if (found := results.mean(arm, column))]
    means = [found.mean for _, found in drawn]
    sides = [[0.0 if end is None else abs(end - found.mean) for _, found in drawn for end in [getattr(found, side)]]
             for side in ("low", "high")]  # fmt: skip
    label = arms[0].backbone if arms else None
    axis.errorbar(means, [height for height, _ in drawn], xerr=sides, fmt="o", capsize=3, label=label)


def draw_grid(results: Results, backbone: str, variant: str, path: Path) -> None:
    """Draw the grid's means as maps: rows and columns are the first two axes, each panel a value of the third.

    One row of panels a figure, with one scale of colours.
    """
    study = results.study
    across = study.grid.axes[2].values if len(study.grid.axes) > 2 else (None,)
    shape = (len(study.columns), len(across))
    maps = [grid_means(results, backbone, variant, column) for column in study.columns]
    panels = Figure(figsize=(PANEL_WIDTH * shape[1] + MARGIN, PANEL_WIDTH * shape[0]), layout="constrained")
    axes = panels.subplots(*shape, squeeze=False)
    for row, (column, values) in enumerate(zip(study.columns, maps, strict=True)):
        for place, third in enumerate(across):
            axis = axes[row, place]
            _draw_map(axis, values[:, :, place], study.grid, _range(values))
            suffix = "" if third is None else f", {study.grid.axes[2].name} {third:g}"
            axis.set_title(f"{column}{suffix}")
    panels.suptitle(f"{study.title}: {backbone}, {variant}, {study.steps:,} steps")
    over = "One seed" if len(study.seeds) == 1 else f"Means over {len(study.seeds)} seeds"
    panels.supxlabel(f"{over}, without intervals; one scale of colours a figure.", fontsize="medium")
    panels.savefig(path, dpi=DOTS)


def grid_means(results: Results, backbone: str, variant: str, column: str) -> Float[np.ndarray, "r c p"]:
    """The mean figure at each point, along up to three axes; NaN where there is none."""
    axes = results.study.grid.axes
    values = np.full([len(axis.values) for axis in axes] + [1] * (3 - len(axes)), np.nan)
    for place in np.ndindex(values.shape):
        named = {axis.name: axis.values[index] for axis, index in zip(axes, place, strict=False)}
        found = results.mean(Arm(backbone, variant, point_name(named)), column)
        values[place] = np.nan if found is None else found.mean
    return values


def _range(values: Float[np.ndarray, "r c p"]) -> tuple[float, float]:
    """The smallest and the largest value there is."""
    there = values[~np.isnan(values)]
    return (float(there.min()), float(there.max())) if there.size else (0.0, 1.0)


def _draw_map(axis: Axes, values: Float[np.ndarray, "r c"], grid: Grid, ends: tuple[float, float]) -> None:
    low, high = ends
    axis.imshow(values, vmin=low, vmax=high, cmap=matplotlib.colormaps["viridis"], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        bright = np.isnan(value) or value > (low + high) / 2
        text = MISSING if np.isnan(value) else f"{value:.3f}"
        axis.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    rows, columns = grid.axes[0], grid.axes[1] if len(grid.axes) > 1 else None
    axis.set_yticks(range(len(rows.values)), [f"{value:g}" for value in rows.values])
    axis.set_ylabel(rows.name)
    ticks = [] if columns is None else [f"{value:g}" for value in columns.values]
    axis.set_xticks(range(len(ticks)), ticks)
    axis.set_xlabel("" if columns is None else columns.name)
