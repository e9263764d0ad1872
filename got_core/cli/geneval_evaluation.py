"""`got evaluate geneval`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer

from got_core.cli.evaluate import MASK2FORMER
from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, evaluation_trainer, interruptible, print_entries
from got_core.cli.suite_drawing import PER_PROMPT, check_generation, draw_prompts, drawn_from
from got_core.cli.tables import print_table
from got_core.detection.base import CATEGORIES
from got_core.detection.loading import GenEvalDetector, load_geneval_detector
from got_core.evaluation.results import OVERALL, RESULTS, check_writable, missing_by_category, origin, write_results
from got_core.evaluation.suites.geneval import (
    METADATA,
    FolderScoring,
    GenEvalFolder,
    GenEvalResult,
    against,
    check_words,
    geneval_result,
    read_folder,
    read_prompts,
    score_table,
)
from got_core.weights.files import checksum, checksum_of


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw GenEval's prompts where a checkpoint is given, score a folder, print a table and write `results.json`.

    Raises:
        UserError: Options that do not go together, a judge that cannot be loaded, nothing to score, or a folder that
            cannot be written to.
    """
    check_generation(options, "prompts")
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or root)
    if options.images:
        folder = _folder(root, options)
        check_writable(output)
        judge = load_geneval_detector(options.detector or MASK2FORMER, options.clip)
    else:
        judge = _draw(options, trainer)
        folder = _folder(root, options)
    check_words([prompt.metadata for prompt in folder.prompts], judge.detector)
    scoring = FolderScoring(folder, judge, output, options.batch_size, options.num_workers)
    with interruptible(trainer, f"the verdicts so far are kept in {output}; the same command goes on"):
        trainer.test(scoring, verbose=False)
    if trainer.is_global_zero:
        result = geneval_result(folder, scoring.found, scoring.details, scoring.notes, BOOTSTRAP_SEED)
        write_results(output / RESULTS, result.as_json() | _origin(folder, judge, options))
        _print(result, judge, output / RESULTS)


def _folder(root: Path, options: argparse.Namespace) -> GenEvalFolder:
    folder = read_folder(root, options.per_prompt or (PER_PROMPT if options.checkpoint else None))
    return against(folder, read_prompts(Path(options.prompts))) if options.prompts else folder


def _draw(options: argparse.Namespace, trainer: Trainer) -> GenEvalDetector:
    """Draw the images that are not there yet; who will judge them is loaded before."""
    prompts = read_prompts(Path(options.prompts))
    drawn = drawn_from(options)
    judge = load_geneval_detector(options.detector or MASK2FORMER, options.clip)
    check_words(prompts, judge.detector)
    draw_prompts(options, trainer, prompts, drawn)
    return judge


def _origin(folder: GenEvalFolder, judge: GenEvalDetector, options: argparse.Namespace) -> dict[str, Any]:
    """What a result came from."""
    files = [image for _, image in folder.images]
    files += [folder.root / prompt.folder / METADATA for prompt in folder.prompts]
    sums = {"prompts": checksum(Path(options.prompts))} if options.prompts else {}
    sums["images"] = checksum_of(folder.root, files)
    return origin(folder.root, judge.description, {"bootstrap": BOOTSTRAP_SEED}, sums)


def _print(result: GenEvalResult, judge: GenEvalDetector, file: Path) -> None:
    title = f"GenEval, {result.folder.root}, judged by {' and '.join(judge.sources.values())}"
    print_table(score_table(result.scores, missing_by_category(result.missing), result.folder.per_prompt, title))
    absent = [name for name in CATEGORIES if name not in result.scores]
    if absent:
        print(f"overall is the mean of {len(CATEGORIES) - len(absent)} categories: none of {', '.join(absent)} is here")
    if result.scores[OVERALL].interval is None:
        print("no interval where a category has too few prompts to tell")
    print_entries({entry.place: entry.reason for entry in result.missing}, "missing, not scored")
    print(f"written: {file}")
