"""GoT records from JSON lines and Parquet, on photographs with chains written by hand."""

import json
import pickle
from pathlib import Path

import pyarrow
import pytest
import torch
from photo_records import EDITS, TEXT_TO_IMAGE, photo_records
from PIL import Image
from pyarrow import parquet

from got_core.chain.parser import Region, parse
from got_core.data.images import load_image
from got_core.data.mixture import Mixture, Source
from got_core.data.records import RecordsDataset, bad_chains
from got_core.types import resized

RECORDS = [*TEXT_TO_IMAGE, *EDITS]
SIZE = (24, 32)
FAULTS = Path(__file__).parents[1] / "fixtures" / "faults"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    photo_records(folder)
    return folder


def write_parquet(path, columns: dict[str, list], group: int = 2) -> str:
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return str(path)


def write_lines(path, *records) -> str:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records))
    return str(path)


def assert_same(first: RecordsDataset, second: RecordsDataset) -> None:
    assert len(first) == len(second)
    for index in range(len(first)):
        a, b = first[index], second[index]
        assert (a.prompt, a.chain, a.size) == (b.prompt, b.chain, b.size)
        assert torch.equal(a.target, b.target)
        assert (a.source is None) == (b.source is None)
        assert a.source is None or torch.equal(a.source, b.source)


def test_json_lines_give_prompt_chain_images_and_kind(folder):
    dataset = RecordsDataset(str(folder / "records.jsonl"), SIZE, source_column="source", fit="squash")
    assert len(dataset) == len(RECORDS)
    for index in (6, 0, 3, 5):
        record, sample = RECORDS[index], dataset[index]
        assert (sample.prompt, sample.chain, sample.size) == (record["prompt"], record["chain"], SIZE)
        assert torch.equal(sample.target, load_image(folder / record["image"], SIZE))
        if "source" in record:
            assert torch.equal(sample.source, load_image(folder / record["source"]))
            assert not torch.equal(resized(sample.source, SIZE), sample.target)
            assert sample.meta["kind"] == "edit"
        else:
            assert sample.source is None
            assert sample.meta["kind"] == "t2i"
        assert sample.meta["record"].endswith(f"records.jsonl:{index + 1}")


def test_parquet_gives_the_same_from_paths_bytes_and_structs(folder, tmp_path):
    expected = RecordsDataset(str(folder / "records.jsonl"), SIZE, source_column="source")
    text = {name: [record[name] for record in RECORDS] for name in ("prompt", "chain")}
    paths = {name: [record.get(name) for record in RECORDS] for name in ("image", "source")}
    contents = {name: [p and (folder / p).read_bytes() for p in values] for name, values in paths.items()}
    structs = {
        "image": [{"bytes": content, "path": None} for content in contents["image"]],
        "source": [p and {"bytes": None, "path": p} for p in paths["source"]],
    }
    for number, images in enumerate([paths, contents, structs]):
        path = write_parquet(tmp_path / f"{number}.parquet", text | images)
        dataset = RecordsDataset(path, SIZE, source_column="source", image_root=str(folder))
        dataset[3]
        assert_same(pickle.loads(pickle.dumps(dataset)), expected)


def test_a_folder_is_read_in_the_order_of_its_files(folder, tmp_path):
    for name, records in [("b.jsonl", RECORDS[3:]), ("a.jsonl", RECORDS[:3])]:
        write_lines(tmp_path / name, *records, "", "  ")
    dataset = RecordsDataset(str(tmp_path), 16, image_root=str(folder))
    assert [dataset[i].prompt for i in range(len(dataset))] == [record["prompt"] for record in RECORDS]
    assert [dataset[i].source for i in range(len(dataset))] == [None] * len(RECORDS)
    assert dataset[0].size == (16, 16)


def test_columns_are_named_and_wordings_alternate(folder, tmp_path):
    records = [{"ask": ["one", "two"], "why": "", "to": "cat_grey.png", "from": "cat.png"}] * 3
    path = write_lines(tmp_path / "r.jsonl", *records)
    dataset = RecordsDataset(path, 8, "ask", "why", "to", "from", image_root=str(folder))
    assert [dataset[i].prompt for i in range(3)] == ["one", "two", "one"]
    assert dataset[0].source is not None


def test_placeholders_are_filled_with_their_coordinates(folder, tmp_path):
    got = "1. A cat. 2. Its eye. 3. In <box_1>, not (<box_10>) or <box_2>."
    coord = {"<box_1>": [299, 283, 461, 490], "<box_10>": "(0,0),(999,999)", "<box_2>": [[1, 2.4], [3, 4]]}
    record = {"p": "Make it grey", "got": got, "coord": json.dumps(coord), "i": str(folder / "cat.png")}
    path = write_parquet(tmp_path / "omni.parquet", {name: [value] for name, value in record.items()})
    sample = RecordsDataset(path, 8, "p", "got", "i", coordinates_column="coord", allow_outside=True, fit="squash")[0]
    assert sample.chain == ("1. A cat. 2. Its eye. 3. In (299,283),(461,490), not ((0,0),(999,999)) or (1,2),(3,4).")


