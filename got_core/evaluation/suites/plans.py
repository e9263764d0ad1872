"""What checking, repair and best-of-n each add: to plans by the scenes' rules, and to images generated from them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from shutil import copyfile
from typing import Any

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.detection.base import shows
from got_core.detection.scenes import SCENE_RULES, SceneDetector
from got_core.evaluation.generation import image_seed
from got_core.evaluation.metrics.scenes import planned_object
from got_core.evaluation.results import Better
from got_core.evaluation.suites.cases import Case, CaseGeneration, CaseSuite, Images, Record
from got_core.planning.boxes import shared_area
from got_core.planning.check import choose_plans, plan_problems, repaired
from got_core.planning.plan import Plan

WRITTEN, SAMPLED, PUSHED, SWAPPED, DROPPED = "written", "sampled", "pushed", "swapped", "dropped"
"""Where a plan comes from: the category of its case."""

FIRST, REPAIRED, BEST, BEST_REPAIRED = "first", "repaired", "best", "best_repaired"
"""What is generated of it: the plan as it is, repaired, the best of n of which it is the first, and that repaired."""

WAYS = (FIRST, REPAIRED, BEST, BEST_REPAIRED)

PUSH = 0.5
"""How far a box is pushed onto another one, as a fraction of its own side."""


def plan_cases(number: int, size: int, seed: int, split: str) -> list[Case]:
    """Return captions of GenEval's categories in turn, with everything that can be done to their plans.

    Boxes are pushed together and an object is dropped where there are several; boxes are swapped where the caption has
    a relation.
    """
    scenes = ScenesDataset(size, number, seed, split, dict.fromkeys(GENERATION_TAGS, 1.0), balanced=True)
    cases = []
    for index in range(number):
        sketch, group = scenes.sketch(index), f"{index:05d}"
        ways = [WRITTEN, SAMPLED]
        ways += [PUSHED, DROPPED] if len(sketch.target.objects) > 1 else []
        ways += [SWAPPED] if sketch.meta["tag"] == "position" else []
        for way in ways:
            images = {name: f"{group}-{way}-{name}" for name in WAYS}
            noise = image_seed(seed, index)
            cases.append(Case(f"{group}-{way}", group, way, sketch.prompt, noise, images, {"meta": dict(sketch.meta)}))
    return cases


def pushed(plan: Plan) -> Plan:
    """Push the second box half onto the first."""
    x1, y1, x2, y2 = plan.regions[0].box
    a1, b1, a2, b2 = plan.regions[1].box
    left = min(x1 + round(PUSH * (x2 - x1)), 999 - (a2 - a1))
    top = min(y1 + round(PUSH * (y2 - y1)), 999 - (b2 - b1))
    return plan.move(1, to=(left, top))


def swapped(plan: Plan) -> Plan:
    """Swap the first two boxes."""
    first, second = plan.regions[0].box, plan.regions[1].box
    return plan.resize(0, second).resize(1, first)


def dropped(plan: Plan) -> Plan:
    """Drop the last object."""
    return plan.with_chain(plan.remove(len(plan.regions) - 1).chain)


DISTURBED: dict[str, Callable[[Plan], Plan]] = {PUSHED: pushed, SWAPPED: swapped, DROPPED: dropped}
"""Disturbances of a written plan of at least two boxes."""


METRICS: dict[str, Better] = {
    "precision": "higher",
    "recall": "higher",
    **{f"{metric}_{way}": "higher" for metric in ("right", "generated") for way in WAYS},
    **{f"problems_{way}": "lower" for way in WAYS},
}
"""Of plans in which the check finds a problem, the fraction that is wrong by the scenes' rules; of wrong plans, the
fraction in which it finds one; the fraction of right plans, and of generated images right by GenEval's rules, of the
plan as it is, repaired, best of n and both; and how many problems the check finds."""


class PlanGeneration(CaseGeneration):
    """Writes plans, disturbs, repairs and chooses among them, and generates all that differ from the same noise."""

    def generate(self, units: Sequence[Sequence[Case]]) -> None:
        """Plan all groups as one batch, and generate each group's plans as one."""
        empty = [Plan(cases[0].prompt, "", self.options.size) for cases in units]
        seeds = [cases[0].seed for cases in units]
        written = self.pipeline.write(empty)
        sampled = self.pipeline.write(empty, temperature=self.options.temperature, seed=seeds[0])
        firsts = {
            case.name: plan
            for cases, one, other in zip(units, written, sampled, strict=True)
            for case in cases
            if (plan := _first(case.category, one, other)) is not None
        }
        chosen = self._best(list(firsts.values()), seeds[0])
        plans = {name: _ways(first, best) for (name, first), best in zip(firsts.items(), chosen, strict=True)}
        for cases in units:
            self._generate_group(cases, plans)

    def _best(self, firsts: Sequence[Plan], seed: int) -> list[Plan]:
        """The best of n by the check, for each first plan."""

        def write(indices: Sequence[int]) -> list[Plan]:
            plans = [firsts[index] for index in indices]
            return self.pipeline.write(plans, temperature=self.options.temperature, seed=seed + 1)

        return choose_plans(firsts, self.options.best_of, write)

    def _generate_group(self, cases: Sequence[Case], plans: Mapping[str, Mapping[str, Plan]]) -> None:
        """Generate each plan once, and write it under all its names; a plan that cannot be made is the written one."""
        ways = {case.name: plans.get(case.name) for case in cases}
        names: dict[Plan, list[str]] = {}
        for case in cases:
            for way, plan in (ways[case.name] or plans[f"{case.group}-{WRITTEN}"]).items():
                names.setdefault(plan, []).append(case.images[way])
        self.write(list(names), [cases[0].seed] * len(names), [own[0] for own in names.values()])
        for first, *others in names.values():
            for other in others:
                copyfile(self.folder.image(first), self.folder.image(other))
        chains = {name: own and {way: plan.chain for way, plan in own.items()} for name, own in ways.items()}
        self.finish(cases[0].group, {"chains": chains})


