"""Coordinates beside the chain, and chains in JSON, are read by type."""

import json
from pathlib import Path

import pytest

from got_core.chain.dialects import fill_coordinates, from_json, from_readable
from got_core.chain.parser import Region, parse


@pytest.mark.parametrize(
    ("value", "box"),
    [
        ([120, 340, 560, 780], "(120,340),(560,780)"),
        ([[120, 340], [560.4, 780]], "(120,340),(560,780)"),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], "(1,2),(3,4) (5,6),(7,8)"),
        ({"x1": 120, "y1": 340, "x2": 560, "y2": 780}, "(120,340),(560,780)"),
        ({"x2": "560", "Y1": 340, "X1": 120, "y2": 780}, "(120,340),(560,780)"),
        ({"xmin": 120, "ymin": 340, "xmax": 560, "ymax": 780}, "(120,340),(560,780)"),
        ([{"bbox_2d": [120, 340, 560, 780], "label": "dog 7"}], "(120,340),(560,780)"),
        ("(120,340),(560,780)", "(120,340),(560,780)"),
        ("120-340-560-780.", "(120,340),(560,780)"),
        ("120 - 340 - 560 - 780", "(120,340),(560,780)"),
        ("x1=120 y1=340 x2=560 y2=780", "(120,340),(560,780)"),
        ('{"x1": 120, "y1": 340, "x2": 560, "y2": 780}', "(120,340),(560,780)"),
        ("[120, 340), (560, 780]", "(120,340),(560,780)"),
        ("-5,340,560,780", "(-5,340),(560,780)"),
    ],
)
def test_a_value_of_any_type_is_read(value, box):
    for coordinates in ({"<b>": value}, json.dumps({"<b>": value})):
        assert fill_coordinates("a dog <b>.", coordinates) == f"a dog {box}."


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0.1, 0.2, 0.9, 0.9], "'<b>' has 0.1, 0.2, 0.9, 0.9, which are fractions of width and height"),
        ([0, 0, 1, 1], "fractions"),
        ("0.1 0.2 0.9 1", "fractions"),
        ([1, 2, 3], "'<b>' has 3 numbers; a box needs 4"),
        ({"x": 1, "y": 2, "w": 3, "h": 4}, "'<b>' has x, y, w, h; a box has x1, y1, x2, y2"),
        ([1, 2, 3, None], "'<b>' has None, which is no coordinate"),
        ([1, 2, 3, True], "no coordinate"),
        ([1, 2, 3, float("nan")], "no coordinate"),
        ("", "0 numbers"),
    ],
)
def test_what_makes_no_box_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        fill_coordinates("a dog <b>.", {"<b>": value})


FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


def test_the_json_of_qwen_is_a_chain():
    text = (FAULTS / "qwen_json_chain.txt").read_text(encoding="utf-8")
    expected = (Region("a red circle", (100, 100, 400, 400)), Region("a blue square", (600, 600, 900, 900)))
    one, both = text.strip()[1:].split("}, {")[0] + "}", (text, f"```json\n{text}\n```\n")
    for written in both:
        assert parse(from_json(written)).regions == expected
        assert parse(from_readable(written)).regions == expected
    assert parse(from_json(one)).regions == expected[:1]


@pytest.mark.parametrize(
    "text",
    [
        "a dog (1,2),(3,4)", "[]", "{}", "3", "null", "", '[{"bbox_2d": [1, 2, 3], "label": "a dog"}]', '["a dog"]',
        '[{"bbox_2d": [1, 2, 3, 4]}]', '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, 7]', '{"label": "a dog"}', "[" * 9999,
    ],
)  # fmt: skip
def test_other_json_stays_as_it_is(text):
    assert from_json(text) == text


def test_brackets_as_wide_as_chinese_text_has_them_are_read():
    chain = (FAULTS / "fullwidth_chain.txt").read_text(encoding="utf-8").strip()
    assert parse(chain).regions == (Region("一个红色的圆", (100, 100, 400, 400)),)
