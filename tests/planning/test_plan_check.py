"""The problems of a plan, what is no problem, and repairs."""

import cProfile
from itertools import combinations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from got_core.data.scenes.dataset import ScenesDataset
from got_core.data.scenes.requests import GENERATION_TAGS
from got_core.planning.boxes import MARGIN, gaps, separated
from got_core.planning.check import (
    CLOSE,
    COLOUR,
    COUNT,
    MALFORMED,
    MISSING,
    NO_BOX,
    OUTSIDE,
    OVERLAP,
    RELATION,
    PlanProblem,
    plan_problems,
    repaired,
)
from got_core.planning.plan import Plan

SIZE = (32, 32)
DOG_AND_BENCH = "a dog (100,300),(400,700) and a bench (500,300),(800,700)"


def problems_of(prompt, chain, source=None):
    return [(problem.kind, problem.regions) for problem in plan_problems(Plan(prompt, chain, SIZE, source))]


@pytest.mark.parametrize(
    ("prompt", "chain", "expected"),
    [
        ("a dog left of a bench", "a dog (100,300),(400,700)", [(MISSING, ())]),
        ("a dog right of a bench", DOG_AND_BENCH, [(RELATION, (0, 1))]),
        ("a bench left of a dog", DOG_AND_BENCH, [(RELATION, (1, 0))]),
        ("a dog above a bench", DOG_AND_BENCH, [(RELATION, (0, 1))]),
        ("three dogs", "a dog (0,0),(200,200) and a dog (500,0),(700,200)", [(COUNT, (0, 1))]),
        ("one dog", "a dog (0,0),(200,200) and a dog (500,0),(700,200)", [(COUNT, (0, 1))]),
        ("two dogs", "dogs (0,0),(200,200), (300,0),(500,200) and (600,0),(800,200)", [(COUNT, (0, 1, 2))]),
        ("a red car", "a blue car (0,0),(200,200)", [(COLOUR, (0,))]),
        ("two red cars", "a red car (0,0),(200,200) and a black car (500,0),(700,200)", [(COLOUR, (1,))]),
        ("a dog and a cat", "a dog (0,0),(300,300) and a cat (100,100),(400,400)", []),
        ("a dog and a cat", "a dog (0,0),(300,300) and a cat (50,50),(350,350)", [(OVERLAP, (0, 1))]),
        ("a star and a cross", "a star (0,0),(300,300) and a cross (200,200),(500,500)", [(OVERLAP, (0, 1))]),
        ("a star and a cross", "a star (0,0),(300,300) and a cross (310,0),(600,300)", [(CLOSE, (0, 1))]),
        ("a circle with a square", "a circle (0,0),(300,300) and a square (200,200),(500,500)", [(OVERLAP, (0, 1))]),
        ("a dog", "a dog (0,0),(300,1200)", [(OUTSIDE, ())]),
        ("a dog", "a dog (0,0),(300,300) <|box_start|>", [(MALFORMED, ())]),
        ("a dog", "a dog", [(NO_BOX, ())]),
        ("", "a view (0,0),(500,500) and a hill (10,0),(500,500)", [(OVERLAP, (0, 1))]),
    ],
)
def test_problems_are_found(prompt, chain, expected):
    assert problems_of(prompt, chain) == expected


