"""Results of any suite: summaries by category, `results.json`, and tables on standard output."""

import json

import pytest
from rich.table import Table
from rich.text import Text

from got_core.evaluation.results import LISTED, Item, Missing, Results, Summary, print_table, summarize
from got_core.evaluation.statistics import wilson

CELLS = [f"{number:020d}" for number in range(12)]


def wide() -> Table:
    table = Table("category", *(f"a heading of some length, {number}" for number in range(11)))
    table.add_row(*CELLS)
    return table


def test_a_wide_table_goes_whole_into_files_and_pipes(capsys):
    print_table(wide())
    (row,) = (line for line in capsys.readouterr().out.splitlines() if CELLS[0] in line)
    assert all(cell in row for cell in CELLS)


def test_a_narrow_terminal_folds_cells_and_drops_nothing(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    print_table(wide())
    said = Text.from_ansi(capsys.readouterr().out).plain
    assert "…" not in said
    digits = [line for line in said.splitlines() if "0000" in line]
    assert len(digits) > 1
    assert all(len(line) <= 100 for line in said.splitlines())


def items(category=None, number=30):
    """All succeed, all have one cosine, and every other one is half."""
    scores = [{"success": 1.0, "cosine": 1.0, "half": float(index % 2)} for index in range(number)]
    return [Item(f"{category} {index}", category, values) for index, values in enumerate(scores)]


NAMES = ("success", "cosine", "half")


def test_intervals_are_given_where_items_say_something_of_others():
    overall = summarize(items(), NAMES, fractions={"success"})["overall"]
    assert overall["success"].interval == pytest.approx(wilson(1, 30))
    assert overall["cosine"].interval is None
    low, high = overall["half"].interval
    assert 0.25 < low < 0.4 < 0.6 < high < 0.75
    assert summarize(items(number=19), NAMES)["overall"]["half"].interval is None


def test_a_summary_is_over_the_items_that_have_the_metric():
    some = [Item("a", None, {"one": 1.0}), Item("b", None, {"one": -3.0, "two": None}), Item("c", None, {})]
    assert summarize(some, ("one", "two")) == {"overall": {"one": Summary(-1, None, 2)}}


def test_items_count_by_their_weights_and_overall_over_items_groups_or_categories():
    some = [
        Item("a", "x", {"one": 1.0}, {"one": 3.0}, group="g"),
        Item("b", "x", {"one": 0.0}, group="g"),
        Item("c", "y", {"one": 0.0, "two": 1.0}),
    ]
    means = {
        pooling: {name: entry["one"].mean for name, entry in summarize(some, ("one", "two"), pooling).items()}
        for pooling in ("items", "groups", "categories")
    }
    categories = {"x": 0.75, "y": 0.0}
    assert means == {
        "items": {**categories, "overall": 0.6},
        "groups": {**categories, "overall": 0.25},
        "categories": {**categories, "overall": 0.375},
    }
    assert "two" not in summarize(some, ("one", "two"), "categories")["overall"], "a category has no such score"


def a_result(**values):
    metrics = {"success": "higher", "cosine": None}
    given = [*items("first"), *items("second", 2)]
    return Results("a suite", metrics, given, summarize(given, metrics, fractions={"success"}), **values)


def test_a_table_has_a_column_for_each_category_and_a_row_for_each_metric(capsys):
    missing = [Missing("x", "broken", "third", 4), Missing("y", "broken")]
    print_table(a_result(missing=missing).table("title"))
    lines = [line.strip("│┃ ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines]
    assert ["metric", "better", "third", "first", "second", "overall"] in rows
    assert ["success", "higher", "-", "1.000", "1.000", "1.000"] in rows
    assert ["0.886 to 1.000", "0.893 to 1.000"] in [[cell for cell in row if cell] for row in rows]
    assert ["items", "", "0", "30", "2", "32"] in rows
    assert ["missing", "", "4", "0", "0", "5"] in rows


def test_below_a_metric_stand_the_answers_that_have_it(capsys, tmp_path):
    answers = {
        "true": {"first": {"success": Summary(1.0, None, 3)}, "overall": {"success": Summary(0.75, (0.5, 1.0), 4)}},
        "blank": {"overall": {"cosine": Summary(0.25, None, 2)}},
    }
    a_result(answers=answers).publish(tmp_path, "title")
    lines = [line.strip("│┃ ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line.split("│")] for line in lines]
    named = [row for row in rows if row[0] in ("success", "cosine", "true image", "blank image")]
    assert [row[0] for row in named] == ["success", "true image", "cosine", "blank image"]
    assert named[1] == ["true image", "", "1.000", "-", "0.750"]
    assert named[3] == ["blank image", "", "-", "-", "0.250"]
    written = json.loads((tmp_path / "results.json").read_text())["answers"]
    assert written["true"]["overall"]["success"] == {"mean": 0.75, "interval": [0.5, 1.0], "n": 4}


def test_what_is_written_is_whole_and_what_is_printed_is_short(tmp_path, capsys):
    missing = [Missing(f"item {index}", "broken") for index in range(LISTED + 2)]
    a_result(missing=missing, notes=["few items"], counts={"images": 32}).publish(tmp_path, "title")
    printed = capsys.readouterr().out
    assert "note: few items" in printed
    assert "missing: item 4: broken" in printed
    assert "missing: 2 more, all of them in results.json" in printed
    assert "item 5" not in printed
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written["scores"]) == ["first", "second", "overall"]
    assert written["scores"]["second"]["cosine"] == {"mean": 1, "interval": None, "n": 2}
    assert written["missing"][6] == {"item": "item 6", "reason": "broken", "category": None, "count": 1}
    assert (written["notes"], written["counts"]) == (["few items"], {"images": 32})
    scores = {"success": 1, "cosine": 1, "half": 0}
    assert written["items"][0] == {"key": "first 0", "category": "first", "scores": scores}
