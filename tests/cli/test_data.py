"""`got data`: a stream is built and summed up, and records are shown."""

import json
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

from got_core.cli import data
from got_core.cli.main import main
from got_core.data import building
from got_core.data.streams import StreamDataset

SCRIPT, HANDLER = "<script>alert(1)</script>", '"onerror="alert(2)'
CHAIN = f"a <|object_ref_start|>dog{HANDLER}<|object_ref_end|><|box_start|>(100,200),(300,450)<|box_end|> and {SCRIPT}"


@pytest.fixture
def records(tmp_path) -> Path:
    """Twenty records, of which the first cannot be read."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.jpg")
    record = {"caption": f"{SCRIPT} {HANDLER}", "chain": CHAIN, "image": "image.jpg", "before": "image.jpg"}
    lines = [
        {**record, "image": f"{SCRIPT}.jpg"},
        *[{**record, "caption": f"{SCRIPT} {HANDLER} {n}"} for n in range(19)],
    ]
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def build(records: Path, *options: str) -> str:
    stream = str(records.parent / "stream")
    columns = ("--prompt-column", "caption", "--source-column", "before", "--shard", "8", "--workers", "1")
    main(["data", "build", str(records), *columns, "--output", stream, *options])
    return stream


def test_a_build_sums_up_and_ends_with_1_above_the_stated_rate(records, capsys):
    stream = build(records)
    said = capsys.readouterr()
    assert re.fullmatch(
        rf"{stream}: 19 records in 3 shards of 0\.\d MB together\n1 of 20 records are bad: see {stream}/bad\.jsonl\n",
        said.out,
    )
    assert said.err == ""
    for options in (("--max-bad", "0.049"), ("--max-bad", "0")):
        with pytest.raises(SystemExit) as ended:
            build(records, *options)
        assert ended.value.code == 1
        said = capsys.readouterr()
        assert re.fullmatch(r"got: 5\.0% of the records are bad, more than \d\.\d%\n", said.err)
    assert len(StreamDataset(stream, 8)) == 19


def test_what_cannot_be_built_is_one_line(records, capsys, tmp_path):
    common = ("data", "build", str(records), "--output", str(tmp_path / "other"))
    assert "no column 'prompt'" in refused(capsys, *common)
    assert "expected number from 0 on" in refused(capsys, *common, "--max-bad", "-1")
    assert "no such file" in refused(capsys, "data", "build", str(tmp_path / "none"), "--output", "x")
    assert not (tmp_path / "other").exists()
    build(records)
    other = ("--output", str(tmp_path / "stream"), "--shard", "8", "--prompt-column", "chain")
    said = refused(capsys, "data", "build", str(records), "--source-column", "before", *other)
    assert "was begun with prompt-column caption, not chain; give the same or name a new folder" in said


def test_an_interrupted_build_goes_on(records, capsys, monkeypatch):
    count = 0

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 10 * 2:
            raise KeyboardInterrupt
        return checked(*arguments)

    checked = building.checked_image
    monkeypatch.setattr(building, "checked_image", interrupted)
    with pytest.raises(SystemExit) as ended:
        build(records, "--workers", "0")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "got: interrupted: the same command goes on from here\n"
    folder = records.parent / "stream"
    assert [file.name for file in folder.glob("*shard*")] == ["shard-000000.parquet"]
    assert len(StreamDataset(build(records), 8)) == 19


def test_markup_in_records_is_text_on_the_page(records, tmp_path, capsys):
    shown = tmp_path / "shown"
    columns = ("--prompt-column", "caption", "--source-column", "before")
    main(["data", "show", str(records), *columns, "--output", str(shown), "--num", "20"])
    assert "1 records cannot be read; the page says why" in capsys.readouterr().out
    page = (shown / data.PAGE).read_text()
    assert page.count("<article>") == 19
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 19 * 2 + 1
    assert '"onerror=' not in page
    assert page.count("dog&quot;onerror=&quot;alert(2)") == 19 * 3
    assert page.count('<rect x="100" y="200" width="200" height="250"') == 19
    assert "src=" not in re.sub(r'src="data:image/jpeg;base64,[\w+/=]+"', "", page)
    assert len(re.findall(r'src="data:image/jpeg;base64,([\w+/=]+)" width="60" height="40"', page)) == 19 * 2
    image = re.search(r"base64,([\w+/=]+)", page)
    assert b64decode(image[1]).startswith(b"\xff\xd8")
    assert Image.open(shown / data.SHEET).width > 400


def test_a_stream_is_shown_by_a_seed_and_nothing_is_replaced(records, tmp_path, capsys):
    stream = build(records)
    pages = {}
    for name, seed in {"one": "1", "same": "1", "other": "2"}.items():
        main(["data", "show", stream, "--output", str(tmp_path / name), "--num", "3", "--seed", seed])
        pages[name] = (tmp_path / name / data.PAGE).read_text()
        assert pages[name].count("<article>") == 3
    assert pages["one"] == pages["same"] != pages["other"]
    again = ("data", "show", stream, "--output", str(tmp_path / "one"), "--num", "2")
    assert "sheet.png already exists: choose another --output, or add --overwrite" in refused(capsys, *again)
    assert (tmp_path / "one" / data.PAGE).read_text() == pages["one"]
    main([*again, "--overwrite"])
    assert (tmp_path / "one" / data.PAGE).read_text().count("<article>") == 2


def test_records_of_which_none_can_be_read_are_one_line(records, tmp_path, capsys):
    (tmp_path / "image.jpg").unlink()
    said = refused(capsys, "data", "show", str(records), "--prompt-column", "caption", "--output", str(tmp_path / "x"))
    assert "none of 16 records can be read" in said
    assert not (tmp_path / "x").exists()
