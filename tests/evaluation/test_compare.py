"""`got compare`: paired differences of two results, their intervals and tests."""

import json

import numpy as np
import pytest

from got_core.errors import UserError
from got_core.evaluation.compare import difference_table, differences, same_evaluator, what_differs
from got_core.evaluation.results import Item, Results, read_results, summarize

METRICS = {"right": "higher"}


def save(file, items, suite="geneval", metrics=METRICS, **more):
    content = Results(suite, metrics, items, summarize(items, metrics), origin=more).as_json()
    file.write_text(json.dumps(content))
    return read_results(file)


def write(file, values, category="colors", **more):
    """A result of one category with the metric `right`."""
    return save(file, [Item(key, category, {"right": value}) for key, value in values.items()], **more)


def numbered(scores, first=0):
    return {f"prompt {first + number}": float(score) for number, score in enumerate(scores)}


def right(a, b):
    return differences(a, b)["right"]


def test_a_difference_that_every_prompt_shows_is_significant(tmp_path):
    a = write(tmp_path / "a.json", numbered([0.0, 0.25, 0.5, 0.75] * 5))
    b = write(tmp_path / "b.json", numbered([0.25, 0.5, 0.75, 1.0] * 5))
    for found in right(a, b).values():
        assert (found.second - found.first, found.items) == (0.25, 20)
        assert found.interval is None
        assert found.conclusion("higher") == "significant: B is better"
        assert found.conclusion("lower") == "significant: A is better"
        assert found.conclusion(None) == "significant"
    assert right(b, a)["colors"].conclusion("higher") == "significant: A is better"


def test_items_are_compared_in_pairs(tmp_path):
    """Scores that vary far more between prompts than between the two results."""
    scores = np.random.default_rng(0).random(60)
    differing = np.where(np.arange(60) % 3, 0.05, -0.01)
    a = write(tmp_path / "a.json", numbered(scores))
    b = write(tmp_path / "b.json", numbered(scores + differing))
    low, high = right(a, b)["overall"].interval
    assert 0.02 < low < 0.03 < high < 0.04
    assert high - low == pytest.approx(2 * 1.96 * differing.std() / np.sqrt(60), rel=0.1)


def test_differences_that_go_both_ways_are_not_significant(tmp_path):
    a = write(tmp_path / "a.json", numbered([0.0, 1.0] * 15))
    b = write(tmp_path / "b.json", numbered([1.0, 0.0] * 15))
    assert right(a, b)["overall"].conclusion("higher") == "not significant"
    few = write(tmp_path / "few.json", numbered([1.0] * 19))
    assert right(a, few)["overall"].conclusion("higher") == "too few items"


def test_overall_needs_enough_items_in_every_category(tmp_path):
    """Five categories of one prompt that changed, and one of fifty that did not."""
    one = [Item(f"{name} 0", name, {"right": 0.0}) for name in "abcde"]
    same = [Item(f"f {n}", "f", {"right": float(n % 2)}) for n in range(50)]
    a = save(tmp_path / "a.json", [*one, *same])
    b = save(tmp_path / "b.json", [*[Item(i.key, i.category, {"right": 1.0}) for i in one], *same])
    overall = right(a, b)["overall"]
    assert (overall.items, overall.smallest) == (55, 1)
    assert overall.interval is None
    assert overall.conclusion("higher") == "too few items"


def test_p_values_of_categories_are_corrected_for_their_number(tmp_path):
    gaps = np.r_[np.ones(8), -np.ones(1), np.zeros(16)]
    alone, among = [
        [Item(f"{name} {n}", name, {"right": 0.5}) for name in names for n in range(25)] for names in ("a", "abcdef")
    ]

    def moved(items):
        shifts = [gaps[n % 25] / 2 if item.category == "a" else 0.0 for n, item in enumerate(items)]
        return [Item(i.key, i.category, {"right": i.scores["right"] + s}) for i, s in zip(items, shifts, strict=True)]

    single = right(save(tmp_path / "a", alone), save(tmp_path / "b", moved(alone)))["a"]
    several = right(save(tmp_path / "c", among), save(tmp_path / "d", moved(among)))["a"]
    assert single.conclusion("higher") == "significant: B is better"
    assert several.p_value == pytest.approx(6 * single.p_value)
    assert several.conclusion("higher") == "not significant"


