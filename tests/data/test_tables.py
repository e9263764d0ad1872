"""Tables in every form in which they are found, and what is said of those that cannot be read."""

import json
import pickle
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from got_core.data.tables import open_table, open_tables, open_texts

FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"
ROWS = [{"prompt": "a red, round circle", "n": "1"}, {"prompt": "ein Stück\nBrot", "n": "2"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CSV = b'prompt,n\r\n"a red, round circle",1\r\n"ein St\xc3\xbcck\nBrot",2\r\n'
BOM = b"\xef\xbb\xbf"


def rows(table) -> list[dict]:
    return [dict(table.row(index)) for index in range(len(table))]


def parquet_bytes() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({name: [row[name] for row in ROWS] for name in ROWS[0]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("name", "content", "numbers"),
    [
        ("a.jsonl", LINES, [1, 2]),
        ("a.JSONL", BOM + LINES, [1, 2]),
        ("a.ndjson", b"\n" + LINES, [2, 3]),
        ("a.json", LINES, [1, 2]),
        ("a.json", json.dumps(ROWS, indent=1).encode(), [2, 6]),
        ("a.jsonl", BOM + json.dumps(ROWS).encode(), [1, 1]),
        ("a.csv", CSV, [2, 4]),
        ("a.CSV", BOM + CSV, [2, 4]),
        ("a.tsv", CSV.replace(b"prompt,n", b"prompt\tn").replace(b'",', b'"\t'), [2, 4]),
        ("a.parquet", parquet_bytes(), [0, 1]),
        ("a.json", parquet_bytes(), [0, 1]),
        ("a", parquet_bytes(), [0, 1]),
        ("a", LINES, [1, 2]),
    ],
)
def test_what_a_file_holds_decides_how_it_is_read(tmp_path, name, content, numbers):
    (tmp_path / name).write_bytes(content)
    table = pickle.loads(pickle.dumps(open_table(tmp_path / name, ["prompt", "n"])))
    assert rows(table) == ROWS
    assert [table.name(index) for index in range(2)] == [f"{tmp_path / name}:{number}" for number in numbers]
    with pytest.raises(ValueError, match=rf"{name}: no column 'no'; it has prompt, n$"):
        open_table(tmp_path / name, ["no"])


@pytest.mark.parametrize("escapes", [r"\u63d0\u793a", r"\u63D0\u793a", "提示"])
def test_columns_may_have_any_name_however_it_is_escaped(tmp_path, escapes):
    (tmp_path / "a.jsonl").write_text(f'{{"b": 1}}\n{{"{escapes}": 2}}', encoding="utf-8")
    assert open_table(tmp_path / "a.jsonl", ["提示"]).row(1) == {"提示": 2}


def test_nan_is_missing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": NaN, "b": 1.5}')
    (tmp_path / "a.json").write_text('[{"a": NaN, "b": 1.5}]')
    parquet.write_table(pyarrow.table({"a": [float("nan")], "b": [1.5]}), tmp_path / "a.parquet")
    for table in open_tables(tmp_path, ["a", "b"]):
        assert table.row(0) == {"a": None, "b": 1.5}


def test_a_folder_is_read_without_hidden_files_and_a_folder_in_it_is_named(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for name in ("b.NDJSON", "a.jsonl", "._a.jsonl", ".b.parquet", "notes.txt"):
        (data / name).write_bytes(LINES if name[0] != "." else b"\0")
    assert [table.path.name for table in open_tables(data, ["prompt"])] == ["a.jsonl", "b.NDJSON"]
    with pytest.raises(ValueError, match="file in this folder; there are such files in its folder data: name that one"):
        open_tables(tmp_path, ["prompt"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", LINES + b'{"prompt": "\xff"}', r"a\.jsonl:3: not UTF-8: byte 0xff \(invalid start byte\)"),
        ("a.jsonl", "{}".encode("utf-16"), r"a\.jsonl:1: not UTF-8: byte 0xff"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: not JSON \(nested too deeply"),
        ("a.json", b'[{"a": ' + b"[" * 100_000, r"a\.json:1: not JSON \(maximum recursion"),
        ("a.json", b'[{"a": 1},\n{"a": ', r"a\.json:2: not JSON"),
        ("a.json", b'[{"a": 1},]', r"a\.json:1: not JSON"),
        ("a.json", b'[{"a": 1}] 2', r"a\.json:1: not JSON \(text follows"),
        ("a.json", b'[{"a": 1},\n["b"]]', r"a\.json:2: not a JSON object but a list"),
        ("a.csv", b"a,b\n1,2\n1\n", r"a\.csv:3: 1 values for 2 columns"),
        ("a.csv", b'a,b\n1,"2', r"a\.csv:2: not CSV"),
        ("a.csv", b"a,b\n1,\xe4", r"a\.csv: not UTF-8: byte 0xe4 in line 2"),
        ("a.parquet", parquet_bytes()[:-9], r"a\.parquet: not a Parquet file"),
        ("a.parquet", (FAULTS / "corrupt_page.parquet").read_bytes(), r"a\.parquet:0: row group 0 is damaged"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    columns = ["prompt"] if name == "a.parquet" else []
    with pytest.raises(ValueError, match=message) as raised:
        rows(open_table(tmp_path / name, columns))
    assert "\n" not in str(raised.value)


def test_lines_may_be_texts(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(BOM + b'a cat\n\n {"prompt": "a dog", "tag": "x"}\n[1] owl')
    table = open_texts(file, "prompt")
    assert rows(table) == [{"prompt": "a cat"}, {"prompt": "a dog", "tag": "x"}, {"prompt": "[1] owl"}]
    assert [table.number(index) for index in range(3)] == [1, 3, 4]
    assert rows(open_texts(FAULTS / "prompts_array.json", "prompt")) == [
        {"prompt": "a red circle"},
        {"prompt": "a blue square"},
    ]
