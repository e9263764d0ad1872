"""Records of Hugging Face datasets, of two tables joined by an id, and of conversations."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_records import EDITS, TEXT_TO_IMAGE, photo_records
from pyarrow import parquet

from got_core.data.images import load_image
from got_core.data.mixture import Mixture, Source
from got_core.data.records import FIRST, RecordsDataset
from got_core.data.sources import Joined, open_source
from got_core.data.tables import RowsInMemory

RECORDS = [*TEXT_TO_IMAGE, *EDITS]
SIZE = (24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    photo_records(folder)
    return folder


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()


def with_images(folder: Path, records: list[dict]) -> datasets.Dataset:
    """The records as a dataset whose images are bytes in columns of the library's own type."""
    rows = [
        record
        | {
            name: record.get(name) and {"bytes": (folder / record[name]).read_bytes(), "path": None}
            for name in ("image", "source")
        }
        for record in records
    ]
    return (
        datasets.Dataset.from_list(rows).cast_column("image", datasets.Image()).cast_column("source", datasets.Image())
    )


def write_lines(path: Path, *records: dict) -> str:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return str(path)


def test_a_saved_dataset_gives_the_samples_of_its_records(folder, tmp_path):
    with_images(folder, RECORDS).save_to_disk(tmp_path / "saved")
    dataset = RecordsDataset(str(tmp_path / "saved"), SIZE, source_column="source")
    expected = RecordsDataset(str(folder / "records.jsonl"), SIZE, source_column="source")
    assert len(dataset) == len(RECORDS)
    assert dataset.groups is None
    for index, again in enumerate(pickle.loads(pickle.dumps(dataset))[i] for i in range(len(RECORDS))):
        assert (again.prompt, again.chain) == (expected[index].prompt, expected[index].chain)
        assert torch.equal(again.target, expected[index].target)
        assert (again.source is None) == (expected[index].source is None)
        assert again.source is None or torch.equal(again.source, expected[index].source)
        assert again.meta["record"] == f"{tmp_path / 'saved'}:{index}"
    assert [file.suffix for file in dataset.files] == [".arrow"]
    assert Mixture([Source(dataset)], length=7)[0].prompt in {record["prompt"] for record in RECORDS}


