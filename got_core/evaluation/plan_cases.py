"""Plans of held-out captions to be checked: as the reasoner writes them, by chance, and disturbed on purpose."""

from collections.abc import Callable

from got_core.data.scene_requests import DRAWING_TAGS
from got_core.data.scenes import ScenesDataset
from got_core.evaluation.cases import Case
from got_core.evaluation.drawing_folder import image_seed
from got_core.plans import Plan

WRITTEN, SAMPLED, PUSHED, SWAPPED, DROPPED = "written", "sampled", "pushed", "swapped", "dropped"
"""Where a plan comes from: the category of its case."""

FIRST, REPAIRED, BEST, BEST_REPAIRED = "first", "repaired", "best", "best_repaired"
"""What is drawn of it: as it is, repaired, the best of n whose first it is, and that repaired."""

WAYS = (FIRST, REPAIRED, BEST, BEST_REPAIRED)

SHARE = 0.5
"""How far a box is pushed onto another one, as a share of its own side."""


def plan_cases(number: int, size: int, seed: int, split: str) -> list[Case]:
    """So many captions, going round GenEval's categories, with all that can be done to their plans.

    Boxes are pushed together and an object is dropped where there are several; boxes are swapped where a relation is
    asked for.
    """
    scenes = ScenesDataset(size, number, seed, split, dict.fromkeys(DRAWING_TAGS, 1.0), balanced=True)
    found = []
    for place in range(number):
        sketch, group = scenes.sketch(place), f"{place:05d}"
        ways = [WRITTEN, SAMPLED]
        ways += [PUSHED, DROPPED] if len(sketch.target.objects) > 1 else []
        ways += [SWAPPED] if sketch.meta["tag"] == "position" else []
        for way in ways:
            pictures = {name: f"{group}-{way}-{name}" for name in WAYS}
            details = {"meta": dict(sketch.meta)}
            seeded = image_seed(seed, place, 0)
            found.append(Case(f"{group}-{way}", group, way, sketch.prompt, seeded, pictures, details))
    return found


def pushed(plan: Plan) -> Plan:
    """The second box pushed half onto the first."""
    x1, y1, x2, y2 = plan.regions[0].box
    a1, b1, a2, b2 = plan.regions[1].box
    left = min(x1 + round(SHARE * (x2 - x1)), 999 - (a2 - a1))
    top = min(y1 + round(SHARE * (y2 - y1)), 999 - (b2 - b1))
    return plan.move(1, to=(left, top))


def swapped(plan: Plan) -> Plan:
    """The first two boxes swapped."""
    first, second = plan.regions[0].box, plan.regions[1].box
    return plan.resize(0, second).resize(1, first)


def dropped(plan: Plan) -> Plan:
    """The last object dropped."""
    return plan.with_chain(plan.remove(len(plan.regions) - 1).chain)


DISTURBED: dict[str, Callable[[Plan], Plan]] = {PUSHED: pushed, SWAPPED: swapped, DROPPED: dropped}
"""What is done on purpose to a written plan of at least two boxes."""
