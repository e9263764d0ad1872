"""All records of a recipe are read once: what is bad, what occurs twice, and how large images and chains are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import Dataset

from got_core.cli.main import main
from got_core.data.check import (
    BARE,
    LOST,
    NAMED,
    NO_BOXES,
    SAME,
    SAME_ID,
    UNREADABLE,
    check_source,
    sample_tiles,
)  # fmt: skip
from got_core.data.records import RecordsDataset
from got_core.types import Sample

RECIPE = Path(__file__).parents[2] / "recipes" / "records_dit.yaml"
GOOD = "a car (100,300),(700,900)"
RECORDS = [
    {"prompt": "a car", "chain": GOOD, "image": "a.png", "id": "0"},
    {"prompt": "a car", "chain": "a car (1200,300),(1800,900)", "image": "b.png", "id": "1"},
    {"prompt": "a road", "chain": "a road", "image": "b.png", "id": "2"},
    {"prompt": "a bus", "chain": "(1,2),(30,40) and " + "long " * 60, "image": "b.png", "id": "1"},
    {"prompt": "a van", "chain": GOOD, "image": "missing.png", "id": "4"},
    {"prompt": "a car", "chain": f"surely {GOOD}", "image": "a.png", "id": "5"},
]


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (1000, 400), "red").save(tmp_path / "a.png")
    Image.new("RGB", (300, 300), "blue").save(tmp_path / "b.png")
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, RECORDS)) + "\n{broken")
    (tmp_path / "good.jsonl").write_text(json.dumps(RECORDS[0]))
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_duplicates_sizes_and_lengths_are_counted(folder, workers):
    report = check_source("train 0", RecordsDataset(str(folder / "r.jsonl"), 8, id_column="id"), workers)
    lines = [f"{folder / 'r.jsonl'}:{number}" for number in range(8)]
    assert dict(report.counts) == {UNREADABLE: 2, LOST: 1, NO_BOXES: 1, BARE: 1, SAME: 1, SAME_ID: 1}
    assert report.named[UNREADABLE][0] == f"{lines[5]}: {folder / 'missing.png'}: no such image file"
    assert report.named[UNREADABLE][1].startswith(f"{lines[7]}: not JSON")
    assert report.named[LOST] == [f"{lines[2]}: (1200,300),(1800,900) (pixels)"]
    assert report.named[NO_BOXES] == [f"{lines[3]}: a road"]
    assert report.named[BARE] == [lines[4]]
    assert report.named[SAME] == [f"{lines[6]}: as {lines[1]}"]
    assert report.named[SAME_ID] == [f"{lines[4]}: as {lines[2]}"]
    assert report.bad == 4 / 7
    content = report.as_dict()
    assert content["shorter side"] | {"256 to 512": 0} == dict.fromkeys(content["shorter side"], 0)
    assert content["shorter side"]["256 to 512"] == 5
    assert {name: count for name, count in content["width over height"].items() if count} == {
        "0.8 to 1.25": 3,
        "from 2": 2,
    }
    assert {name: count for name, count in content["words of a chain"].items() if count} == {
        "below 25": 4,
        "50 to 100": 1,
    }
    assert content["longest"] == 62


def test_chains_without_boxes_are_good_where_training_reads_none(folder):
    report = check_source("train 0", RecordsDataset(str(folder / "r.jsonl"), 8), 0, boxes=False)
    assert dict(report.counts) == {UNREADABLE: 2, SAME: 1}


def test_boxes_in_pixels_that_could_be_thousandths_are_bad_together(folder):
    records = [{"prompt": str(n), "chain": f"a car (10,20),({250 + n},290)", "image": "b.png"} for n in range(50)]
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = check_source("train 0", RecordsDataset(str(folder / "p.jsonl"), 8), 0)
    assert report.counts[LOST] == 50
    assert report.named[LOST][0].endswith("p.jsonl:1: pixels: no box leaves its image's pixel size")
    assert len(report.named[LOST]) == NAMED


class Bare(Dataset[Sample]):
    """Samples that have no names or ids."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Sample:
        if index % 2:
            raise ValueError("bad")
        target = torch.full((3, 20, 600), index / 100)
        return Sample("a car", GOOD, (20, 600), target=target, source=torch.zeros(3, 4, 4))


def test_any_dataset_can_be_checked():
    report = check_source("train 0", Bare(), 0)
    assert dict(report.counts) == {UNREADABLE: 20}
    assert report.named[UNREADABLE] == [f"Bare {index}: bad" for index in range(1, 2 * NAMED, 2)]
    tiles = sample_tiles([Bare(), Bare()], 10)
    assert [float(tile.image[0, 0, 0]) for tile in tiles] == pytest.approx([0.0, 0.08, 0.16, 0.24, 0.32] * 2, abs=0.005)
    assert {tuple(tile.image.shape) for tile in tiles} == {(3, 9, 256)}


def recipe(folder: Path, path: str) -> list[str]:
    def dataset(file: str) -> dict:
        settings = {"path": str(folder / file), "size": 32, "id_column": "id", "source_column": None}
        return {"class_path": "got_core.data.records.RecordsDataset", "init_args": settings}

    data = {"train": [{"dataset": dataset(path)}], "validation": dataset("good.jsonl")}
    (folder / "over.yaml").write_text(yaml.safe_dump({"data": {"init_args": data}}))
    return ["data", "check", "--config", str(RECIPE), "--config", str(folder / "over.yaml"), "--workers", "0"]


def test_the_command_reports_writes_and_fails_above_a_rate(folder, capsys):
    outputs = ["--json", str(folder / "report.json"), "--sheet", str(folder / "sheet.png")]
    with pytest.raises(SystemExit) as end:
        main([*recipe(folder, "r.jsonl"), *outputs])
    assert end.value.code == 1
    said = capsys.readouterr().out
    assert "train 0: 57.14% of 7 records are bad, and 5.00% may be" in said
    assert f"validation 0: {folder / 'good.jsonl'}" in said
    report = json.loads((folder / "report.json").read_text())
    assert (report["max_bad"], report["passed"]) == (0.05, False)
    assert [source["records"] for source in report["sources"]] == [7, 1]
    sheet = np.asarray(Image.open(folder / "sheet.png"))
    assert (sheet == (255, 0, 0)).all(-1).any()
    assert (sheet == (0, 0, 255)).all(-1).any()
    main([*recipe(folder, "r.jsonl"), "--max-bad", "0.6", "--json", str(folder / "report.json")])
    assert json.loads((folder / "report.json").read_text())["passed"]
    main([*recipe(folder, "r.jsonl"), "--data.max_bad_records", "0.6"])
    main([*recipe(folder, "good.jsonl"), "--max-bad", "0"])


def test_an_interruption_is_one_line(folder, capsys, monkeypatch):
    words = recipe(folder, "good.jsonl")
    monkeypatch.setattr(RecordsDataset, "image_size", lambda self, index: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "got: interrupted"


def test_errors_of_the_recipe_are_one_line(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "check"])
    assert end.value.code == 2
    with pytest.raises(SystemExit) as end:
        main(recipe(folder, "missing.jsonl"))
    assert end.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "got: error: got data check needs a recipe: --config FILE"
    assert "missing.jsonl: no such file or folder" in second
