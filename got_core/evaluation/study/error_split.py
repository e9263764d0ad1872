"""Planner or painter: how much of the drawings' error is the plan's, and how much the drawing's own."""

from collections.abc import Iterator
from dataclasses import dataclass

from got_core.evaluation.study.estimates import Estimate, estimate
from got_core.evaluation.study.results import Arm, Results


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
        for figure, plan in study.split.figures.items():
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
