"""`got evaluate editing`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer

from got_core.cli.evaluate import NONE, SCENES
from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, KEPT, evaluation_trainer, interruptible, print_entries
from got_core.cli.suite_drawing import OF_GENERATION, check_generation, drawn_from, run_drawing
from got_core.cli.tables import print_table
from got_core.detection.base import FROM, weight_files
from got_core.errors import UserError
from got_core.evaluation.metrics.chat_judge import QUESTION, ChatJudge, SavedAnswers
from got_core.evaluation.metrics.similarity import ClipEmbedding, DinoEmbedding, PerceptualDistance
from got_core.evaluation.results import RESULTS, check_writable, origin, summary_table, write_results
from got_core.evaluation.scoring import Keeping
from got_core.evaluation.suites.edit_datasets import read_edits, with_outputs
from got_core.evaluation.suites.editing import (
    METRICS,
    EditDrawing,
    EditJudges,
    EditRequest,
    EditResult,
    EditScoring,
    edit_result,
    prepare_edits,
    requests_of,
    scene_requests,
    wanted_edits,
)
from got_core.pipelines.saving import open_model
from got_core.weights.files import checksum, checksum_of

ANSWERS = "judge"
"""Folder of the judge's answers, beside the results."""

REFERENCE = "reference"
"""Guidance by the source image."""


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Draw edits where a checkpoint is given, score a set, print a table and write `results.json`.

    Raises:
        UserError: Options that do not go together, a judge that cannot be loaded or reached, nothing to score, or a
            folder that cannot be written to.
    """
    check_generation(options)
    if bool(options.judge_url) != bool(options.judge_model):
        raise UserError("a judge needs both --judge-url URL and --judge-model NAME")
    trainer = evaluation_trainer(options)
    root = Path(options.images or options.output)
    output = Path(options.output or (root if root.is_dir() else root.parent))
    judges = _judges(options, output)
    if options.checkpoint:
        _draw(options, trainer)
    edits = with_outputs(read_edits(root, options.method))
    check_writable(output)
    description = _description(options)
    keeping = Keeping(output, {**description, "judge": options.judge_url})
    scoring = EditScoring(edits, judges, options.batch_size, options.num_workers, keeping)
    with interruptible(trainer, KEPT.format(output)):
        trainer.test(scoring, verbose=False)
    if trainer.is_global_zero:
        result = edit_result(edits, scoring.found, scoring.notes, BOOTSTRAP_SEED)
        sums = {"edits": _checksum(result)}
        came = origin(edits.place, description, {"bootstrap": BOOTSTRAP_SEED}, sums)
        write_results(output / RESULTS, result.as_json() | came)
        _print(result, output / RESULTS)


def _judges(options: argparse.Namespace, output: Path) -> EditJudges:
    chat = None
    if options.judge_url:
        asked = ChatJudge(options.judge_url, options.judge_model, options.judge_key, options.judge_timeout)
        chat = SavedAnswers(asked, output / ANSWERS)
    return EditJudges(
        clip=None if options.clip == NONE else ClipEmbedding.from_saved(options.clip),
        dino=None if options.dino == NONE else DinoEmbedding.from_saved(options.dino),
        perceptual=PerceptualDistance.from_file(Path(options.lpips)) if options.lpips else None,
        chat=chat,
    )


def _description(options: argparse.Namespace) -> dict[str, Any]:
    """What results say of the judges; those that differ only in the places they came `FROM` are the same."""
    given = {name: getattr(options, name) for name in ("clip", "dino", "lpips")}
    places = {name: place for name, place in given.items() if place not in (None, NONE)}
    files = {f"{name}/{file.name}": file for name in places if name != "lpips" for file in weight_files(places[name])}
    files |= {"lpips": Path(options.lpips)} if options.lpips else {}
    chat = {"model": options.judge_model, "question": QUESTION} if options.judge_url else None
    places |= {"chat": options.judge_url} if options.judge_url else {}
    return {FROM: places, "weights": {name: checksum(file) for name, file in files.items()}, "chat": chat}


def _draw(options: argparse.Namespace, trainer: Trainer) -> None:
    """Draw the edits that are not there yet."""
    drawn = drawn_from(options, (*OF_GENERATION, REFERENCE))
    root = Path(options.output)
    requests = _requests(options, drawn.size, drawn.seed)
    if trainer.is_global_zero:
        scenes = options.prompts == SCENES
        asked = {"scenes": len(requests)} if scenes else {"prompts": checksum(Path(options.prompts))}
        prepare_edits(root, requests, drawn.size, {**drawn.settings, **asked})
    wanted = wanted_edits(root, requests, drawn.seed)
    if wanted:
        model = open_model(options.checkpoint).model
        scales = replace(model.editing_scales, **drawn.scales)
        run_drawing(trainer, EditDrawing(model, wanted, drawn.size, options.batch_size, options.steps, scales), root)
    trainer.strategy.barrier("drawn")


def _requests(options: argparse.Namespace, size: tuple[int, int], seed: int) -> list[EditRequest]:
    if options.prompts != SCENES:
        return requests_of(read_edits(Path(options.prompts), options.method))
    if size[0] != size[1]:
        raise UserError(f"scenes are square, not {size[0]}x{size[1]}: give --size HEIGHTxWIDTH")
    return scene_requests(options.number, size[0], seed)


def _checksum(result: EditResult) -> str:
    """Of all images that were scored; of a table, or a folder of tables, of the whole."""
    pictures = [picture for case in result.edits.cases for picture in (case.source, case.output)]
    files = [picture for picture in pictures if isinstance(picture, Path)]
    return checksum_of(result.edits.place, files) if files else checksum(result.edits.place)


def _print(result: EditResult, file: Path) -> None:
    place, scored = result.edits.place, len(result.edits.cases)
    print_table(summary_table(result.scores, METRICS, f"edits, {place}, {scored} with an output"))
    print_entries(result.missing, "missing, not scored")
    print_entries(result.unjudged, "without the judge's score")
    print(f"written: {file}")
