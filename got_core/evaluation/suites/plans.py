"""What checking, repair and best-of-n each add: to plans by the scenes' rules, and to images generated from them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from shutil import copyfile
from typing import Any

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.detection.base import shows
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.evaluation.metrics.scenes import planned_object
from got_core.evaluation.results import Better
from got_core.evaluation.suites.cases import Case, CaseDrawing, CaseSuite, OutputImages, Record
from got_core.evaluation.suites.generation import image_seed
from got_core.planning.boxes import shared_area
from got_core.planning.check import choose_plans, plan_problems, repaired
from got_core.planning.plan import Plan

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
    scenes = ScenesDataset(size, number, seed, split, dict.fromkeys(GENERATION_TAGS, 1.0), balanced=True)
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


METRICS: dict[str, Better] = {
    "precision": "higher",
    "recall": "higher",
    **{f"{figure}_{way}": "higher" for figure in ("right", "drawn") for way in WAYS},
    **{f"problems_{way}": "lower" for way in WAYS},
}
"""Of plans in which the check finds a problem, the share that is wrong by the scenes' rules; of wrong plans, the share
in which it finds one; the share of right plans, and of drawings right by GenEval's rules, each as it is, repaired, best
of n and both; and how many problems are found."""


class PlanDrawing(CaseDrawing):
    """Writes plans, disturbs, repairs and chooses among them, and draws all that differ from one noise."""

    def draw_groups(self, groups: Sequence[Sequence[Case]]) -> None:
        """Plan all groups as one batch, and draw each group's plans as one."""
        asked = [Plan(cases[0].prompt, "", self.manner.size) for cases in groups]
        seeds = [cases[0].seed for cases in groups]
        written = self.pipeline.write(asked)
        sampled = self.pipeline.write(asked, temperature=self.manner.temperature, seed=seeds[0])
        firsts = {
            case.name: plan
            for cases, one, other in zip(groups, written, sampled, strict=True)
            for case in cases
            if (plan := _first(case.category, one, other)) is not None
        }
        chosen = self._best(list(firsts.values()), seeds[0])
        plans = {name: _ways(first, best) for (name, first), best in zip(firsts.items(), chosen, strict=True)}
        for cases in groups:
            self._draw_group(cases, plans)

    def _best(self, firsts: Sequence[Plan], seed: int) -> list[Plan]:
        """The best of n by the check, for each first plan."""

        def write(places: Sequence[int]) -> list[Plan]:
            plans = [firsts[place] for place in places]
            return self.pipeline.write(plans, temperature=self.manner.temperature, seed=seed + 1)

        return choose_plans(firsts, self.manner.best_of, write)

    def _draw_group(self, cases: Sequence[Case], plans: Mapping[str, Mapping[str, Plan]]) -> None:
        """Draw each plan once, and write it under all names that it has; what could not be made is the written one."""
        made = {case.name: plans.get(case.name) for case in cases}
        names: dict[Plan, list[str]] = {}
        for case in cases:
            for way, plan in (made[case.name] or plans[f"{case.group}-{WRITTEN}"]).items():
                names.setdefault(plan, []).append(case.pictures[way])
        self.draw(list(names), [cases[0].seed] * len(names), [own[0] for own in names.values()])
        for first, *others in names.values():
            for other in others:
                copyfile(self.folder.picture(first), self.folder.picture(other))
        chains = {name: ways and {way: plan.chain for way, plan in ways.items()} for name, ways in made.items()}
        self.finish(cases[0].group, {"chains": chains})


def measure(case: Case, pictures: OutputImages, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """All figures of a plan; none of one that could not be disturbed, as it has too few boxes."""
    chains, meta = record["chains"][case.name], case.details["meta"]
    if chains is None:
        return {}
    found: dict[str, float] = {}
    for way, chain in chains.items():
        picture = pictures[way]
        plan = Plan(case.prompt, chain, (picture.shape[-2], picture.shape[-1]))
        found[f"right_{way}"] = float(is_right(plan, meta))
        found[f"problems_{way}"] = float(len(plan_problems(plan)))
        found[f"drawn_{way}"] = float(shows(meta, detector(picture[None])[0], SCENE_RULES, plan.size)[0])
    told, wrong = found[f"problems_{FIRST}"] > 0, not found[f"right_{FIRST}"]
    if told:
        found["precision"] = float(wrong)
    if wrong:
        found["recall"] = float(told)
    return found


def is_right(plan: Plan, meta: Mapping[str, Any]) -> bool:
    """Whether a plan would fulfil its caption by GenEval's rules, drawn perfectly, and no two of its boxes overlap."""
    planned = [planned_object(region) for region in plan.regions]
    overlap = any(shared_area(a.box, b.box) for a, b in combinations(planned, 2))
    return shows(meta, planned, SCENE_RULES, plan.size)[0] and not overlap


def _ways(first: Plan, best: Plan) -> dict[str, Plan]:
    return {FIRST: first, REPAIRED: repaired(first), BEST: best, BEST_REPAIRED: repaired(best)}


def _first(way: str, written: Plan, sampled: Plan) -> Plan | None:
    """The plan that a case begins with; None where it cannot be made."""
    if way in (WRITTEN, SAMPLED):
        return written if way == WRITTEN else sampled
    try:
        return DISTURBED[way](written) if len(written.regions) > 1 else None
    except ValueError:
        return None


PLANS = CaseSuite(
    name="plans",
    figures=METRICS,
    shares=frozenset(name for name in METRICS if not name.startswith("problems")),
    cases=plan_cases,
    drawing=PlanDrawing,
    measure=measure,
)
