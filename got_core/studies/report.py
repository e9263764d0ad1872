"""A study's results as tables and diagrams."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table

from got_core.evaluation.answers import LABELS
from got_core.evaluation.statistics import LEVEL, SIGNIFICANT, Estimate
from got_core.studies.analysis import Arm, Results, error_splits
from got_core.studies.spec import Grid, point_name

NOTHING = "-"
"""The cell of a score that does not exist."""


@dataclass(frozen=True)
class Sheet:
    """A table: its title, a note on how to read it, headings, and rows."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(results: Results) -> list[Sheet]:
    """List means, differences and the split of the error; those without rows are left out."""
    return [sheet for sheet in (means(results), differences(results), split(results)) if sheet.rows]


def means(results: Results) -> Sheet:
    """Tabulate means: one row an arm, one column a metric; points of a grid are left to its diagram.

    Below stand the scores of the answers.
    """
    study = results.study
    note = (
        f"Means over seeds [Student's t intervals of {LEVEL:.0%}], and the number n of seeds with the metric. "
        "Where all seeds agree there is no interval. A seed decides initialisation, training samples and their order, "
        "noise and dropout, and the noise that images are generated from; all runs are scored on the same prompts, so "
        "nothing here is about other prompts."
    )
    rows = [
        (
            arm.backbone,
            arm.label,
            f"{len(results.scores[arm])} of {len(study.seeds)}",
            *(words(results.mean(arm, column)) for column in study.columns),
        )
        for arm in results.compared
    ]
    for answer, label in LABELS.items():
        if answer in results.answers:
            own = [results.answers[answer].get(column) for column in study.columns]
            rows.append(("", label, "", *(NOTHING if value is None else f"{value:.3f}" for value in own)))
    return Sheet(f"Means after {study.steps:,} steps", note, ("backbone", "variant", "seeds", *study.columns), rows)


def differences(results: Results) -> Sheet:
    """Tabulate differences: one row a pair of arms and metric."""
    entries = results.differences()
    tested = max((sum(entry.metric == column for entry in entries) for column in results.study.columns), default=0)
    note = (
        f"Paired by seed. Intervals are not corrected; conclusions are at {SIGNIFICANT:.0%}, corrected for the "
        f"{tested} differences of each metric (Holm), with the corrected p-value p. One seed, or seeds that all agree, "
        "give none. Scores are fractions of a few dozen requests, so small differences come in few sizes."
    )
    rows: list[tuple[str, ...]] = [
        (
            entry.first.backbone,
            f"{entry.second.label} − {entry.first.label}",
            entry.metric,
            words(entry.estimate, signed=True),
            NOTHING if entry.p_value is None else f"{entry.p_value:.3f}",
            entry.conclusion,
        )
        for entry in entries
    ]
    return Sheet("Paired differences", note, ("backbone", "difference", "metric", "mean", "p", "conclusion"), rows)


