"""What was found of a set of edits, ready for JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.errors import UserError
from got_core.evaluation.edit_cases import EditCase, EditSet
from got_core.evaluation.edit_scoring import FIGURES
from got_core.evaluation.figure_summary import Summary, figures_of, summaries
from got_core.evaluation.results_file import Item, scored_items

SUITE = "editing"
"""What results of this suite call it."""

YES_OR_NO = {"edit_success"}
"""Figures that are 0 or 1 of each edit."""


@dataclass(frozen=True)
class EditResult:
    """The outcome of a set.

    Attributes:
        edits: What was scored.
        found: The figures of each edit, NaN where it has none.
        missing: Edits that have no figure at all, with the reason, by name.
        unjudged: Edits that only the chat judge has no score for, with the reason, by name.
        scores: The summary of each figure.
    """

    edits: EditSet
    found: Float[Tensor, "items figures"]
    missing: Mapping[str, str]
    unjudged: Mapping[str, str]
    scores: Mapping[str, Summary]

    def as_json(self) -> dict[str, Any]:
        """Scores, what is missing, and every edit with its figures."""
        items = [
            self._item(case, row)
            for case, row in zip(self.edits.cases, self.found, strict=True)
            if case.name not in self.missing
        ]
        lacking = {"edits": len(items), "missing": len(self.missing), "unjudged": len(self.unjudged)}
        return {
            **scored_items(SUITE, {name: FIGURES[name] for name in self.scores}, items),
            "counts": lacking,
            "scores": {name: score.as_json() for name, score in self.scores.items()},
            "missing": dict(self.missing),
            "unjudged": dict(self.unjudged),
        }

    def _item(self, case: EditCase, row: Float[Tensor, " figures"]) -> Item:
        """Named after edit and instruction, as scenes of another seed have the same names."""
        scores = {name: value for name, value in figures_of(row, tuple(FIGURES)).items() if name in self.scores}
        details = {"name": case.name, "prompt": case.instruction}
        return Item(f"{case.name}: {case.instruction}", case.category, scores, details)


def edit_result(
    edits: EditSet, found: Float[Tensor, "items figures"], notes: Mapping[int, str], seed: int = 0
) -> EditResult:
    """The outcome of the figures of a set's edits.

    Args:
        edits: What was scored.
        found: The figures of each edit, in order.
        notes: What there is to say of an edit, by its place.
        seed: Of the bootstrap.

    Raises:
        UserError: Not a single edit could be read.
        ValueError: An edit was not looked at.
    """
    unread: dict[str, str] = {}
    unjudged: dict[str, str] = {}
    for place, (case, row) in enumerate(zip(edits.cases, found, strict=True)):
        if row.isnan().all() and place not in notes:
            raise ValueError(f"edit {case.name} was not looked at")
        if place in notes:
            (unread if row.isnan().all() else unjudged)[case.name] = notes[place]
    if len(unread) == len(edits.cases):
        name, reason = next(iter(unread.items()))
        raise UserError(f"{edits.place}: none of {len(unread)} edits can be read ({name}: {reason})")
    scores = summaries(found, tuple(FIGURES), seed, YES_OR_NO)
    return EditResult(edits, found, {**edits.missing, **unread}, unjudged, scores)