@pytest.mark.parametrize(
    ("coord", "message"),
    [
        ("{", r"r\.jsonl:1: column 'coord': coordinates are not valid JSON"),
        ("[1]", "must map placeholders to boxes, not be a list"),
        ({"<a>": [1, 2, 3]}, "placeholder '<a>' has 3 numbers; a box needs 4"),
    ],
)
def test_bad_coordinates_name_the_record(folder, tmp_path, coord, message):
    path = write_lines(tmp_path / "r.jsonl", {**RECORDS[0], "coord": coord})
    with pytest.raises(ValueError, match=message):
        RecordsDataset(path, 8, coordinates_column="coord", image_root=str(folder))


def with_chain(tmp_path, chain, **options):
    """A dataset of one record, whose image has 64 x 48 pixels."""
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")
    path = write_lines(tmp_path / "r.jsonl", {"prompt": "a dog", "chain": chain, "image": "small.png"})
    return RecordsDataset(path, 8, fit="squash", **options)


@pytest.mark.parametrize(
    ("options", "chain"),
    [
        ({"unit": "pixels"}, "a dog (16,12),(32,24)"),
        ({"unit": "fractions"}, "a dog (0.25,0.25),(0.5,0.5)"),
        ({"unit": "pixels"}, '[{"bbox_2d": [16, 12, 32, 24], "label": "a dog"}]'),
        ({"dialect": "internvl"}, "<ref>a dog</ref><box>[[250, 250, 500, 500]]</box>"),
        ({"dialect": "lists", "unit": "pixels"}, "a dog [16, 12, 32, 24]"),
        ({"dialect": "qwen3_vl"}, '[{"bbox_2d": [250, 250, 500, 500], "label": "a dog"}]'),
        ({"dialect": "qwen2_5_vl"}, '[{"bbox_2d": [14, 14, 28, 28], "label": "a dog"}]'),
    ],
)
def test_boxes_of_a_declared_form_become_thousandths(tmp_path, options, chain):
    """Qwen2.5-VL sees 56 x 56 pixels of the image's 64 x 48."""
    dataset = with_chain(tmp_path, chain, **options)
    assert parse(dataset[0].chain).regions == (Region("a dog", (250, 250, 500, 500)),)
    assert dataset.chain(0)[1] == dataset[0].chain
    assert bad_chains(dataset) == ([], 1)


def test_undeclared_chains_stay_as_they_are(tmp_path):
    chain = "See a dog (16,12),(32,24) [1, 2, 3, 4]."
    assert with_chain(tmp_path, chain)[0].chain == chain


@pytest.mark.parametrize(
    ("options", "chain", "message"),
    [
        ({"dialect": "qwen4"}, "", "qwen4 is no dialect of boxes; known: got"),
        ({"dialect": "qwen3_vl"}, "a dog", r"r\.jsonl:1: column 'chain': qwen3_vl: Expecting value"),
        ({"dialect": "qwen3_vl"}, '[{"bbox_2d": [1, 2, 3]}]', "qwen3_vl: dropped: object 1 has no four numbers"),
    ],
)
def test_chains_of_another_form_than_declared_name_the_record(tmp_path, options, chain, message):
    with pytest.raises(ValueError, match=message):
        with_chain(tmp_path, chain, **options)


