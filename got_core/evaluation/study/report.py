"""A study's results as tables, on the terminal and in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from got_core.evaluation.bootstrap import LEVEL
from got_core.evaluation.significance import SIGNIFICANT
from got_core.evaluation.study.error_split import error_splits
from got_core.evaluation.study.estimates import Estimate
from got_core.evaluation.study.results import Results

NOTHING = "-"
"""Stands where there was nothing to score."""


@dataclass(frozen=True)
class Sheet:
    """A table: its title, what is to be known of it, headings, and rows."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def sheets(results: Results) -> list[Sheet]:
    """Means, differences and the split of the error; those without rows are left out."""
    return [sheet for sheet in (means(results), differences(results), split(results)) if sheet.rows]


def means(results: Results) -> Sheet:
    """One row an arm, one column a figure; points of a grid are left to its figure."""
    study = results.study
    note = (
        f"Means over seeds [Student's t intervals of {LEVEL:.0%}], and the number n of seeds with the figure. "
        "Where all seeds agree there is no interval. A seed decides initialisation, training samples and their order, "
        "noise and dropout, and the noise that is drawn from; all runs are scored on the same prompts, so nothing here "
        "is about other prompts."
    )
    rows: list[tuple[str, ...]] = []
    for arm in results.compared:
        figures = results.figures[arm]
        cells = (words(results.mean(arm, column)) for column in study.columns)
        rows.append((arm.backbone, arm.label, f"{len(figures)} of {len(study.seeds)}", *cells))
    return Sheet(f"Means after {study.steps:,} steps", note, ("backbone", "variant", "seeds", *study.columns), rows)


def differences(results: Results) -> Sheet:
    """One row a pair of arms and figure."""
    found = results.differences()
    tested = max((sum(entry.column == column for entry in found) for column in results.study.columns), default=0)
    note = (
        f"Paired by seed. Intervals stand for themselves; verdicts are at {SIGNIFICANT:.0%}, corrected for the "
        f"{tested} differences of each figure (Holm), with the corrected chance p. One seed, or seeds that all agree, "
        "give none. Figures are shares of a few dozen requests, so small differences come in few sizes."
    )
    rows: list[tuple[str, ...]] = [
        (
            entry.first.backbone,
            f"{entry.second.label} − {entry.first.label}",
            entry.column,
            words(entry.estimate, signed=True),
            NOTHING if entry.chance is None else f"{entry.chance:.3f}",
            entry.verdict,
        )
        for entry in found
    ]
    return Sheet("Paired differences", note, ("backbone", "difference", "figure", "mean", "p", "verdict"), rows)


def split(results: Results) -> Sheet:
    """One row a variant and figure: three scores, then the error's parts and their shares."""
    note = (
        "The error is 1 - own chain. The plan's part of it is what drawing from the true chain takes away, the "
        "drawing's is what is left then; shares are of the error, seed by seed, over seeds that have one. A plan's "
        "share below zero says that true chains were drawn worse than the model's own. Plan alone: the chain's boxes "
        "scored against the prompt as if drawn perfectly."
    )
    headings = (
        "backbone", "variant", "figure", "plan alone", "true chain", "own chain",
        "plan's part", "drawing's part", "plan's share", "drawing's share",
    )  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for entry in error_splits(results):
        scores = (entry.plan, entry.given, entry.own, entry.plans_part, entry.drawings_part)
        cells = [words(score) for score in (*scores, entry.plans_share, entry.drawings_share)]
        rows.append((entry.arm.backbone, entry.arm.variant, entry.figure, *cells))
    return Sheet("The plan's share of the error and the drawing's", note, headings, rows)


def words(estimate: Estimate | None, signed: bool = False) -> str:
    """A mean, its interval, and how many seeds it is of."""
    if estimate is None:
        return NOTHING
    sign = "+" if signed else ""
    mean = f"{estimate.mean:{sign}.3f}"
    if estimate.low is None or estimate.high is None:
        return f"{mean} n={estimate.number}"
    return f"{mean} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}] n={estimate.number}"


def terminal_tables(results: Results) -> list[Table]:
    """For rich, with the notes beneath."""
    made = []
    for sheet in sheets(results):
        table = Table(title=sheet.title, title_justify="left", caption=sheet.note, caption_justify="left")
        for heading in sheet.headings:
            table.add_column(heading, overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        made.append(table)
    return made


def markdown(results: Results, command: str, pictures: Sequence[str], mixed: Sequence[str] = ()) -> str:
    """A page with the command, the pictures by file name, the tables, and what is to be doubted or missing.

    Args:
        results: What was found.
        command: That makes it again.
        pictures: File names.
        mixed: Lines on what was made with other versions than these.
    """
    study = results.study
    seeds = ", ".join(str(seed) for seed in study.seeds)
    parts = [
        f"# {study.title}",
        f"{study.steps:,} steps, seeds {seeds}. What each figure came from is in `results.json`.",
        f"```bash\n{command}\n```",
    ]
    parts += [f"![{name}]({name})" for name in pictures]
    for sheet in sheets(results):
        parts += [f"## {sheet.title}", sheet.note, _markdown_table(sheet)]
    if mixed:
        parts += ["## Made with other versions", "\n".join(f"- {line}" for line in mixed)]
    if results.errors:
        parts += ["## Failed", "\n".join(f"- {name}: {error}" for name, error in results.errors.items())]
    return "\n\n".join(parts) + "\n"


def _markdown_table(sheet: Sheet) -> str:
    lines = [sheet.headings, ["---"] * len(sheet.headings), *sheet.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
