"""What was found of cases, by category and overall, ready for JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from got_core.errors import UserError
from got_core.evaluation.case_suites import CaseSuite
from got_core.evaluation.cases import Case
from got_core.evaluation.figure_summary import Summary, figures_of, summaries
from got_core.evaluation.results_file import OVERALL, Item, scored_items


@dataclass(frozen=True)
class CaseResult:
    """The outcome of a suite.

    Attributes:
        suite: What was measured.
        cases: What was looked at.
        found: The figures of each case, NaN where it has none.
        missing: Why pictures of a case could not be read, by name.
        scores: Summaries of the figures by category, `OVERALL` last.
    """

    suite: CaseSuite
    cases: Sequence[Case]
    found: Float[Tensor, "cases figures"]
    missing: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Summary]]

    def as_json(self) -> dict[str, Any]:
        """Scores, what is missing, and every case with its figures."""
        names = tuple(self.suite.figures)
        items = [
            Item(f"{case.name}: {case.prompt}", case.category, figures_of(row, names), {"name": case.name})
            for case, row in zip(self.cases, self.found, strict=True)
            if case.name not in self.missing
        ]
        groups = {case.group for case in self.cases}
        plain = {
            category: {name: score.as_json() for name, score in own.items()} for category, own in self.scores.items()
        }
        return {
            **scored_items(self.suite.name, self.suite.figures, items),
            "counts": {"scenes": len(groups), "cases": len(items), "missing": len(self.missing)},
            "scores": plain,
            "missing": dict(self.missing),
        }


def case_result(
    suite: CaseSuite,
    cases: Sequence[Case],
    found: Float[Tensor, "cases figures"],
    notes: Mapping[int, str],
    seed: int = 0,
) -> CaseResult:
    """Sum up the figures of cases.

    A category's mean and interval are over its cases, each of another scene. Overall, cases of one scene are taken
    together first, so that the interval is over scenes.

    Args:
        suite: What was measured.
        cases: What was looked at.
        found: The figures of each.
        notes: Why a case could not be looked at, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single case could be read.
    """
    missing = {cases[place].name: reason for place, reason in notes.items()}
    if len(missing) == len(cases):
        name, reason = next(iter(missing.items()), ("no case", "nothing was asked"))
        raise UserError(f"none of {len(cases)} cases can be read ({name}: {reason})")
    names = tuple(suite.figures)
    by_category = _together([case.category for case in cases])
    scores = {name: summaries(found[places], names, seed, suite.shares) for name, places in by_category.items()}
    groups = _together([case.group for case in cases])
    means = torch.stack([found[places].nanmean(dim=0) for places in groups.values()])
    return CaseResult(suite, cases, found, missing, {**scores, OVERALL: summaries(means, names, seed, suite.shares)})


def _together(names: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name, in the order of their first."""
    found: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        found.setdefault(name, []).append(place)
    return found
