"""What a study has found: figures of all runs, means over seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from got_core.evaluation.final_scores import read_figures
from got_core.evaluation.significance import SIGNIFICANT, holm
from got_core.evaluation.study.estimates import Estimate, estimate
from got_core.evaluation.study.plan import Study
from got_core.evaluation.study.record import State
from got_core.evaluation.study.runs import TrainedRun


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
        study: What was asked.
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
        study: What was asked.
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
                row = {column: figure(metrics, column) for column in study.figures}
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
