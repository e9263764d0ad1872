"""A study's results as JSON: everything that was measured, what follows from it, and what it all came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from got_core.evaluation.provenance import checksum
from got_core.evaluation.study.error_split import error_splits
from got_core.evaluation.study.essentials import made_with
from got_core.evaluation.study.machine import machine
from got_core.evaluation.study.record import State, made_by
from got_core.evaluation.study.results import Arm, Results
from got_core.evaluation.study.runs import TrainedRun
from got_core.paths import Run, locate

NAMED = 3
"""Runs that a line names before it only counts."""


def as_json(
    results: Results, planned: Sequence[TrainedRun], command: str, file: str, mixed: Sequence[str]
) -> dict[str, Any]:
    """What `results.json` holds.

    Args:
        results: What was found.
        planned: The study's runs.
        command: That makes it again.
        file: The study's.
        mixed: Lines on what was made with other versions than these.
    """
    study = results.study
    return {
        "title": study.title,
        "command": command,
        "steps": study.steps,
        "seeds": list(study.seeds),
        "study": {"file": file, "sha256": checksum(Path(locate(file)))},
        "recipes": {name: checksum(Path(locate(name))) for files in study.backbones.values() for name in files},
        "machine": machine(),
        "runs": [_run(run) for run in planned if run.training.state is State.FINISHED],
        "figures": [
            {**asdict(arm), "seed": seed, "figures": dict(figures)}
            for arm, by_seed in results.figures.items()
            for seed, figures in by_seed.items()
        ],
        "means": [
            {**asdict(arm), "figure": column, **asdict(found)}
            for arm in results.figures
            for column in study.columns
            if (found := results.mean(arm, column)) is not None
        ],
        "differences": [
            {
                "backbone": found.first.backbone,
                "first": found.first.label,
                "second": found.second.label,
                "figure": found.column,
                **asdict(found.estimate),
                "corrected_chance": found.chance,
                "verdict": found.verdict,
            }
            for found in results.differences()
        ],
        "split": [asdict(entry) for entry in error_splits(results)],
        "made_with_other_versions": list(mixed),
        "errors": dict(results.errors),
    }


def mixed_versions(planned: Sequence[TrainedRun]) -> list[str]:
    """What runs and their scorings were not made with these versions and this code alone, by difference."""
    found: dict[str, list[str]] = {}
    for run in planned:
        here = made_with(run.settings)
        for scoring in (None, *run.study.scorings):
            task = run.task(scoring)
            if task.state is State.FINISHED:
                for line in _differing(made_by(task.folder), here):
                    found.setdefault(line, []).append(task.name)
    return [f"{line}: {_some(names)}" for line, names in found.items()]


def _differing(others: Sequence[Mapping[str, str]], here: Mapping[str, str]) -> list[str]:
    lines = {
        f"{name} was {there.get(name, 'none')} and is {here.get(name, 'none')}"
        for there in others
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    }
    return sorted(lines)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _run(run: TrainedRun) -> dict[str, Any]:
    """Where a run lies and what it came from."""
    files = Run(run.folder)
    return {
        **asdict(Arm(run.backbone, run.variant)),
        "seed": run.seed,
        "folder": str(run.folder),
        "made_with": made_by(run.folder),
        "recipe": yaml.safe_load(files.recipe.read_text(encoding="utf-8")),
        "checkpoint_sha256": checksum(files.last) if files.last.exists() else None,
        "scored_in": {name: str(run.scored_in(name)) for name in run.study.scorings},
    }
