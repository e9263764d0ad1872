"""What a study has found: scores, means over seeds, paired differences, and the planner's part of the error."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from got_core.evaluation.statistics import SIGNIFICANT, Estimate, estimate, holm
from got_core.evaluation.suites.callbacks import read_figures
from got_core.paths import Run, locate
from got_core.studies.identity import State, made_by, made_with
from got_core.studies.runner import machine
from got_core.studies.runs import TrainedRun
from got_core.studies.spec import Study
from got_core.weights.files import checksum


@dataclass(frozen=True)
class Arm:
    """What is measured under several seeds: a variant of a backbone as it was scored.

    Attributes:
        backbone, variant: Names in the study.
        scoring: An evaluation or a point of the grid; None for the run's own scores.
    """

    backbone: str
    variant: str
    scoring: str | None = None

    @property
    def label(self) -> str:
        """Variant and scoring."""
        return self.variant if self.scoring is None else f"{self.variant}, {self.scoring}"


@dataclass(frozen=True)
class PairedDifference:
    """By how much one arm is above another, seed by seed.

    Attributes:
        first, second: The arms; both have the same backbone.
        column: The figure.
        estimate: Of second minus first, over the seeds that both have.
        chance: That of the estimate, corrected for the number of differences of this figure in the study; None where
            there is no interval.
    """

    first: Arm
    second: Arm
    column: str
    estimate: Estimate
    chance: float | None = None

    @property
    def verdict(self) -> str:
        """What can be said, in words."""
        if self.chance is None:
            return "one seed: none" if self.estimate.number == 1 else "no spread: none"
        if self.chance >= SIGNIFICANT:
            return "not told from zero"
        return "above zero" if self.estimate.mean > 0 else "below zero"


Figures = Mapping[int, Mapping[str, float | None]]
"""The figures of each seed that there is; None where there was nothing to score."""


@dataclass(frozen=True)
class Results:
    """The figures of a study.

    Attributes:
        study: The study.
        figures: Of each arm; the arms are in the study's order, each followed by its scorings.
        errors: Why runs and scorings that failed did, by name.
    """

    study: Study
    figures: Mapping[Arm, Figures]
    errors: Mapping[str, str]

    @property
    def compared(self) -> list[Arm]:
        """All arms but the points of a grid, of which there are many."""
        return [arm for arm in self.figures if arm.scoring is None or arm.scoring in self.study.evaluations]

    def mean(self, arm: Arm, column: str) -> Estimate | None:
        """Over the seeds that have the figure; None where none has."""
        return estimate([value for row in self.figures[arm].values() if (value := row[column]) is not None])

    def difference(self, first: Arm, second: Arm, column: str) -> PairedDifference | None:
        """Second minus first, over the seeds that both have the figure of; None where there is none."""
        pairs = [
            (row[column], self.figures[second][seed][column])
            for seed, row in self.figures[first].items()
            if seed in self.figures[second]
        ]
        found = estimate([b - a for a, b in pairs if a is not None and b is not None])
        return None if found is None else PairedDifference(first, second, column, found)

    def differences(self) -> list[PairedDifference]:
        """The differences of `pairs` in every column, verdicts corrected for their number within a column."""
        by_column = {}
        for column in self.study.columns:
            found = [self.difference(first, second, column) for first, second in self.pairs()]
            by_column[column] = _corrected([difference for difference in found if difference is not None])
        places = {pair: place for place, pair in enumerate(self.pairs())}
        found_all = [difference for found in by_column.values() for difference in found]
        return sorted(found_all, key=lambda difference: places[difference.first, difference.second])

    def pairs(self) -> list[tuple[Arm, Arm]]:
        """The arms that are compared.

        Variants with those before them, or those that the study pairs, and every evaluation with the same run's own
        scores. Points of a grid are not compared: there are many, and one of them would win by chance.
        """
        found = []
        for first, second in combinations(self.figures, 2):
            if first.backbone != second.backbone or first.scoring is not None:
                continue
            if second.scoring is None:
                found += self._pair(first, second)
            elif first.variant == second.variant and second.scoring in self.study.evaluations:
                found.append((first, second))
        return found

    def _pair(self, first: Arm, second: Arm) -> list[tuple[Arm, Arm]]:
        if self.study.compare is None or (first.variant, second.variant) in self.study.compare:
            return [(first, second)]
        return [(second, first)] if (second.variant, first.variant) in self.study.compare else []


def collect(study: Study, planned: Sequence[TrainedRun], errors: Mapping[str, str]) -> Results:
    """Read the figures of all runs and scorings that have finished.

    Args:
        study: The study.
        planned: Its runs.
        errors: Why others have no figures.
    """
    figures: dict[Arm, dict[int, dict[str, float | None]]] = {
        Arm(backbone, variant, scoring): {}
        for backbone, variant in study.combinations
        for scoring in (None, *study.scorings)
    }
    for run in planned:
        for scoring in (None, *study.scorings):
            metrics = read_figures(run.metrics(scoring))
            if metrics is not None and run.task(scoring).state is State.FINISHED:
                row = {column: figure(metrics, column) for column in study.metrics}
                figures[Arm(run.backbone, run.variant, scoring)][run.seed] = row
    return Results(study, figures, errors)


def figure(metrics: Mapping[str, Any], column: str) -> float | None:
    """The figure of a dotted name; None where there was nothing to score."""
    value: Any = metrics
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def _corrected(found: Sequence[PairedDifference]) -> list[PairedDifference]:
    """With chances corrected by Holm; seeds that all agree count in their number and are left without one."""
    tested = [difference for difference in found if difference.estimate.number > 1]
    chances = [1.0 if entry.estimate.chance is None else entry.estimate.chance for entry in tested]
    corrected = iter(holm(chances))
    result = []
    for entry in found:
        chance = next(corrected) if entry.estimate.number > 1 else None
        result.append(entry if entry.estimate.chance is None else replace(entry, chance=chance))
    return result


@dataclass(frozen=True)
class ErrorSplit:
    """The error of one variant, 1 - the share of right drawings, and its two parts.

    What is right when the true chain is drawn and wrong when the model's own is, is the plan's part; what is wrong
    even from the true chain is the drawing's. The plan's is below zero where true chains were drawn worse.

    Attributes:
        arm: The variant.
        figure: The share of right drawings.
        plan: The score of the plan alone against the prompt; None where nothing scores it.
        given, own: The figure when drawn from the true chain and from the model's own.
        plans_part, drawings_part: Of the error; they add up to it.
        plans_share, drawings_share: The parts over the error, seed by seed; None where no seed has an error.
    """

    arm: Arm
    figure: str
    plan: Estimate | None
    given: Estimate
    own: Estimate
    plans_part: Estimate
    drawings_part: Estimate
    plans_share: Estimate | None
    drawings_share: Estimate | None


def error_splits(results: Results) -> list[ErrorSplit]:
    """The split of every variant and figure that the study asks for, over the seeds that have both scores."""
    return list(_splits(results))


def _splits(results: Results) -> Iterator[ErrorSplit]:
    study = results.study
    if study.split is None:
        return
    for backbone, variant in study.combinations:
        arm, given = Arm(backbone, variant), Arm(backbone, variant, study.split.given)
        for figure, plan in study.split.metrics.items():
            pairs = [
                (own, true)
                for seed, row in results.figures[arm].items()
                if (own := row[figure]) is not None
                and (true := results.figures[given].get(seed, {}).get(figure)) is not None
            ]
            if not pairs:
                continue
            with_error = [(own, true) for own, true in pairs if own < 1]
            yield ErrorSplit(
                arm,
                figure,
                None if plan is None else results.mean(arm, plan),
                given=_known([true for _, true in pairs]),
                own=_known([own for own, _ in pairs]),
                plans_part=_known([true - own for own, true in pairs]),
                drawings_part=_known([1 - true for _, true in pairs]),
                plans_share=estimate([(true - own) / (1 - own) for own, true in with_error]),
                drawings_share=estimate([(1 - true) / (1 - own) for own, true in with_error]),
            )


def _known(values: list[float]) -> Estimate:
    found = estimate(values)
    if found is None:
        raise ValueError("no values to estimate from")
    return found


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
