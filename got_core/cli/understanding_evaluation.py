"""`got evaluate understanding`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from got_core.cli.evaluate import SCENES
from got_core.cli.evaluation_trainer import BOOTSTRAP_SEED, KEPT, evaluation_trainer, interruptible, print_entries
from got_core.cli.suite_drawing import find_run
from got_core.cli.tables import print_table
from got_core.errors import UserError
from got_core.evaluation.results import RESULTS, check_writable, origin, write_results
from got_core.evaluation.scoring import Keeping
from got_core.evaluation.suites.understanding import (
    AFTER,
    BEFORE,
    Probe,
    UnderstandingScoring,
    read_questions,
    read_texts,
    scene_chains,
    scene_questions,
    understanding_result,
    understanding_table,
)
from got_core.interfaces import Reasoner
from got_core.pipelines.saving import ModelFiles, open_model, trained_size
from got_core.weights.files import checksum
from got_core.weights.loading import fingerprint, origins


def evaluate(options: argparse.Namespace, rest: Sequence[str]) -> None:
    """Probe a reasoner before and after its training, print what changed and write `results.json`.

    Raises:
        UserError: Options that do not go together, nothing to be held against, nothing to ask, or a folder that
            cannot be written to.
    """
    if not (options.checkpoint and options.output and (options.prompts or options.texts)):
        raise UserError(
            "got evaluate understanding needs --checkpoint RUN, --output FOLDER, and --prompts scenes, "
            "--prompts QUESTIONS or --texts FILE"
        )
    files = find_run(options.checkpoint)
    probes = _probes(options, files.recipe)
    trainer = evaluation_trainer(options)
    output = Path(options.output)
    check_writable(output)
    missing: dict[str, str] = {}
    figures, asked_whom = {}, {}
    for when, place in ((BEFORE, options.before), (AFTER, options.checkpoint)):
        reasoner, asked_whom[when] = _trained(place) if place else _started_from(files)
        scoring = UnderstandingScoring(reasoner, probes, options.num_workers, Keeping(output, asked_whom[when]))
        with interruptible(trainer, KEPT.format(output)):
            trainer.test(scoring, verbose=False)
        figures[when] = scoring.found
        missing |= {probes[place].name: reason for place, reason in scoring.notes.items()}
    if not trainer.is_global_zero:
        return
    result = understanding_result(probes, figures, missing, BOOTSTRAP_SEED)
    asked = {name: path for name in ("prompts", "texts") if (path := getattr(options, name)) not in (None, SCENES)}
    sums = {"checkpoint": asked_whom[AFTER]["weights"], "before": asked_whom[BEFORE]["weights"]}
    sums |= {name: checksum(Path(path)) for name, path in asked.items()}
    came = origin(files.run.folder, {}, {"probes": options.seed or 0, "bootstrap": BOOTSTRAP_SEED}, sums)
    held = {"before": options.before or "the weights that the recipe starts from", "recipe": files.recipe}
    write_results(output / RESULTS, result | came | held)
    print_table(understanding_table(result["scores"], f"understanding, {options.checkpoint}"))
    for note in result["notes"]:
        print(f"note: {note}")
    print_entries(missing, "missing, not scored")
    print(f"written: {output / RESULTS}")


def _trained(place: str) -> tuple[Reasoner, dict[str, Any]]:
    """The reasoner of a run, and what stands for it."""
    files = find_run(place)
    weights = checksum(files.weights)
    return open_model(place).model.reasoner, {"model": files.recipe.get("model"), "weights": weights}


def _started_from(files: ModelFiles) -> tuple[Reasoner, dict[str, Any]]:
    """The reasoner as a run's recipe loads it, and what stands for it.

    Rows of added tokens are drawn at random, so the recipe's seed is set meanwhile.
    """
    with torch.random.fork_rng():
        torch.manual_seed(int(files.recipe.get("seed_everything") or 0))
        model = files.settings().build()
    if not origins(model.reasoner, (name for name, _ in model.reasoner.named_parameters())):
        raise UserError(
            f"{files.run.folder}: its reasoner started from random weights; give --before RUN to compare with"
        )
    return model.reasoner, {"model": files.recipe.get("model"), "weights": fingerprint(model.reasoner)}


def _probes(options: argparse.Namespace, recipe: Mapping[str, Any]) -> list[Probe]:
    probes: list[Probe] = []
    seed = options.seed or 0
    if options.prompts == SCENES:
        size = options.size or trained_size(recipe)
        if size is None or size[0] != size[1]:
            raise UserError("scenes are square: give --size HEIGHTxWIDTH, such as 32x32")
        probes += scene_chains(options.number, size[0], seed)
        probes += scene_questions(options.number, size[0], seed)
    elif options.prompts:
        probes += read_questions(Path(options.prompts), options.number, seed)
    if options.texts:
        probes += read_texts(Path(options.texts), options.number)
    return probes