def measure(case: Case, images: Images, record: Record, detector: SceneDetector) -> Mapping[str, float]:
    """Return all scores of a plan; none of one that has too few boxes to be disturbed."""
    chains, meta = record["chains"][case.name], case.details["meta"]
    if chains is None:
        return {}
    scores: dict[str, float] = {}
    for way, chain in chains.items():
        image = images[way]
        plan = Plan(case.prompt, chain, (image.shape[-2], image.shape[-1]))
        scores[f"right_{way}"] = float(is_right(plan, meta))
        scores[f"problems_{way}"] = float(len(plan_problems(plan)))
        scores[f"generated_{way}"] = float(shows(meta, detector(image[None])[0], SCENE_RULES, plan.size)[0])
    flagged, wrong = scores[f"problems_{FIRST}"] > 0, not scores[f"right_{FIRST}"]
    if flagged:
        scores["precision"] = float(wrong)
    if wrong:
        scores["recall"] = float(flagged)
    return scores


def is_right(plan: Plan, meta: Mapping[str, Any]) -> bool:
    """Return whether a perfect image of a plan fulfils its caption by GenEval's rules, and no two boxes overlap."""
    planned = [planned_object(region) for region in plan.regions]
    overlap = any(shared_area(a.box, b.box) for a, b in combinations(planned, 2))
    return shows(meta, planned, SCENE_RULES, plan.size)[0] and not overlap


def _ways(first: Plan, best: Plan) -> dict[str, Plan]:
    return {FIRST: first, REPAIRED: repaired(first), BEST: best, BEST_REPAIRED: repaired(best)}


def _first(way: str, written: Plan, sampled: Plan) -> Plan | None:
    """The plan that a case starts from; None where it cannot be made."""
    if way in (WRITTEN, SAMPLED):
        return written if way == WRITTEN else sampled
    try:
        return DISTURBED[way](written) if len(written.regions) > 1 else None
    except ValueError:
        return None


PLANS = CaseSuite(
    name="plans",
    metrics=METRICS,
    fractions=frozenset(name for name in METRICS if not name.startswith("problems")),
    cases=plan_cases,
    generation=PlanGeneration,
    measure=measure,
)

evaluate = PLANS.evaluate
