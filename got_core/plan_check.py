"""A plan held against its prompt before it is drawn, and repaired where its geometry alone is wrong."""

from got_core.plan_against_prompt import unmet
from got_core.plan_layout import clashes
from got_core.plan_problems import MALFORMED, NO_BOX, OUTSIDE, PlanProblem
from got_core.plan_repair import repairs
from got_core.plans import Plan
from got_core.prompt_reading import read_prompt

__all__ = ["PlanProblem", "plan_problems", "repaired"]

_OUTSIDE = "outside 0 to"
"""What the chain's reader says of a box that leaves the image."""


def plan_problems(plan: Plan) -> tuple[PlanProblem, ...]:
    """What is wrong with a plan; empty where nothing is.

    - The chain: malformed parts, boxes outside the image, no box at all.
    - Text-to-image, as far as the prompt can be read (`got_core.prompt_reading`): objects that are missing, too few or
      too many, of another colour, or not in the relation asked for. Of what cannot be read nothing is said.
    - Boxes: pairs that overlap or nearly touch (`got_core.plan_layout.clashes`).
    """
    told = [PlanProblem(OUTSIDE if _OUTSIDE in text else MALFORMED, text) for text in plan.problems]
    asked = read_prompt("" if plan.source is not None else plan.prompt)
    if not plan.regions:
        what = "which area is to change" if plan.source is not None else "where anything is drawn"
        told.append(PlanProblem(NO_BOX, f"the plan has no box, so nothing says {what}"))
    elif plan.source is None:
        told += unmet(plan, asked)
    return (*told, *clashes(plan, asked))


def repaired(plan: Plan) -> Plan:
    """The plan with fewer problems where moving, swapping or shrinking boxes helps, else as it is.

    Objects are neither added nor removed. Repairing what is repaired changes nothing.
    """
    problems = plan_problems(plan)
    while problems:
        found = [(each, plan_problems(each)) for each in repairs(plan, problems)]
        best, left = min(found, key=lambda pair: len(pair[1]), default=(plan, problems))
        if len(left) >= len(problems):
            break
        plan, problems = best, left
    return plan