def split(results: Results) -> Sheet:
    """Tabulate the error: one row a variant and metric, with three scores, the error's parts and their fractions."""
    note = (
        "The error is 1 - own chain. The plan's part of it is what generating from the true chain takes away, the "
        "image's is what is left then; fractions are of the error, seed by seed, over seeds that have one. A plan's "
        "fraction below zero means that true chains did worse than the model's own. Plan alone: the chain's boxes "
        "scored against the prompt as if generated perfectly."
    )
    headings = (
        "backbone", "variant", "metric", "plan alone", "true chain", "own chain",
        "plan's part", "image's part", "plan's fraction", "image's fraction",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for entry in error_splits(results):
        parts = entry.plan_part, entry.image_part, entry.plan_fraction, entry.image_fraction
        cells = (words(score) for score in (entry.plan, entry.given, entry.own, *parts))
        rows.append((entry.arm.backbone, entry.arm.variant, entry.metric, *cells))
    return Sheet("The plan's part of the error and the image's", note, headings, rows)


def words(estimate: Estimate | None, signed: bool = False) -> str:
    """Write a mean, its interval, and its number of seeds."""
    if estimate is None:
        return NOTHING
    sign = "+" if signed else ""
    mean = f"{estimate.mean:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{mean} n={estimate.number}"
    return f"{mean} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}] n={estimate.number}"


def terminal_tables(results: Results) -> list[Table]:
    """Make tables for rich, with the notes beneath."""
    tables = []
    for sheet in sheets(results):
        table = Table(title=sheet.title, title_justify="left", caption=sheet.note, caption_justify="left")
        for heading in sheet.headings:
            table.add_column(heading, overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        tables.append(table)
    return tables


def markdown(results: Results, *, command: str, images: Sequence[str], mixed: Sequence[str] = ()) -> str:
    """Write a page with the command, the diagrams by file name, the tables, and what failed or was made otherwise.

    Args:
        results: The scores.
        command: That makes it again.
        images: File names.
        mixed: Lines on what was made with other versions.
    """
    study = results.study
    parts = [
        f"# {study.title}",
        f"{study.steps:,} steps, seeds {', '.join(map(str, study.seeds))}. "
        "What each score came from is in `results.json`.",
        f"```bash\n{command}\n```",
        *(f"![{name}]({name})" for name in images),
    ]
    for sheet in sheets(results):
        lines = [sheet.headings, ["---"] * len(sheet.headings), *sheet.rows]
        parts += [f"## {sheet.title}", sheet.note, "\n".join(f"| {' | '.join(cells)} |" for cells in lines)]
    if mixed:
        parts += ["## Made with other versions", "\n".join(f"- {line}" for line in mixed)]
    if results.errors:
        parts += ["## Failed", "\n".join(f"- {name}: {error}" for name, error in results.errors.items())]
    return "\n\n".join(parts) + "\n"


PANEL_WIDTH, ROW_HEIGHT, MARGIN = 3.2, 0.32, 1.0
"""In inches."""

MOST_ACROSS = 4
"""Panels side by side; more would be too small to read on a page."""

SPREAD = 0.5
"""Between the backbones of a variant, as a fraction of the distance between two variants."""

DOTS = 150
"""Per inch."""

MOST_TICKS = 4
"""Intervals between the numbers below a panel."""


def draw_means(results: Results, path: Path) -> bool:
    """Draw means with their intervals: one panel a metric, one line a variant, one colour a backbone.

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
    diagram = Figure(figsize=(PANEL_WIDTH * (across + 1), height), layout="constrained")
    panels = diagram.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel, column in zip(panels, study.columns, strict=False):
        for index, backbone in enumerate(study.backbones):
            offset = SPREAD * ((index + 0.5) / len(study.backbones) - 0.5)
            heights = {arm: labels.index(arm.label) + offset for arm in arms if arm.backbone == backbone}
            means = [(height, mean) for arm, height in heights.items() if (mean := results.mean(arm, column))]
            centres, rows = [mean.mean for _, mean in means], [height for height, _ in means]
            half_widths = [0.0 if mean.high is None else mean.high - mean.mean for _, mean in means]
            panel.errorbar(centres, rows, xerr=half_widths, fmt="o", capsize=3, label=backbone)
        panel.set_title(column)
        panel.grid(axis="x", alpha=0.3)
        panel.xaxis.set_major_locator(MaxNLocator(MOST_TICKS))
    for panel in panels[len(study.columns) :]:
        panel.remove()
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    diagram.suptitle(f"{study.title}, {study.steps:,} steps")
    bars = f"bars are Student's t intervals of {LEVEL:.0%}, which seeds that all agree have none of"
    over = "One seed." if len(study.seeds) == 1 else f"Means over {len(study.seeds)} seeds; {bars}."
    diagram.supxlabel(over, fontsize="medium")
    if len(study.backbones) > 1:
        diagram.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    diagram.savefig(path, dpi=DOTS)
    return True


def draw_grid(results: Results, backbone: str, variant: str, path: Path) -> None:
    """Draw the grid's means as maps: rows and columns are the first two axes, each panel a value of the third.

    One row of panels a metric, with one scale of colours.
    """
    study, grid = results.study, results.study.grid
    name, third = list(grid.axes.items())[2] if len(grid.axes) > 2 else ("", None)
    across = [""] if third is None else [f", {name} {value:g}" for value in third.values]
    shape = len(study.columns), len(across)
    diagram = Figure(figsize=(PANEL_WIDTH * shape[1] + MARGIN, PANEL_WIDTH * shape[0]), layout="constrained")
    panels = diagram.subplots(*shape, squeeze=False)
    for row, column in zip(panels, study.columns, strict=True):
        values = grid_means(results, backbone, variant, column)
        known = values[~np.isnan(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        for index, suffix in enumerate(across):
            _draw_map(row[index], values[:, :, index], grid, low=low, high=high)
            row[index].set_title(f"{column}{suffix}")
    diagram.suptitle(f"{study.title}: {backbone}, {variant}, {study.steps:,} steps")
    over = "One seed" if len(study.seeds) == 1 else f"Means over {len(study.seeds)} seeds"
    diagram.supxlabel(f"{over}, without intervals; one scale of colours a metric.", fontsize="medium")
    diagram.savefig(path, dpi=DOTS)


def grid_means(results: Results, backbone: str, variant: str, column: str) -> Float[np.ndarray, "r c p"]:
    """Find the mean score at each point, along up to three axes; NaN without a score."""
    axes = results.study.grid.axes
    values = np.full([len(axis.values) for axis in axes.values()] + [1] * (3 - len(axes)), np.nan)
    for indices in np.ndindex(values.shape):
        point = {name: axis.values[index] for (name, axis), index in zip(axes.items(), indices, strict=False)}
        mean = results.mean(Arm(backbone, variant, point_name(point)), column)
        values[indices] = np.nan if mean is None else mean.mean
    return values


def _draw_map(panel: Axes, values: Float[np.ndarray, "r c"], grid: Grid, *, low: float, high: float) -> None:
    panel.imshow(values, vmin=low, vmax=high, cmap=matplotlib.colormaps["viridis"], aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        bright = np.isnan(value) or value > (low + high) / 2
        text = NOTHING if np.isnan(value) else f"{value:.3f}"
        panel.text(column, row, text, ha="center", va="center", color="black" if bright else "white")
    ticks = [(name, [f"{value:g}" for value in axis.values]) for name, axis in grid.axes.items()]
    (rows, at_rows), (columns, at_columns) = (*ticks, ("", []))[:2]
    panel.set_yticks(range(len(at_rows)), at_rows)
    panel.set_ylabel(rows)
    panel.set_xticks(range(len(at_columns)), at_columns)
    panel.set_xlabel(columns)