@pytest.mark.parametrize(
    ("prompt", "chain"),
    [
        ("a dog left of a bench", DOG_AND_BENCH),
        ("a dog", "a dog (0,0),(200,200) and a dog (500,0),(700,200)"),
        ("a couch and a bike", "a sofa (0,0),(200,200) and a bicycle (500,0),(700,200)"),
        ("three clocks", "three clocks (0,0),(999,400)"),
        ("two clocks", "two clocks (0,0),(200,400) and (500,0),(700,400)"),
        ("a red car", "a crimson car (0,0),(200,200)"),
        ("a red car", "a car (0,0),(200,200) (blue)"),
        ("a boat and a castle", "a sailing vessel (0,0),(400,400)"),
        ("a horse", "an astronaut riding a horse (0,0),(999,999)"),
        ("a cat on top of a couch", "a cat (300,0),(600,500) and a couch (100,400),(900,999)"),
        ("a man with a hat", "a man (200,0),(800,999) and a hat (400,0),(600,200)"),
        ("a street at night in the rain", "a car (0,0),(500,500) and a puddle (100,300),(800,800)"),
        ("a cat chases a dog", "a horse (0,0),(500,500)"),
        ("a woman with a red dress", "a woman (200,0),(800,999) and a red dress (250,200),(750,999)"),
        (
            "a knight with a sword and a shield",
            "a knight (200,0),(800,999), a sword (700,0),(900,500), a shield (250,400),(450,700)",
        ),
        ("a mountain above a lake", "a mountain (0,100),(999,600) and a lake (0,600),(999,999)"),
        ("a dog and a cat", "a dog (0,0),(300,300) and a cat (300,0),(600,300)"),
        ("", "a man (200,0),(800,999) and a hat (400,0),(600,200)"),
    ],
)
def test_no_problem_is_found_where_the_plan_may_be_right(prompt, chain):
    assert problems_of(prompt, chain) == []


def test_true_chains_of_scenes_have_no_problem():
    scenes = ScenesDataset(length=600, seed=8)
    for index in range(len(scenes)):
        sketch = scenes.sketch(index)
        source = None if sketch.source is None else torch.zeros(3, 32, 32)
        assert problems_of(sketch.prompt, sketch.chain, source) == [], sketch.prompt


def test_a_dropped_object_of_a_scene_is_found():
    scenes = ScenesDataset(length=120, seed=8, tasks=dict.fromkeys(GENERATION_TAGS, 1.0), balanced=True)
    for index in range(len(scenes)):
        plan = Plan(scenes.sketch(index).prompt, scenes.sketch(index).chain, SIZE)
        kinds = {problem.kind for problem in plan_problems(plan.with_chain(plan.remove(0).chain))}
        assert kinds & {MISSING, COUNT, NO_BOX}, plan.prompt


def test_edits_need_an_area_and_no_objects():
    source = torch.zeros(3, *SIZE)
    assert problems_of("add a dog", "nothing at all", source) == [(NO_BOX, ())]
    assert problems_of("add a dog", "a cat (0,0),(300,300)", source) == []
    assert problems_of("x", "a cat (0,0),(300,300) and a dog (20,0),(310,310)", source) == [(OVERLAP, (0, 1))]
    assert problems_of("x", "gray background (0,0),(300,300) and a dog (20,0),(310,310)", source) == []
    assert problems_of("x", "a cat (0,0),(300,300) and a dog (0,0),(300,300)", source) == []


def test_messages_say_what_to_do():
    (problem,) = plan_problems(Plan("a dog right of a bench", DOG_AND_BENCH, SIZE))
    assert problem == PlanProblem(RELATION, "a dog should be right of a bench, but is planned left of it", (0, 1))


def test_directions_take_the_shape_of_the_image_into_account():
    chain = "a dog (0,0),(200,200) and a bench (600,500),(800,700)"
    assert [kind for kind, _ in problems_of("a dog left of a bench", chain)] == []
    tall = Plan("a dog left of a bench", chain, (320, 32))
    assert [problem.kind for problem in plan_problems(tall)] == [RELATION]


def test_contradicted_boxes_are_swapped():
    plan = repaired(Plan("a dog right of a bench", DOG_AND_BENCH, SIZE))
    assert plan.chain == "a dog (500,300),(800,700) and a bench (100,300),(400,700)"


def test_touching_boxes_are_moved_apart_at_their_sizes():
    plan = repaired(Plan("a star and a cross", "a star (0,0),(300,300) and a cross (200,200),(500,500)", SIZE))
    assert not plan_problems(plan)
    assert [_sides(region.box) for region in plan.regions] == [(300, 300), (300, 300)]


