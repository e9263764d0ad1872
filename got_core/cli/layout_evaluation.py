"""`got evaluate layout`: how far drawings keep to the boxes that their chains planned."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from got_core.cli.evaluate import GROUNDING_DINO
from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, KEPT, evaluation_trainer, interruptible, print_entries
from got_core.cli.suite_drawing import PER_PROMPT, check_generation, draw_prompts, drawn_from
from got_core.cli.tables import print_table
from got_core.detection.loading import LayoutDetector, load_layout_detector
from got_core.evaluation.results import OVERALL, RESULTS, check_writable, missing_by_category, origin, write_results
from got_core.evaluation.scoring import Keeping
from got_core.evaluation.suites.generation import read_generation_prompts
from got_core.evaluation.suites.geneval import CHAINS
from got_core.evaluation.suites.layout import (
    LayoutFolder,
    LayoutResult,
    LayoutScoring,
    layout_result,
    layout_table,
    read_layouts,
)
from got_core.weights.files import checksum_of


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw prompts where a checkpoint is given, look for what was planned, print a table and write `results.json`.

    Raises:
        UserError: Options that do not go together, a detector that cannot be loaded, nothing to look at, or a folder
            that cannot be written to.
    """
    check_generation(options)
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or root)
    if options.images:
        folder = read_layouts(root, options.per_prompt)
        check_writable(output)
        judge = _judge(options)
    else:
        prompts, drawn = read_generation_prompts(Path(options.prompts)), drawn_from(options)
        judge = _judge(options)
        draw_prompts(options, trainer, prompts, drawn)
        folder = read_layouts(root, options.per_prompt or PER_PROMPT)
    keeping = Keeping(output, judge.description)
    scoring = LayoutScoring(folder, judge.detector, options.batch_size, options.num_workers, keeping)
    with interruptible(trainer, KEPT.format(output)):
        trainer.test(scoring, verbose=False)
    if trainer.is_global_zero:
        result = layout_result(folder, scoring.layouts, scoring.notes, BOOTSTRAP_SEED)
        write_results(output / RESULTS, result.as_json() | _origin(folder, judge))
        _print(result, judge, output / RESULTS)


def _judge(options: argparse.Namespace) -> LayoutDetector:
    return load_layout_detector(options.detector or GROUNDING_DINO)


def _origin(folder: LayoutFolder, judge: LayoutDetector) -> dict[str, Any]:
    """What a result came from."""
    chains = [entry.image.parent.parent / CHAINS / f"{entry.image.stem}.txt" for entry in folder.drawn]
    sums = {"images": checksum_of(folder.root, [*(entry.image for entry in folder.drawn), *chains])}
    return origin(folder.root, judge.description, {"bootstrap": BOOTSTRAP_SEED}, sums)


def _print(result: LayoutResult, judge: LayoutDetector, file: Path) -> None:
    title = f"Layout, {result.folder.root}, looked at by {judge.source}"
    print_table(layout_table(result.scores, missing_by_category(result.missing), title))
    overall = result.scores[OVERALL]
    if not overall.planned:
        print("no chain has a box that the detector could look for, so there is nothing to hold the images against")
    if overall.unasked:
        print(f"not looked for: {overall.unasked} planned boxes whose phrase names nothing that the detector knows")
    print_entries(dict.fromkeys(result.without_boxes, "it counts in no figure"), "chain without a box")
    print_entries(dict.fromkeys(result.nothing_found, "its boxes count as missed"), "nothing found")
    print_entries({entry.place: entry.reason for entry in result.missing}, "missing, not looked at")
    print(f"written: {file}")
