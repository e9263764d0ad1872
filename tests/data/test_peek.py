"""A look at a source: columns, records as text, and lines that a recipe can take."""

import json

import pytest
import yaml
from photo_records import photo_records

from got_core.cli.main import main
from got_core.data.peek import kind_of, peek, printable
from got_core.data.records import RecordsDataset


def recipe_of(lines: list[str]) -> dict:
    return yaml.safe_load("\n".join(lines[lines.index("in a recipe:") + 1 :]))


def test_the_proposed_lines_read_the_records(tmp_path):
    path = photo_records(tmp_path)
    lines = list(peek(str(path)))
    assert lines[0] == f"{path}: 7 records"
    assert lines[1:6] == ["columns:", "  prompt  text", "  image   path of an image", "  chain   text",
                          "  source  path of an image"]  # fmt: skip
    assert [line for line in lines if line.startswith("record ")] == ["record 1:", "record 2:", "record 3:"]
    recipe = recipe_of(lines)
    assert recipe["class_path"] == "got_core.data.records.RecordsDataset"
    assert RecordsDataset(**recipe["init_args"] | {"size": 8})[4].source is not None


def test_columns_are_proposed_by_what_they_hold(tmp_path):
    record = {
        "sample_id": 7,
        "caption_a": "a cat",
        "words": "a cat (1,2),(30,40)",
        "after": {"bytes": None, "path": "b.png"},
        "before": "a.png",
        "history": ["make it red"],
    }
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    columns = recipe_of(list(peek(str(tmp_path / "r.jsonl"))))["init_args"]
    assert {name: value for name, value in columns.items() if name.endswith("_column")} == {
        "id_column": "sample_id", "chain_column": "words", "source_column": "before", "image_column": "after",
        "earlier_column": "history", "prompt_column": "caption_a",
    }  # fmt: skip


def test_omniedit_got_is_recognised_and_its_images_are_missing(tmp_path):
    record = {"omni_edit_id": "t_1", "got": "the eye <box_0>", "coord": json.dumps({"<box_0>": "(1,2),(3,4)"})}
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    lines = list(peek(str(tmp_path / "r.jsonl")))
    columns = recipe_of(lines)["init_args"]
    assert (columns["chain_column"], columns["coordinates_column"], columns["id_column"]) == (
        "got", "coord", "omni_edit_id",
    )  # fmt: skip
    assert "    # image_column: no column looks like the target image; an `id_column` and `join: PATH` read it from " \
           "another table" in lines  # fmt: skip


def test_markup_and_codes_of_terminals_are_shown_as_text(tmp_path, capsys):
    record = {"\x1b]0;name\x07": "\x1b[31mred [bold]\u202e" + "x" * 500, "image": "a.png"}
    (tmp_path / "r.jsonl").write_text(json.dumps(record))
    main(["data", "peek", str(tmp_path / "r.jsonl")])
    printed = capsys.readouterr().out
    assert r"\x1b[31mred [bold]\u202exxx" in printed
    assert printable(printed.replace("\n", "")) == printed.replace("\n", "")
    assert max(map(len, printed.splitlines())) < 250


def test_kinds():
    assert kind_of([None]) == "empty"
    assert kind_of([b"", {"bytes": b"", "path": None}]) == "image"
    assert kind_of(["a", 1.0]) == "number or text"
    assert kind_of([["a"], None]) == "texts"


def test_errors_are_one_line(tmp_path, capsys):
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(SystemExit, match="2"):
            main(["data", "peek", str(path)])
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("missing.jsonl: no such file or folder")
    assert ".jsonl" in second
