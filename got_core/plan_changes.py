"""Changes of a plan in words, as they are typed: `move 0 -50 0`, `add a red circle at 100 100 300 300`."""

import re
from collections.abc import Callable, Mapping

from got_core.plans import Plan

NUMBER = r"(-?\d+)"
BOX = rf"{NUMBER}[ ,]+{NUMBER}[ ,]+{NUMBER}[ ,]+{NUMBER}"

FORMS = (
    "move N DX DY",
    "move N to X Y",
    "resize N X1 Y1 X2 Y2",
    "replace N WORDS",
    "recolour N COLOUR",
    "add WORDS at X1 Y1 X2 Y2",
    "remove N",
)
"""What can be asked; regions N are counted from 0, places are thousandths of the image."""

_ACTIONS: Mapping[str, Callable[..., Plan]] = {
    rf"move (\d+) {NUMBER}[ ,]+{NUMBER}": lambda plan, n, dx, dy: plan.move(int(n), dx=int(dx), dy=int(dy)),
    rf"move (\d+) to {NUMBER}[ ,]+{NUMBER}": lambda plan, n, x, y: plan.move(int(n), to=(int(x), int(y))),
    rf"resize (\d+) {BOX}": lambda plan, n, *box: plan.resize(int(n), [int(edge) for edge in box]),
    r"replace (\d+) (.+)": lambda plan, n, words: plan.replace(int(n), words),
    r"recolou?r (\d+) (.+)": lambda plan, n, colour: plan.recolour(int(n), colour),
    rf"add (.+) at {BOX}": lambda plan, words, *box: plan.add(words, [int(edge) for edge in box]),
    r"remove (\d+)": lambda plan, n: plan.remove(int(n)),
}


def changed(plan: Plan, change: str) -> Plan:
    """The plan after a change, given in one of the `FORMS`.

    Raises:
        ValueError: It is in none of them, or cannot be made; the text says why.
    """
    text = " ".join(change.split())
    for pattern, action in _ACTIONS.items():
        if found := re.fullmatch(pattern, text, re.IGNORECASE):
            try:
                return action(plan, *found.groups())
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}") from error
    raise ValueError(f"{text!r} is no change of a plan; it may be {', '.join(FORMS)}")
