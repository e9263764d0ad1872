"""The results of a study: scores, means over seeds, paired differences, and the planner's part of the error."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from got_core.evaluation.callbacks import ANSWERS, read_scores
from got_core.evaluation.results import machine
from got_core.evaluation.statistics import SIGNIFICANT, Estimate, estimate, holm
from got_core.paths import Run, locate
from got_core.studies.runs import State, TrainedRun, made_by, made_with
from got_core.studies.spec import Study
from got_core.weights.files import checksum


@dataclass(frozen=True)
class Arm:
    """A variant of a backbone, scored in one way; it has a score for each seed.

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
    """The difference between two arms, paired by seed.

    Attributes:
        first, second: The arms; both have the same backbone.
        metric: A column of the study.
        estimate: Of second minus first, over the seeds that both have.
        p_value: That of the estimate, corrected for the number of differences of this metric in the study; None where
            there is no interval.
    """

    first: Arm
    second: Arm
    metric: str
    estimate: Estimate
    p_value: float | None = None

    @property
    def conclusion(self) -> str:
        """The result of the test, in words."""
        if self.p_value is None:
            return "one seed: none" if self.estimate.number == 1 else "no spread: none"
        if self.p_value >= SIGNIFICANT:
            return "not significant"
        return "above zero" if self.estimate.mean > 0 else "below zero"


Scores = Mapping[int, Mapping[str, float | None]]
"""The scores of each seed that there is, by metric; None where there was nothing to score."""


@dataclass(frozen=True)
class Results:
    """The scores of a study.

    Attributes:
        study: The study.
        scores: Of each arm; the arms are in the study's order, each followed by its scorings.
        errors: Why runs and scorings failed, by name.
        answers: Scores of trivial answers to the same requests and of the true ones, by answer; those of the runs' own
            scoring, and of a metric the first that a run has, as one without chains has none of boxes.
    """

    study: Study
    scores: Mapping[Arm, Scores]
    errors: Mapping[str, str]
    answers: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)

    @property
    def compared(self) -> list[Arm]:
        """All arms but the points of a grid, of which there are many."""
        return [arm for arm in self.scores if arm.scoring is None or arm.scoring in self.study.evaluations]

    def mean(self, arm: Arm, metric: str) -> Estimate | None:
        """Estimate a mean over the seeds that have the metric; None where none has."""
        return estimate([value for row in self.scores[arm].values() if (value := row[metric]) is not None])

    def difference(self, first: Arm, second: Arm, metric: str) -> PairedDifference | None:
        """Estimate second minus first, over the seeds for which both have the metric; None without such seeds."""
        below, above = self.scores[first], self.scores[second]
        pairs = [(below[seed][metric], above[seed][metric]) for seed in below if seed in above]
        mean = estimate([b - a for a, b in pairs if a is not None and b is not None])
        return None if mean is None else PairedDifference(first, second, metric, mean)

    def differences(self) -> list[PairedDifference]:
        """Estimate the differences of `pairs` in every column, p-values corrected for their number within a column."""
        pairs, estimated = self.pairs(), []
        for column in self.study.columns:
            own = [self.difference(first, second, column) for first, second in pairs]
            estimated += _corrected([difference for difference in own if difference is not None])
        return sorted(estimated, key=lambda difference: pairs.index((difference.first, difference.second)))

    def pairs(self) -> list[tuple[Arm, Arm]]:
        """List the arms that are compared.

        Variants with those before them, or those that the study pairs, and every evaluation with the same run's own
        scores. Points of a grid are not compared: there are many, and one of them would win at random.
        """
        pairs, named = [], self.study.compare
        for first, second in combinations(self.scores, 2):
            if first.backbone != second.backbone or first.scoring is not None:
                continue
            if second.scoring is not None:
                if first.variant == second.variant and second.scoring in self.study.evaluations:
                    pairs.append((first, second))
            elif named is None or (first.variant, second.variant) in named:
                pairs.append((first, second))
            elif (second.variant, first.variant) in named:
                pairs.append((second, first))
        return pairs


def collect(study: Study, planned: Sequence[TrainedRun], errors: Mapping[str, str]) -> Results:
    """Read the scores of all runs and scorings that have finished.

    Args:
        study: The study.
        planned: Its runs.
        errors: Why others failed, by name.
    """
    scores: dict[Arm, dict[int, dict[str, float | None]]] = {
        Arm(backbone, variant, scoring): {}
        for backbone, variant in study.combinations
        for scoring in (None, *study.scorings)
    }
    answers: dict[str, dict[str, float | None]] = {}
    for run in planned:
        for scoring, task in run.tasks.items():
            metrics = read_scores(Run(task.folder).metrics)
            if metrics is not None and task.state is State.FINISHED:
                row = {name: score(metrics, name) for name in study.metrics}
                scores[Arm(run.backbone, run.variant, scoring)][run.seed] = row
                for answer, own in metrics.get(ANSWERS, {}).items() if scoring is None else ():
                    known = answers.setdefault(answer, dict.fromkeys(study.metrics))
                    known |= {name: score(own, name) for name, value in known.items() if value is None}
    return Results(study, scores, errors, answers)


