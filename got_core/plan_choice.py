"""The best of several plans of a prompt, by the check of plans."""

from collections.abc import Callable, Sequence

from got_core.plan_check import plan_problems
from got_core.plans import Plan

SAMPLED_AT = 1.0
"""Temperature of further plans where the first is greedy."""

Writer = Callable[[Sequence[Plan]], Sequence[Plan]]
"""Writes a chain into each plan."""


def choose_plans(firsts: Sequence[Plan], number: int, write: Writer) -> list[Plan]:
    """For each plan the one with the fewest problems of it and `number` - 1 others; of several the first.

    Others are written, all in one batch, only where the first has a problem: elsewhere none could be better.
    """
    wanting = [place for place, plan in enumerate(firsts) if number > 1 and plan_problems(plan)]
    if not wanting:
        return list(firsts)
    others = list(write([firsts[place] for place in wanting for _ in range(number - 1)]))
    best = list(firsts)
    for turn, place in enumerate(wanting):
        own = others[turn * (number - 1) : (turn + 1) * (number - 1)]
        best[place] = min([firsts[place], *own], key=lambda plan: len(plan_problems(plan)))
    return best
