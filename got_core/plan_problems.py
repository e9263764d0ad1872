"""What may be wrong with a plan, in words that a user can act on."""

from dataclasses import dataclass

MISSING = "missing object"
COUNT = "count"
COLOUR = "colour"
RELATION = "relation"
OVERLAP = "overlap"
CLOSE = "too close"
OUTSIDE = "outside"
MALFORMED = "malformed chain"
NO_BOX = "no box"

KINDS = (MISSING, COUNT, COLOUR, RELATION, OVERLAP, CLOSE, OUTSIDE, MALFORMED, NO_BOX)
"""All kinds of problems."""


@dataclass(frozen=True)
class PlanProblem:
    """Something that is wrong with a plan.

    Attributes:
        kind: Of `KINDS`.
        message: In words that a user can act on.
        regions: Places of the regions concerned, counted from 0; none where it is not about one.
    """

    kind: str
    message: str
    regions: tuple[int, ...] = ()