def test_errors_of_files_are_raised_at_once(folder, tmp_path):
    good = RECORDS[0]
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl: no such file or folder"):
        RecordsDataset(str(tmp_path / "nowhere.jsonl"), 8)
    (tmp_path / "records.txt").write_text("a,b")
    with pytest.raises(ValueError, match=r"records\.txt: records are read from \.csv, \.json, \.jsonl"):
        RecordsDataset(str(tmp_path / "records.txt"), 8)
    with pytest.raises(ValueError, match=r"empty\.jsonl: no records"):
        RecordsDataset(write_lines(tmp_path / "empty.jsonl"), 8)
    with pytest.raises(ValueError, match=r"a\.jsonl: no column 'caption'; it has prompt, image, chain"):
        RecordsDataset(write_lines(tmp_path / "a.jsonl", good), 8, prompt_column="caption", image_root=str(folder))
    with pytest.raises(ValueError, match=r"a\.jsonl: no column 'sorce'"):
        RecordsDataset(str(tmp_path / "a.jsonl"), 8, source_column="sorce", image_root=str(folder))
    path = write_parquet(tmp_path / "a.parquet", {name: [value] for name, value in good.items()})
    with pytest.raises(ValueError, match=r"a\.parquet: no column 'caption'; it has prompt, image, chain"):
        RecordsDataset(path, 8, prompt_column="caption", image_root=str(folder))
    (tmp_path / "b.parquet").write_text("not parquet at all")
    with pytest.raises(ValueError, match=r"b\.parquet: not a Parquet file"):
        RecordsDataset(str(tmp_path / "b.parquet"), 8)
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl:1: .*astronaut\.png: no such image file"):
        RecordsDataset(str(tmp_path / "a.jsonl"), 8)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": ', r"r\.jsonl:3: not JSON"),
        ("[1, 2]", r"r\.jsonl:3: not a JSON object but a list"),
        ({**RECORDS[0], "image": "records.jsonl"}, r"r\.jsonl:3: .*records\.jsonl: not a readable image"),
        ({**RECORDS[0], "image": 7}, r"r\.jsonl:3: column 'image' holds a int"),
        ({**RECORDS[0], "image": ""}, r"r\.jsonl:3: column 'image' is empty"),
        ({**RECORDS[0], "chain": None}, r"r\.jsonl:3: column 'chain' is empty"),
        (
            {**RECORDS[0], "prompt": "half of \ud83d"},
            r"r\.jsonl:3: column 'prompt': half of a character .*\\ud83d\) at",
        ),
        ({**RECORDS[0], "chain": "a\0b"}, r"r\.jsonl:3: column 'chain': a NUL at character 1"),
        ({**RECORDS[0], "image": "a\0b"}, r"r\.jsonl:3: column 'image': a NUL at character 1"),
        ({**RECORDS[0], "image": "\ud83d.png"}, r"r\.jsonl:3: column 'image': half of a character"),
        ({"prompt": "a", "image": "cat.png"}, r"r\.jsonl:3: no column 'chain'; it has prompt, image"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(folder, tmp_path, line, message):
    dataset = RecordsDataset(write_lines(tmp_path / "r.jsonl", RECORDS[0], "", line), 8, image_root=str(folder))
    assert dataset[0].prompt == RECORDS[0]["prompt"]
    with pytest.raises(ValueError, match=message):
        dataset[1]


def test_images_outside_of_the_root_need_permission(folder, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.png").symlink_to(folder / "cat.png")
    for image in ("link.png", str(folder / "cat.png"), "../cat.png"):
        (tmp_path / "cat.png").write_bytes((folder / "cat.png").read_bytes())
        path = write_lines(tmp_path / "r.jsonl", {**RECORDS[0], "image": image})
        with pytest.raises(ValueError, match=r"r\.jsonl:1: .* is outside of .*root; give `allow_outside: true`"):
            RecordsDataset(path, 8, image_root=str(root))
        assert len(RecordsDataset(path, 8, image_root=str(root), allow_outside=True)) == 1


def test_tables_as_others_write_them():
    named = RecordsDataset(str(FAULTS / "columns_zh.jsonl"), 8, prompt_column="提示")
    assert named[0].prompt == "a red square"
    assert RecordsDataset(str(FAULTS / "nan_source.jsonl"), 8, source_column="source")[0].source is None


def test_chains_reach_the_parser_whole(folder):
    dataset = RecordsDataset(str(folder / "records.jsonl"), 8, source_column="source", fit="squash")
    chains = [parse(dataset[index].chain) for index in range(len(dataset))]
    assert [chain.problems for chain in chains] == [()] * len(dataset)
    assert [len(chain.regions) for chain in chains] == [4, 3, 4, 3, 1, 1, 1]
    assert [region.phrase for region in chains[1].regions] == ["a red saucer", "a red cup of coffee", "a silver spoon"]
    assert chains[2].regions[3].box == (528, 760, 650, 887)
    assert [region.colour for region in chains[3].regions] == ["white", "red", "blue"]
    assert chains[4].regions[0].box == (0, 0, 999, 999)


def test_shuffled_reading_of_parquet_decodes_each_row_group_once(folder, tmp_path, monkeypatch):
    image = (folder / RECORDS[0]["image"]).read_bytes()
    columns = {"prompt": [str(i) for i in range(60)], "chain": ["a (1,1),(2,2)"] * 60, "image": [image] * 60}
    dataset = RecordsDataset(write_parquet(tmp_path / "a.parquet", columns, group=3), 8)
    assert dataset.groups == [3] * 20
    assert RecordsDataset(str(folder / "records.jsonl"), 8).groups is None
    decoded, read = [], parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile, "read_row_group", lambda self, i, **options: decoded.append(i) or read(self, i, **options)
    )
    mixture = Mixture([Source(dataset)], length=60)
    prompts = [mixture[index].prompt for index in range(60)]
    assert sorted(prompts, key=int) == columns["prompt"] != prompts
    assert len(decoded) <= 20
    assert {*decoded, 0} == set(range(20))  # The first record was read before.