def score(metrics: Mapping[str, Any], metric: str) -> float | None:
    """Look up the score of a dotted name; None where there was nothing to score."""
    value: Any = metrics
    for name in metric.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def _corrected(differences: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Correct p-values by Holm; seeds that all agree count in their number and are left without one."""
    tested = [entry for entry in differences if entry.estimate.number > 1]
    p_values = holm([1.0 if entry.estimate.chance is None else entry.estimate.chance for entry in tested])
    corrected = {(entry.first, entry.second): p_value for entry, p_value in zip(tested, p_values, strict=True)}
    return [
        entry if entry.estimate.chance is None else replace(entry, p_value=corrected[entry.first, entry.second])
        for entry in differences
    ]


@dataclass(frozen=True)
class ErrorSplit:
    """The error of one variant, 1 - the fraction of right images, and its two parts.

    Images that are right when generated from the true chain and wrong from the model's own are the plan's part; those
    that are wrong even from the true chain are the image's. The plan's part is below zero if true chains did worse.

    Attributes:
        arm: The variant.
        metric: The fraction of right images.
        plan: The score of the plan alone against the prompt; None where nothing scores it.
        given, own: The metric when generated from the true chain and from the model's own.
        plan_part, image_part: Of the error; they add up to it.
        plan_fraction, image_fraction: The parts over the error, seed by seed; None where no seed has an error.
    """

    arm: Arm
    metric: str
    plan: Estimate | None
    given: Estimate | None
    own: Estimate | None
    plan_part: Estimate | None
    image_part: Estimate | None
    plan_fraction: Estimate | None
    image_fraction: Estimate | None


def error_splits(results: Results) -> list[ErrorSplit]:
    """Split the error of every variant and metric that the study names, over the seeds that have both scores."""
    study, splits = results.study, []
    if study.split is None:
        return []
    for backbone, variant in study.combinations:
        arm, given = Arm(backbone, variant), results.scores[Arm(backbone, variant, study.split.given)]
        for metric, plan in study.split.metrics.items():
            pairs = [
                (own, true)
                for seed, row in results.scores[arm].items()
                if (own := row[metric]) is not None and (true := given.get(seed, {}).get(metric)) is not None
            ]
            with_error = [(own, true) for own, true in pairs if own < 1]
            if pairs:
                split = ErrorSplit(
                    arm,
                    metric,
                    plan=None if plan is None else results.mean(arm, plan),
                    given=estimate([true for _, true in pairs]),
                    own=estimate([own for own, _ in pairs]),
                    plan_part=estimate([true - own for own, true in pairs]),
                    image_part=estimate([1 - true for _, true in pairs]),
                    plan_fraction=estimate([(true - own) / (1 - own) for own, true in with_error]),
                    image_fraction=estimate([(1 - true) / (1 - own) for own, true in with_error]),
                )
                splits.append(split)
    return splits


NAMED = 3
"""Runs that a line names; of more it gives the number."""

_KEYS = {
    "metric": "figure", "plan_part": "plans_part", "image_part": "drawings_part", "plan_fraction": "plans_share",
    "image_fraction": "drawings_share",
}  # fmt: skip
"""Keys of `results.json` that have another name here."""


def as_json(
    results: Results, planned: Sequence[TrainedRun], *, command: str, file: str, mixed: Sequence[str]
) -> dict[str, Any]:
    """Collect the content of `results.json`.

    Args:
        results: The scores.
        planned: The study's runs.
        command: That makes it again.
        file: The study's.
        mixed: Lines on what was made with other versions.
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
            {**asdict(arm), "seed": seed, "figures": dict(row)}
            for arm, by_seed in results.scores.items()
            for seed, row in by_seed.items()
        ],
        "means": [
            {**asdict(arm), "figure": column, **asdict(mean)}
            for arm in results.scores
            for column in study.columns
            if (mean := results.mean(arm, column)) is not None
        ],
        "answers": {answer: dict(row) for answer, row in results.answers.items()},
        "differences": [
            {
                "backbone": entry.first.backbone,
                "first": entry.first.label,
                "second": entry.second.label,
                "figure": entry.metric,
                **asdict(entry.estimate),
                "corrected_chance": entry.p_value,
                "verdict": entry.conclusion,
            }
            for entry in results.differences()
        ],
        "split": [
            {_KEYS.get(key, key): value for key, value in asdict(entry).items()} for entry in error_splits(results)
        ],
        "made_with_other_versions": list(mixed),
        "errors": dict(results.errors),
    }


def mixed_versions(planned: Sequence[TrainedRun]) -> list[str]:
    """List the differences between the versions and code here and those that runs and scorings were made with."""
    names: dict[str, list[str]] = {}
    for run in planned:
        here = made_with(run.settings)
        for task in run.tasks.values():
            versions = made_by(task.folder) if task.state is State.FINISHED else []
            differing = {
                f"{name} was {there.get(name, 'none')} and is {here.get(name, 'none')}"
                for there in versions
                for name in {**there, **here}
                if there.get(name) != here.get(name)
            }
            for line in sorted(differing):
                names.setdefault(line, []).append(task.name)
    more = {line: f" and {len(own) - NAMED} more" if len(own) > NAMED else "" for line, own in names.items()}
    return [f"{line}: {', '.join(own[:NAMED])}{more[line]}" for line, own in names.items()]


def _run(run: TrainedRun) -> dict[str, Any]:
    """Describe where a run is and what it was made from."""
    files = Run(run.folder)
    return {
        **asdict(Arm(run.backbone, run.variant)),
        "seed": run.seed,
        "folder": str(run.folder),
        "made_with": made_by(run.folder),
        "recipe": yaml.safe_load(files.recipe.read_text(encoding="utf-8")),
        "checkpoint_sha256": checksum(files.last) if files.last.exists() else None,
        "scored_in": {name: str(task.folder) for name, task in run.scorings.items()},
    }