def test_only_prompts_of_both_are_compared_and_a_repeated_one_is_two(tmp_path):
    a = write(tmp_path / "a.json", numbered([0.0] * 12))
    b = write(tmp_path / "b.json", numbered([1.0] * 12, first=5))
    assert right(a, b)["overall"].items == 7
    content = json.loads((tmp_path / "a.json").read_text())
    content["items"] *= 2
    (tmp_path / "twice.json").write_text(json.dumps(content))
    twice = read_results(tmp_path / "twice.json")
    assert right(twice, twice)["overall"].items == 24
    assert right(twice, a)["overall"].items == 12


def test_overall_is_the_plain_mean_of_the_categories(tmp_path):
    items = [
        Item(f"{category} {n}", category, {"right": score})
        for category, number, score in (("colors", 30, 1.0), ("counting", 10, 0.0))
        for n in range(number)
    ]
    a = save(tmp_path / "a.json", items)
    found = right(a, a)
    assert (found["overall"].first, found["overall"].items) == (0.5, 40)
    assert difference_table(found, a, a, "right", comparable=True).row_count == 3


def test_any_suite_is_compared_by_each_of_its_metrics(tmp_path):
    """Two metrics, one of them lacking in some items, no categories."""
    rng = np.random.default_rng(0)
    metrics = {"deviation": "lower", "iou": "higher", "boxes": None}
    scores = rng.random((30, 2))

    def items(shift):
        return [
            Item(f"scene {n}", None, {"deviation": d - shift, "iou": None if n < 5 else i + shift})
            for n, (d, i) in enumerate(scores)
        ]

    a = save(tmp_path / "a.json", items(0), suite="layout", metrics=metrics)
    b = save(tmp_path / "b.json", items(0.1 + 1e-3 * rng.random()), suite="layout", metrics=metrics)
    found = differences(a, b)
    assert {name: list(parts) for name, parts in found.items()} == {"deviation": ["overall"], "iou": ["overall"]}
    assert (found["deviation"]["overall"].items, found["iou"]["overall"].items) == (30, 25)
    for name in found:
        assert found[name]["overall"].conclusion(metrics[name]) == "significant: B is better"


def test_what_else_differs_is_listed_but_not_where_an_evaluator_was_loaded_from(tmp_path):
    evaluator = {"from": {"detector": "a"}, "rules": {"confidence": 0.3}, "weights": {"detector/model": "1"}}
    values = numbered([0.0, 1.0])
    a = write(tmp_path / "a", values, evaluator=evaluator, counts={"images": 8}, seeds={"generation": 1})
    moved = write(tmp_path / "b", values, evaluator={**evaluator, "from": {"detector": "b"}}, counts={"images": 8},
                  seeds={"generation": 1})  # fmt: skip
    assert same_evaluator(a, moved)
    assert not list(what_differs(a, moved))
    other = write(
        tmp_path / "c", values, evaluator={**evaluator, "weights": {"detector/model": "2"}}, counts={"images": 7}
    )
    assert not same_evaluator(a, other)
    assert [line.split(":")[0] for line in what_differs(a, other)] == [
        "evaluator, weights",
        "counts, images",
        "seeds, generation",
    ]
    table = difference_table(right(a, other), a, other, "right", comparable=False)
    assert list(table.columns[-1].cells) == ["different evaluators"] * 2


def test_what_cannot_be_compared_is_refused(tmp_path):
    a = write(tmp_path / "a.json", numbered([0.0] * 3))
    other = write(tmp_path / "layout.json", numbered([0.0] * 3), suite="layout")
    with pytest.raises(UserError, match=r"a\.json is of suite geneval, .*layout\.json of layout"):
        differences(a, other)
    apart = write(tmp_path / "apart.json", numbered([0.0] * 3, first=3))
    with pytest.raises(UserError, match="no scored item in common"):
        differences(a, apart)
    with pytest.raises(UserError, match="no scored item in common"):
        differences(a, write(tmp_path / "category.json", numbered([0.0] * 3), category="counting"))
    for text in ('{"suite": "geneval"}', "[]", '{"suite": "a", "items": [1], "metrics": {}}'):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(UserError, match=r"broken\.json: not a results\.json"):
            read_results(tmp_path / "broken.json")
    with pytest.raises(UserError, match="no such file"):
        read_results(tmp_path / "nowhere.json")