def test_boxes_are_moved_apart_in_the_requested_direction():
    chain = "a circle (531,562),(938,969) and a square (624,624),(999,999)"
    plan = repaired(Plan("a circle under a square", chain, SIZE))
    assert not plan_problems(plan)
    assert [_sides(region.box) for region in plan.regions] == [(407, 407), (375, 375)]


def test_objects_beside_one_another_are_moved_above():
    plan = repaired(Plan("a dog above a bench", DOG_AND_BENCH, SIZE))
    assert not plan_problems(plan)
    assert plan.regions[0].box[3] <= plan.regions[1].box[1]


def test_malformed_boxes_are_written_as_they_were_read():
    assert repaired(Plan("a dog", "a dog (0,0),(300,1200)", SIZE)).chain == "a dog (0,0),(300,999)"


@pytest.mark.parametrize(
    ("prompt", "chain"),
    [
        ("a dog left of a bench", DOG_AND_BENCH),
        ("a dog and a cat", "a dog (100,300),(400,700)"),
        ("a red car", "a blue car (0,0),(200,200)"),
        ("", "a man (200,0),(800,999) and a hat (400,0),(600,200)"),
    ],
)
def test_where_nothing_helps_the_plan_stays(prompt, chain):
    plan = Plan(prompt, chain, SIZE)
    assert repaired(plan) == plan


def test_the_work_for_a_plan_without_room_grows_with_the_pairs_of_its_boxes():
    def calls(number):
        plan = Plan("a dog left of a dog. " * number, "a dog (0,0),(700,700) " * number, SIZE)
        with cProfile.Profile() as work:
            assert len(plan_problems(plan)) > number**2 / 3
            assert repaired(plan) == plan
        return sum(entry.callcount for entry in work.getstats())

    assert calls(20) < 5 * calls(10)


def test_areas_of_edits_stay_where_they_are():
    plan = Plan("x", "a cat (0,0),(300,300) and a dog (20,0),(310,310)", SIZE, torch.zeros(3, *SIZE))
    assert plan_problems(plan)
    assert repaired(plan) is plan


boxes = st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(20, 400), st.integers(20, 400)).map(
    lambda v: (v[0], v[1], min(v[0] + v[2], 999), min(v[1] + v[3], 999))
)


@given(st.lists(boxes, min_size=2, max_size=4))
@settings(max_examples=150, deadline=None)
def test_separated_boxes_are_apart(given_boxes):
    pairs = list(combinations(range(len(given_boxes)), 2))
    moved = separated(given_boxes, pairs)
    assume(moved is not None)
    assert all(max(gaps(moved[i], moved[j])) >= MARGIN for i, j in pairs)
    assert all(0 <= x1 < x2 <= 999 and 0 <= y1 < y2 <= 999 for x1, y1, x2, y2 in moved)
    assert list(map(_sides, moved)) == list(map(_sides, given_boxes))


@given(st.lists(boxes, min_size=2, max_size=3), st.sampled_from(["left of", "right of", "above", "below", "and"]))
@settings(max_examples=50, deadline=None)
def test_repair_keeps_objects_inside_and_is_idempotent(given_boxes, joint):
    names = ("star", "square", "cross")[: len(given_boxes)]
    chain = " and ".join(
        f"a {name} ({b[0]},{b[1]}),({b[2]},{b[3]})" for name, b in zip(names, given_boxes, strict=True)
    )
    plan = Plan(f"a star {joint} a square" + (" and a cross" if len(names) > 2 else ""), chain, SIZE)
    better = repaired(plan)
    assert [region.phrase for region in better.regions] == [region.phrase for region in plan.regions]
    assert all(0 <= r.box[0] < r.box[2] <= 999 and 0 <= r.box[1] < r.box[3] <= 999 for r in better.regions)
    assert repaired(better) == better
    assert len(plan_problems(better)) < len(plan_problems(plan)) or better == plan


def _sides(box):
    return box[2] - box[0], box[3] - box[1]
