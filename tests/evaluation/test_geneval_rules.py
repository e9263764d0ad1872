"""GenEval's rules: what an image must show for its prompt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from got_core.detection.base import Detection, Rules, coloured, relations, shows
from got_core.planning.boxes import RELATIONS, box_centre, box_iou

LEFT, RIGHT, TOP = (100, 400, 300, 600), (700, 400, 900, 600), (100, 0, 300, 200)
boxes = st.tuples(*[st.integers(0, 400)] * 4).map(lambda v: (v[0], v[1], v[0] + v[2] + 1, v[1] + v[3] + 1))


def found(label, colour="red", box=LEFT, score=0.95):
    return Detection(label, colour, box, score)


def single(label="circle", count=1, **more):
    return {"tag": "single_object", "include": [{"class": label, "count": count, **more}]}


def positioned(relation):
    return {
        "tag": "position",
        "include": [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": [relation, 0]}],
    }


def vector_relations(a, b):
    """The published rule written with vectors: an independent oracle."""
    a, b = np.array(a, float).reshape(2, 2), np.array(b, float).reshape(2, 2)
    offset = a.mean(0) - b.mean(0)
    if not offset.any():
        return set()
    sizes = (a[1] - a[0]) + (b[1] - b[0])
    shortened = np.sign(offset) * np.clip(np.abs(offset) - 0.1 * sizes, 0, None)
    direction = shortened / np.sqrt((offset**2).sum())
    signed = [-direction[0], direction[0], -direction[1], direction[1]]
    return {name for name, value in zip(RELATIONS, signed, strict=True) if value > 0.5}


@settings(max_examples=150, deadline=None)
@given(boxes, boxes)
def test_relations_follow_the_published_rule(a, b):
    assert relations(a, b) == vector_relations(a, b)


@settings(max_examples=100, deadline=None)
@given(boxes, boxes)
def test_relations_are_mirrored_when_the_boxes_are_swapped(a, b):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relations(b, a) == {opposite[name] for name in relations(a, b)}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (LEFT, RIGHT, {"left of"}),
        (RIGHT, LEFT, {"right of"}),
        (TOP, LEFT, {"above"}),
        (LEFT, LEFT, set()),
        ((0, 0, 10, 10), (500, 500, 510, 510), {"left of", "above"}),
        ((0, 0, 500, 500), (90, 0, 590, 500), set()),  # 90 of offset, all of it taken by 0.1 x (500 + 500)
        ((0, 0, 500, 500), (201, 0, 701, 500), {"left of"}),  # (201 - 100) / 201 > 0.5
        ((0, 0, 500, 500), (199, 0, 699, 500), set()),  # (199 - 100) / 199 < 0.5
    ],
)
def test_relations_of_known_boxes(a, b, expected):
    assert relations(a, b) == expected


def test_relations_follow_the_images_own_proportions():
    a, b = (0, 0, 10, 10), (500, 300, 510, 310)
    assert relations(a, b) == {"left of", "above"}
    assert relations(a, b, size=(1, 4)) == {"left of"}


def test_an_images_proportions_reach_the_decision():
    objects = [found("square", box=(500, 300, 510, 310)), found("circle", box=(0, 0, 10, 10))]
    assert shows(positioned("above"), objects)[0]
    assert not shows(positioned("above"), objects, size=(1, 4))[0]


def test_a_present_object_holds_and_an_absent_one_does_not():
    assert shows(single(), [found("circle")]) == (True, "")
    holds, reason = shows(single(), [found("square")])
    assert not holds
    assert "circle" in reason
    assert not shows(single(count=2), [found("circle")])[0]


def test_more_objects_than_included_are_no_fault_but_excluded_ones_are():
    metadata = {**single(count=2), "exclude": [{"class": "circle", "count": 3}, {"class": "square", "count": 1}]}
    circles = [found("circle")] * 2
    assert shows(single(), circles)[0]
    assert shows(metadata, circles)[0]
    assert not shows(metadata, [*circles, found("circle")])[0]
    assert not shows(metadata, [*circles, found("square")])[0]


def test_all_include_clauses_must_hold():
    both = {"tag": "two_object", "include": [{"class": "circle", "count": 1}, {"class": "square", "count": 1}]}
    assert shows(both, [found("circle"), found("square")])[0]
    assert not shows(both, [found("circle")])[0]


def test_confidence_is_stricter_for_counting():
    counting = {**single(), "tag": "counting"}
    assert shows(single(), [found("circle", score=0.5)])[0]
    assert not shows(counting, [found("circle", score=0.5)])[0]
    assert shows(counting, [found("circle", score=0.5)], Rules(counting_confidence=0.4))[0]
    assert not shows(single(), [found("circle", score=0.3)])[0]
    assert shows(single(), [found("circle", score=0.301)])[0]
    assert not shows(counting, [found("circle", score=0.9)])[0]
    assert shows(counting, [found("circle", score=0.901)])[0]


def test_a_low_score_does_not_count_as_too_many():
    metadata = {**single(), "tag": "counting", "exclude": [{"class": "circle", "count": 2}]}
    assert shows(metadata, [found("circle"), found("circle", score=0.8)])[0]


def test_only_sixteen_objects_of_a_class_are_counted():
    metadata = {**single(), "exclude": [{"class": "circle", "count": 17}]}
    assert shows(metadata, [found("circle")] * 30)[0]
    assert not shows(metadata, [found("circle")] * 30, Rules(max_objects=17))[0]


def test_colour_is_read_from_the_most_confident_objects_only():
    red, blue = found("circle", "red", score=0.9), found("circle", "blue", score=0.8)
    assert shows(single(color="red"), [blue, red])[0]
    assert not shows(single(color="blue"), [blue, red])[0]
    assert not shows(single(count=2, color="red"), [blue, red])[0]


@pytest.mark.parametrize(("box", "relation"), [(RIGHT, "right of"), (TOP, "above")])
def test_position_is_relative_to_the_named_clause(box, relation):
    objects = [found("square", box=LEFT), found("circle", box=box)]
    assert [name for name in RELATIONS if shows(positioned(name), objects)[0]] == [relation]


def test_position_needs_every_object_to_stand_right():
    metadata = {"include": [{"class": "square", "count": 2}, {"class": "circle", "count": 1, "position": ["above", 0]}]}
    below, beside = found("square", box=LEFT), found("square", box=(800, 0, 1000, 200))
    circle = found("circle", box=TOP)
    assert shows(metadata, [below, below, circle])[0]
    assert not shows(metadata, [below, beside, circle])[0]


def test_position_fails_where_the_other_clause_fails():
    metadata = positioned("right of")
    metadata["include"][0]["color"] = "blue"
    holds, reason = shows(metadata, [found("square", "red", LEFT), found("circle", box=RIGHT)])
    assert not holds
    assert len(reason.split("; ")) == 2


def test_colours_are_detected_of_as_many_objects_as_count():
    dogs = {"class": "dog", "count": 2, "color": "red"}
    include = [dogs, {"class": "cat", "count": 1}, {"class": "dog", "count": 1, "color": "blue"}]
    assert coloured({"include": include, "exclude": [{"class": "cat", "count": 2}]}) == {"dog": 2}
    assert coloured(single()) == {}


def test_box_geometry():
    assert box_iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert box_iou(LEFT, LEFT) == 1
    assert box_centre((0, 10, 20, 40)) == (10, 25)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 3))
def test_of_equal_scores_the_last_listed_comes_first_as_in_geneval(levels, count):
    """The published ordering of one class: `argsort` of float32 scores, reversed, then those above the threshold."""
    scores = [0.31 + level * 1e-9 if level < 2 else 0.2 * level for level in levels]
    listed = np.array(scores, dtype=np.float32)
    ordering = np.argsort(listed, kind="stable")[::-1]
    expected = ordering[listed[ordering] > np.float32(0.3)][:count].tolist()
    objects = [found("circle", "red" if index in expected else "blue", score=s) for index, s in enumerate(scores)]
    holds, _ = shows(single(count=count, color="red"), objects)
    assert holds == (len(expected) == count)


def test_a_score_that_float32_cannot_tell_from_the_threshold_is_not_above_it():
    assert not shows(single(), [found("circle", score=0.3 + 1e-9)])[0]
    assert shows(single(), [found("circle", score=0.3 + 1e-7)])[0]
