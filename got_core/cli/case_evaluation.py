"""`got evaluate interaction`, `got evaluate plans` and `got evaluate conversation`: cases of drawn scenes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning import Trainer
from rich.table import Table

from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, KEPT, evaluation_trainer, interruptible, print_entries
from got_core.cli.suite_drawing import OF_GENERATION, DrawnFrom, drawn_from, run_drawing
from got_core.cli.tables import print_table
from got_core.detection.base import FROM
from got_core.detection.loading import SCENES
from got_core.errors import UserError
from got_core.evaluation.results import RESULTS, check_writable, origin, write_results
from got_core.evaluation.scoring import Keeping
from got_core.evaluation.suites.cases import (
    CASES,
    PICTURES,
    Case,
    CaseFolder,
    CaseItems,
    CaseResult,
    CaseScoring,
    CaseSuite,
    Manner,
    case_result,
)
from got_core.evaluation.suites.conversation import CONVERSATION
from got_core.evaluation.suites.interaction import INTERACTION
from got_core.evaluation.suites.plans import PLANS
from got_core.pipelines.saving import open_model
from got_core.weights.files import checksum_of

CASE_SUITES = {suite.name: suite for suite in (INTERACTION, PLANS, CONVERSATION)}

REFERENCE = "reference"
"""Guidance by the source image."""

JUDGE = {FROM: {"detector": SCENES}, "detector": SCENES}


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw a suite's cases from a checkpoint, look at them, print a table and write `results.json`.

    Raises:
        UserError: Options that do not go together, or a folder that cannot be written to.
    """
    if not (options.checkpoint and options.output):
        raise UserError(
            f"got evaluate {options.suite} needs --checkpoint RUN to draw with and --output FOLDER to draw into"
        )
    suite, trainer = CASE_SUITES[options.suite], evaluation_trainer(options)
    drawn = drawn_from(options, (*OF_GENERATION, REFERENCE))
    if drawn.size[0] != drawn.size[1]:
        raise UserError(f"scenes are square, not {drawn.size[0]}x{drawn.size[1]}: give --size HEIGHTxWIDTH")
    folder = CaseFolder(Path(options.output))
    cases = suite.cases(options.number, drawn.size[0], drawn.seed, options.split)
    _draw(options, trainer, suite, folder, cases, drawn)
    check_writable(folder.root)
    items, keeping = CaseItems(folder, cases), Keeping(folder.root, JUDGE)
    scoring = CaseScoring(suite, items, options.batch_size, options.num_workers, keeping)
    with interruptible(trainer, KEPT.format(folder.root)):
        trainer.test(scoring, verbose=False)
    if trainer.is_global_zero:
        result = case_result(suite, cases, scoring.found, scoring.notes, BOOTSTRAP_SEED)
        files = [*(folder.root / PICTURES).glob("*.png"), folder.root / CASES]
        came = origin(folder.root, JUDGE, {"bootstrap": BOOTSTRAP_SEED}, {"cases": checksum_of(folder.root, files)})
        write_results(folder.root / RESULTS, result.as_json() | came)
        _print(result, folder.root)


def _draw(
    options: argparse.Namespace,
    trainer: Trainer,
    suite: CaseSuite,
    folder: CaseFolder,
    cases: Sequence[Case],
    drawn: DrawnFrom,
) -> None:
    """Draw the groups that are not there yet."""
    scales = {f"{name}_scale": scale for name, scale in drawn.scales.items()}
    drawing = {"num_inference_steps": options.steps, **scales}
    chosen = {name: getattr(options, name) for name in ("best_of", "temperature", "keep_rest")}
    manner = Manner(drawn.size, options.batch_size, drawing, **chosen)
    if trainer.is_global_zero:
        chosen |= {"number": options.number, "split": options.split}
        folder.prepare(cases, {**drawn.settings, "suite": suite.name, **chosen})
    wanted = folder.wanted(cases)
    if wanted:
        model = open_model(options.checkpoint).model
        run_drawing(trainer, suite.drawing(model, folder, wanted, manner), folder.root)
    trainer.strategy.barrier("drawn")


def _print(result: CaseResult, root: Path) -> None:
    """Means by category; overall with the interval. The intervals of categories are in the results."""
    title = f"{result.suite.name}, {root}, looked at by {SCENES}: means by category, and overall by scene"
    table = Table("figure", "better", title=title, title_justify="left")
    for heading in (*result.scores, "95% interval", "scenes"):
        table.add_column(heading, justify="right")
    for name, better in result.suite.figures.items():
        entries = [scores.get(name) for scores in result.scores.values()]
        means = ["-" if entry is None else f"{entry.mean:.3f}" for entry in entries]
        overall = entries[-1]
        span = overall.interval if overall is not None else None
        shown = "-" if span is None else f"{span[0]:.3f} to {span[1]:.3f}"
        table.add_row(name, better or "", *means, shown, str(overall.items if overall else 0))
    print_table(table)
    print_entries(result.missing, "missing, not looked at")
    print(f"written: {root / RESULTS}")
