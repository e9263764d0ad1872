"""What check, repair and best of n each add: to plans, by the scenes' rules, and to what is drawn from them."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from shutil import copyfile
from typing import Any

from got_core.box_relations import shared
from got_core.evaluation.case_drawing import CaseDrawing
from got_core.evaluation.case_suites import CaseSuite
from got_core.evaluation.cases import Case, Pictures, Record
from got_core.evaluation.geneval import shows
from got_core.evaluation.plan_cases import (
    BEST,
    BEST_REPAIRED,
    DISTURBED,
    FIRST,
    REPAIRED,
    SAMPLED,
    WAYS,
    WRITTEN,
    plan_cases,
)
from got_core.evaluation.results_file import Better
from got_core.evaluation.scene_detector import SCENE_RULES, SceneDetector
from got_core.evaluation.scene_view import planned_object
from got_core.plan_check import plan_problems, repaired
from got_core.plan_choice import choose_plans
from got_core.plans import Plan

FIGURES: dict[str, Better] = {
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

        def write(plans: Sequence[Plan]) -> list[Plan]:
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


def measure(case: Case, pictures: Pictures, record: Record, detector: SceneDetector) -> Mapping[str, float]:
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
    overlap = any(shared(a.box, b.box) for a, b in combinations(planned, 2))
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
    figures=FIGURES,
    shares=frozenset(name for name in FIGURES if not name.startswith("problems")),
    cases=plan_cases,
    drawing=PlanDrawing,
    measure=measure,
)