def test_a_split_is_chosen_and_a_missing_one_is_named(folder, tmp_path):
    splits = {"train": with_images(folder, RECORDS[:4]), "dev": with_images(folder, RECORDS[4:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    path = str(tmp_path / "both")
    assert [len(RecordsDataset(path, 8, split=split)) for split in ("train", "dev")] == [4, 3]
    with pytest.raises(ValueError, match="both: no split 'test'; it has train, dev"):
        RecordsDataset(path, 8, split="test")
    with pytest.raises(ValueError, match=r"both/dev: no column 'caption'; it has prompt, "):
        RecordsDataset(path, 8, prompt_column="caption", split="dev")
    (tmp_path / "both" / "dev" / "data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(ValueError, match=r"both/dev: not a saved dataset"):
        RecordsDataset(path, 8, split="dev")


OFFLINE = """
import os, sys
from pathlib import Path
home = Path(os.environ["HF_HOME"])
import datasets
datasets.disable_progress_bars()
loaded = datasets.load_dataset("parquet", data_files=sys.argv[1], split="train")
(made,) = {Path(file["filename"]).parent for file in loaded.cache_files}
cached = home / "datasets" / "org___name" / "default" / "0.0.0" / "0123456789abcdef"
cached.parent.mkdir(parents=True)
made.rename(cached)
(cached / "parquet-train.arrow").rename(cached / "name-train.arrow")
from got_core.data.records import RecordsDataset
from got_core.data.peek import peek
dataset = RecordsDataset("org/name", 8)
print(len(dataset), dataset[1].prompt, dataset.name(1))
print(*peek("org/name"), sep="\\n")
for wrong, split in (("org/name", "dev"), ("org/missing", "train")):
    try:
        RecordsDataset(wrong, 8, split=split)
    except ValueError as error:
        print(error)
"""


def test_a_hub_id_is_read_by_index_and_only_its_beginning_for_a_look(folder, tmp_path):
    rows = [{**record, "image": (folder / record["image"]).read_bytes()} for record in RECORDS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    variables = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(tmp_path / "a.parquet")],
        env=variables, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"7 {RECORDS[1]['prompt']} org/name:1"
    assert lines[1] == "org/name"
    assert "    chain_column: chain" in lines
    assert "org/name: cannot be loaded from the hub (Unknown split \"dev\". Should be one of ['train'].)" in lines[-2]
    assert "org/missing: cannot be loaded from the hub" in lines[-1]


def test_without_the_package_the_error_names_the_extra(folder, tmp_path, monkeypatch):
    with_images(folder, RECORDS[:1]).save_to_disk(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"saved: .*package datasets: pip install 'got-framework\[datasets\]'"):
        RecordsDataset(str(tmp_path / "saved"), 8)


def omni_edit(folder: Path, tmp_path: Path) -> dict:
    """Two tables in the columns of OmniEdit-GoT and OmniEdit; the second has other rows too, in another order."""
    chains = [
        {
            "omni_edit_id": f"task_{number}",
            "got": "1. A cat. 2. Its <eye>.",
            "coord": json.dumps({"<eye>": [[1, 2], [3, number + 10]]}),
        }
        for number in range(3)
    ]
    write_lines(tmp_path / "got.jsonl", *chains)
    images = [
        {
            "omni_edit_id": f"task_{number}",
            "src_img": (folder / "cat.png").read_bytes(),
            "edited_img": (folder / name).read_bytes(),
            "edited_prompt_list": [f"long {number}", f"short {number}"],
        }
        for number, name in ((2, "coffee.png"), (7, "cat.png"), (0, "cat_grey.png"))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(images), tmp_path / "images.parquet", row_group_size=2)
    return {
        "path": str(tmp_path / "got.jsonl"),
        "join": str(tmp_path / "images.parquet"),
        "id_column": "omni_edit_id",
        "prompt_column": "edited_prompt_list",
        "chain_column": "got",
        "coordinates_column": "coord",
        "image_column": "edited_img",
        "source_column": "src_img",
    }


def test_images_are_joined_by_id(folder, tmp_path):
    columns = omni_edit(folder, tmp_path)
    dataset = pickle.loads(pickle.dumps(RecordsDataset(size=SIZE, fit="squash", **columns)))
    first, third = dataset[0], dataset[2]
    assert (first.prompt, third.prompt) == ("long 0", "long 2")
    assert (first.chain, third.chain) == ("1. A cat. 2. Its (1,2),(3,10).", "1. A cat. 2. Its (1,2),(3,12).")
    assert torch.equal(first.target, load_image(folder / "cat_grey.png", SIZE))
    assert torch.equal(third.target, load_image(folder / "coffee.png", SIZE))
    assert torch.equal(third.source, load_image(folder / "cat.png"))
    with pytest.raises(ValueError, match=r"got\.jsonl:2: .*images\.parquet has no row whose omni_edit_id is 'task_1'"):
        dataset[1]


def test_a_join_needs_ids_and_columns_of_one_of_the_two(folder, tmp_path):
    columns = omni_edit(folder, tmp_path)
    with pytest.raises(ValueError, match=r"got\.jsonl: join needs id_column"):
        RecordsDataset(size=8, **columns | {"id_column": None})
    with pytest.raises(ValueError, match=r"images\.parquet: no column 'target'; it has omni_edit_id, src_img"):
        RecordsDataset(size=8, **columns | {"image_column": "target"})
    with pytest.raises(ValueError, match=r"images\.parquet: no column 'id'; it has omni_edit_id"):
        RecordsDataset(size=8, **columns, join_column="id")
    with pytest.raises(ValueError, match=r"got\.jsonl: no column 'src_img'; it has omni_edit_id, got, coord"):
        RecordsDataset(size=8, **columns | {"id_column": "src_img"})


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.one_of(st.text(max_size=3), st.integers(0, 9)), min_size=1, max_size=30), cut=st.integers(0, 30))
def test_every_id_leads_to_its_first_row(ids, cut):
    rows = [(number, {"id": id_, "n": number}) for number, id_ in enumerate(ids)]
    joined = Joined("t", [RowsInMemory(Path("a"), rows[:cut]), RowsInMemory(Path("b"), rows[cut:])], "id")
    for id_ in ids:
        assert joined.row(id_)["n"] == [str(each) for each in ids].index(str(id_))
    with pytest.raises(ValueError, match="t has no row whose id is 'absent'"):
        joined.row("absent")


def test_ids_take_twelve_bytes_a_row():
    joined = Joined("t", [RowsInMemory(Path("a"), [(n, {"id": n}) for n in range(1000)])], "id")
    held = [value for value in vars(joined).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) == 12 * 1000


@pytest.mark.parametrize("earlier", [["make it red", "now blue"], '["make it red", "now blue"]'])
def test_earlier_requests_reach_the_sample(folder, tmp_path, earlier):
    lines = [{**RECORDS[0], "turns": earlier}, RECORDS[1]]
    dataset = RecordsDataset(
        write_lines(tmp_path / "r.jsonl", *lines), 8, earlier_column="turns", image_root=str(folder)
    )
    assert dataset[0].earlier == ("make it red", "now blue")
    assert dataset[1].earlier == ()


@pytest.mark.parametrize(
    ("earlier", "message"),
    [
        (7, r"r\.jsonl:1: column 'turns' holds a int, not a list"),
        ("[", r"r\.jsonl:1: column 'turns' is no list in JSON"),
        ([1], r"r\.jsonl:1: column 'turns' holds a int, not text"),
    ],
)
def test_earlier_requests_are_a_list_of_texts(folder, tmp_path, earlier, message):
    path = write_lines(tmp_path / "r.jsonl", {**RECORDS[0], "turns": earlier})
    with pytest.raises(ValueError, match=message):
        RecordsDataset(path, 8, earlier_column="turns", image_root=str(folder))


def test_a_bad_first_record_is_no_error_but_several_are(folder, tmp_path):
    bad = {**RECORDS[0], "image": "missing.png"}
    path = write_lines(tmp_path / "r.jsonl", *[bad] * (FIRST - 1), RECORDS[0])
    assert len(RecordsDataset(path, 8, image_root=str(folder))) == FIRST
    path = write_lines(tmp_path / "r.jsonl", *[bad] * FIRST, RECORDS[0])
    with pytest.raises(FileNotFoundError, match=r"r\.jsonl:1: .*missing\.png: no such image file"):
        RecordsDataset(path, 8, image_root=str(folder))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_column_of_any_table_is_read_alone(tmp_path, ending):
    file = tmp_path / f"a{ending}"
    rows = [{"id": "x", "n": "1"}, {"id": "y", "n": "2"}]
    if ending == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif ending == ".csv":
        file.write_text("id,n\nx,1\ny,2\n")
    else:
        file.write_text(json.dumps(rows) if ending == ".json" else "\n".join(map(json.dumps, rows)))
    (table,) = open_source(str(file), None)
    assert table.names == ["id", "n"]
    assert list(table.values("id")) == ["x", "y"]
    assert table.row(1) == rows[1]
