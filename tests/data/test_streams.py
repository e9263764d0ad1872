"""Streams: what is written, what is left out, what a killed build leaves, and how they are read."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pyarrow
import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile
from PIL import Image
from pyarrow import parquet

from got_core.data import building
from got_core.data.building import GROUP, Build, Built, build_stream, checked_image
from got_core.data.folders import Folder
from got_core.data.images import load_image
from got_core.data.mixture import Mixture, Source
from got_core.data.peek import peek
from got_core.data.records import Chains, RecordsDataset, StoredImage
from got_core.data.streams import BAD, INDEX, StreamDataset
from got_core.data.tables import GROUPS_HELD

COLUMNS = {"source_column": "source", "earlier_column": "earlier", "id_column": "id"}
CHAIN = "a dog (100,200),(300,400)"


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        levels = rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{number}.jpg", quality=90)
    Image.fromarray(levels).save(folder / "4.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(levels).save(folder / "turned.jpg", exif=turned)


def good_records(count: int) -> list[dict]:
    """Every third one is an edit, every sixth one of a conversation."""
    return [
        {
            "id": f"r{number}",
            "prompt": f"prompt {number} é",
            "chain": f"{CHAIN} and number {number}",
            "image": f"{number % 4}.jpg" if number % 5 else "4.png",
            "source": None if number % 3 else f"{(number + 1) % 4}.jpg",
            "earlier": [] if number % 6 else ["first", "second"],
        }
        for number in range(count)
    ]


def write_lines(path: Path, records: list) -> RecordsDataset:
    lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in records]
    path.write_bytes(b"\n".join(lines))
    return opened(path)


def opened(path: Path) -> RecordsDataset:
    return RecordsDataset(str(path), 16, check_first=False, **COLUMNS)


def build(source: RecordsDataset, folder: str | Path, shard: int = 4, workers: int = 0, **options):
    return build_stream(source, Folder(str(folder)), Build(shard, **options), COLUMNS, workers)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> RecordsDataset:
    folder = tmp_path_factory.mktemp("source")
    write_images(folder)
    return write_lines(folder / "records.jsonl", good_records(30))


@pytest.fixture(scope="module")
def stream(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    build(source, folder)
    return folder


def test_a_stream_is_no_source_of_records_but_can_be_looked_at(stream):
    with pytest.raises(
        ValueError, match=r"is a stream: name it in the recipe as got_core\.data\.streams\.StreamDataset"
    ):
        RecordsDataset(str(stream), 16)
    lines = list(peek(str(stream)))
    assert lines[0] == f"{stream}: a stream of 30 records"
    assert lines[1].startswith("record 1: records.jsonl:1, an image of ")
    assert "  class_path: got_core.data.streams.StreamDataset" in lines


def test_a_stream_has_the_samples_of_its_records(source, stream):
    dataset = StreamDataset(str(stream), (16, 24))
    expected = RecordsDataset(source.path, (16, 24), **COLUMNS)
    assert isinstance(dataset, Chains)
    assert len(dataset) == len(expected) == 30
    for index in range(30):
        ours, theirs = dataset[index], expected[index]
        assert (ours.prompt, ours.chain, ours.size) == (theirs.prompt, theirs.chain, theirs.size)
        assert ours.earlier == theirs.earlier == (("first", "second") if index % 6 == 0 else ())
        assert torch.equal(ours.target, theirs.target)
        assert (ours.source is None) == (theirs.source is None) == (index % 3 != 0)
        assert ours.source is None or torch.equal(ours.source, theirs.source)
        assert ours.meta == {"kind": "t2i" if index % 3 else "edit", "record": f"records.jsonl:{index + 1}"}
        assert dataset.entry(index).id == f"r{index}"
        assert dataset.chain(index) == (f"records.jsonl:{index + 1}", expected.chain(index)[1])
        assert dataset.image_size(index) == expected.image_size(index)


def test_the_bytes_of_images_that_need_no_change_are_stored(source, stream):
    folder = Path(source.path).parent
    dataset = StreamDataset(str(stream), 16)
    for index, record in enumerate(good_records(30)):
        assert dataset.entry(index).image.content == (folder / record["image"]).read_bytes()


def test_neither_workers_nor_where_it_is_built_change_the_bytes(source, stream, tmp_path):
    build(source, tmp_path / "workers", workers=2)
    build(source, f"file://{tmp_path}/url", workers=1)
    assert contents(tmp_path / "workers") == contents(tmp_path / "url") == contents(stream)


def test_a_url_is_written_and_read_like_a_folder(source, stream):
    url = "memory://streams/one"
    build(source, url, workers=2)
    files = fsspec.filesystem("memory")
    names = {name.rsplit("/", 1)[-1] for name in files.find("streams/one")}
    assert names == set(contents(stream))
    assert all(files.cat(f"streams/one/{name}") == content for name, content in contents(stream).items())
    ours, local = StreamDataset(url, 16), StreamDataset(str(stream), 16)
    assert ours.image_sizes.tolist() == local.image_sizes.tolist()
    assert torch.equal(ours[29].target, local[29].target)
    with pytest.raises(ValueError, match=r"nonsense://x: cannot be opened"):
        StreamDataset("nonsense://x", 16)


class Elsewhere(DirFileSystem):
    """A file system that is not local to fsspec, which several processes write to."""

    protocol = "elsewhere"
    root = ""

    def __init__(self, **options) -> None:
        super().__init__(path=self.root, fs=LocalFileSystem(), **options)


def test_several_processes_write_to_a_url(source, stream, tmp_path, monkeypatch):
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    monkeypatch.setattr(Elsewhere, "root", str(tmp_path))
    build(source, "elsewhere://stream", workers=2)
    assert Folder("elsewhere://stream").local is None
    assert contents(tmp_path / "stream") == contents(stream)
    assert StreamDataset("elsewhere://stream", 8).entry(29).id == "r29"


class CountedFile(AbstractBufferedFile):
    def _fetch_range(self, start, end):
        Counted.ranges.append(end - start)
        return self.fs.cat_file(self.path, start, end)


class Counted(MemoryFileSystem):
    """Files in memory whose parts are requested as those of a store are."""

    protocol = "counted"
    store, pseudo_dirs = MemoryFileSystem.store, MemoryFileSystem.pseudo_dirs
    ranges: ClassVar[list[int]] = []

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("counted://", "memory://"))

    def _open(self, path, mode="rb", **options):
        return CountedFile(self, path, mode, size=self.info(path)["size"], **options)


def test_a_row_group_is_two_requests_the_footer_and_little_more_than_its_images(source):
    fsspec.register_implementation("counted", Counted, clobber=True)
    build(source, "memory://requests", shard=10)
    dataset = StreamDataset("counted://requests", 8)
    assert dataset.chain(19)[1].endswith("number 19")
    *_, texts = Counted.ranges
    assert texts < 1000
    Counted.ranges.clear()
    held = [dataset.entry(index) for index in range(10, 20)]
    images = sum(len(image.content) for each in held for image in (each.image, each.source) if image)
    _, group = Counted.ranges
    assert images < group < 1.1 * images


def bad_records(folder: Path) -> dict[str, tuple[object, str]]:
    """A record of each fault, and its reason."""
    whole = (folder / "0.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    Image.new("RGB", (1, 60_000)).save(folder / "thin.png")
    (folder / "text.jpg").write_text("no image")
    record = {"prompt": "p", "chain": CHAIN, "image": "0.jpg"}
    cut = json.dumps({"id": "utf", **record, "prompt": "caf\xe9"}, ensure_ascii=False).encode("latin-1")
    return {
        "truncated": ({**record, "image": "truncated.jpg"}, "truncated.jpg: not a readable image (image file is trunc"),
        "bomb": ({**record, "image": "bomb.png"}, "bomb.png: not a readable image (Image size (400000000 pixels)"),
        "thin": ({**record, "image": "thin.png"}, "1 x 60,000 pixels: one side is more than 32 times as long"),
        "kind": ({**record, "image": "text.jpg"}, "not a readable image (unknown format"),
        "outside": ({**record, "image": "../0.jpg"}, "../0.jpg is outside of"),
        "boxless": ({**record, "chain": "a dog"}, "no box in the chain"),
        "source": ({**record, "source": "missing.jpg"}, "missing.jpg: no such image file"),
        "turns": ({**record, "earlier": "[1"}, "column 'earlier' is no list in JSON"),
        "utf": (cut, "not UTF-8: byte 0xe9"),
        "json": (b'{"id": ', "not JSON"),
        "long": ({**record, "prompt": "p" * 10_001}, "the prompt has 10,001 characters"),
        "duplicate": ({**record, "id": "r3"}, "its id 'r3' is that of records.jsonl:4"),
    }


def test_bad_records_are_listed_with_their_reasons_and_nothing_else_is_lost(tmp_path):
    write_images(tmp_path)
    records: list = good_records(240)
    faults = bad_records(tmp_path)
    for number, (name, (record, _)) in enumerate(faults.items()):
        own = record if isinstance(record, bytes) else {"id": name, **record}
        records.insert(10 + number * 21, own)
    built = build(write_lines(tmp_path / "records.jsonl", records), tmp_path / "stream", shard=50, workers=1)
    assert (built.rows, built.bad, built.shards) == (240, len(faults), 6)
    dataset = StreamDataset(str(tmp_path / "stream"), 16)
    assert [dataset.entry(index).prompt for index in range(240)] == [each["prompt"] for each in good_records(240)]
    listed = [json.loads(line) for line in (tmp_path / "stream" / BAD).read_text().splitlines()]
    for number, (entry, (_, reason)) in enumerate(zip(listed, faults.values(), strict=True)):
        index = 10 + number * 21
        assert (entry["index"], entry["record"]) == (index, f"records.jsonl:{index + 1}")
        assert reason in entry["reason"]
        assert not entry["reason"].startswith(str(tmp_path / "records.jsonl"))


def test_parquet_records_with_bytes_and_a_bad_text_become_a_stream(tmp_path):
    write_images(tmp_path)
    image = (tmp_path / "0.jpg").read_bytes()
    broken = pyarrow.array([b"one", b"caf\xe9", b"three", b"four"]).view(pyarrow.string())
    columns = {"prompt": broken, "chain": [CHAIN] * 4, "image": [image] * 4, "id": [1, 2, 3, 1]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "r.parquet", row_group_size=2)
    source = RecordsDataset(str(tmp_path / "r.parquet"), 16, id_column="id", check_first=False)
    build(source, tmp_path / "stream")
    dataset = StreamDataset(str(tmp_path / "stream"), 16)
    assert [dataset.entry(index).prompt for index in range(len(dataset))] == ["one", "three"]
    bad = (tmp_path / "stream" / BAD).read_text()
    assert "not UTF-8" in bad
    assert "its id '1' is that of r.parquet:0" in bad


BLOCKED = """
import sys, time
from pathlib import Path
from got_core.data import building

def blocked(entry, max_side=None, read=building.checked_image):
    if entry.name.startswith(sys.argv[1]):
        Path(sys.argv[2], "blocked").touch()
        time.sleep(600)
    return read(entry, max_side)

building.checked_image = blocked
from test_streams import build, opened
build(opened(Path(sys.argv[3])), sys.argv[2] + "/stream", workers=2)
"""


def test_a_killed_build_goes_on_and_ends_with_the_same_bytes(source, stream, tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [f"{source.path}:15:", str(tmp_path), source.path]
    killed = subprocess.Popen([sys.executable, "-c", BLOCKED, *arguments], env=environment, start_new_session=True)
    blocked, third = tmp_path / "blocked", tmp_path / "stream" / "shard-000002.parquet"
    while not (blocked.exists() and third.exists()):
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = sorted((tmp_path / "stream").glob("shard-*.parquet"))
    assert 3 <= len(done) < 8
    assert not (tmp_path / "stream" / INDEX).exists()
    with pytest.raises(FileNotFoundError, match=r"index\.json: no such file; .* may not have come to its end"):
        StreamDataset(str(tmp_path / "stream"), 16)
    before = {file: file.stat().st_ino for file in done}
    checked = []
    monkeypatch.setattr(building, "checked_image", lambda *a: checked.append(a[0].name) or checked_image(*a))
    build(source, tmp_path / "stream")
    assert contents(tmp_path / "stream") == contents(stream)
    assert {file: file.stat().st_ino for file in done} == before
    lines = {int(name.removeprefix(f"{source.path}:").split(":")[0]) for name in checked}
    assert lines == {
        4 * number + row + 1
        for number in range(8)
        if (tmp_path / "stream" / f"shard-{number:06d}.parquet") not in done
        for row in range(4)
        if 4 * number + row < 30
    }


def test_records_without_readable_ids_are_no_duplicates(tmp_path):
    write_images(tmp_path)
    record = {"prompt": "p", "chain": CHAIN, "image": "0.jpg", "source": None, "earlier": []}
    source = write_lines(tmp_path / "r.jsonl", [{**record, "id": None}, record, {**record, "id": None}])
    assert build(source, tmp_path / "stream").rows == 0
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "stream" / BAD).read_text().splitlines()]
    empty = "column 'id' is empty"
    assert reasons == [empty, "no column 'id'; it has prompt, chain, image, source, earlier", empty]


def test_a_build_that_was_killed_at_its_beginning_goes_on(source, stream, tmp_path):
    (tmp_path / ".build.json.partial").write_text('{"vers')
    build(source, tmp_path)
    assert contents(tmp_path) == contents(stream)


def test_a_build_that_was_killed_at_its_end_goes_on(source, stream, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "_end", lambda *_: Built(0, 0, 0, 0))
    build(source, tmp_path)
    assert not (tmp_path / INDEX).exists()
    monkeypatch.undo()
    monkeypatch.setattr(building, "checked_image", lambda *_: pytest.fail("an image is read again"))
    build(source, tmp_path)
    assert contents(tmp_path) == contents(stream)


def test_a_finished_stream_is_left_as_it_is(source, stream):
    before = {file: file.stat().st_mtime_ns for file in stream.iterdir()}
    assert build(source, stream, workers=2).rows == 30
    assert {file: file.stat().st_mtime_ns for file in stream.iterdir()} == before


def test_another_source_other_options_and_another_folder_are_refused(source, stream, tmp_path):
    with pytest.raises(ValueError, match=r"was begun with max-side None, not 8; give the same or name a new folder"):
        build(source, stream, max_side=8)
    with pytest.raises(ValueError, match="was begun with shard 4, not 5"):
        build(source, stream, shard=5)
    write_images(tmp_path)
    other = write_lines(tmp_path / "records.jsonl", good_records(30))
    with pytest.raises(ValueError, match=r"records\.jsonl has changed since the stream was begun; name a new folder"):
        build(other, stream)
    with pytest.raises(ValueError, match="holds something else than a stream; name a new folder"):
        build(source, tmp_path)


def test_larger_images_are_made_smaller_and_others_stay(tmp_path):
    write_images(tmp_path)
    paths = [tmp_path / name for name in ("0.jpg", "4.png", "turned.jpg")]
    for path in paths:
        content, size = checked_image(StoredImage(path, path.name), max_side=30)
        assert content == path.read_bytes()
        assert size == tuple(load_image(path).shape[1:])
    for path, kind, size in zip(paths, ("JPEG", "PNG", "JPEG"), ((10, 15), (12, 15), (15, 12)), strict=True):
        content, written = checked_image(StoredImage(path, path.name), max_side=15)
        assert written == size == tuple(load_image(content).shape[1:])
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == kind
        expected = torch.nn.functional.adaptive_avg_pool2d(load_image(path), size)
        assert (load_image(content) - expected).abs().mean() < 0.25


def many(tmp_path: Path, count: int) -> StreamDataset:
    """A stream of more groups than are held, in shards of three groups and a part of one."""
    write_images(tmp_path)
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": str(i), "chain": CHAIN, "image": "0.jpg"}) for i in range(count)))
    source = RecordsDataset(str(path), 8)
    build_stream(source, Folder(str(tmp_path / "many")), Build(3 * GROUP + 7), {}, 0)
    return StreamDataset(str(tmp_path / "many"), 8)


def test_shuffled_reading_decodes_each_row_group_once_across_shards(tmp_path, monkeypatch):
    count = 14 * GROUP
    dataset = many(tmp_path, count)
    assert sum(dataset.groups) == count
    assert len(dataset.groups) > GROUPS_HELD
    assert set(dataset.groups[:4]) == {GROUP, 7}
    reads: Counter = Counter()
    read_group = StreamDataset._read_group

    def counted(self, shard, group, *rest):
        reads[shard, group] += 1
        return read_group(self, shard, group, *rest)

    monkeypatch.setattr(StreamDataset, "_read_group", counted)
    mixture = Mixture([Source(dataset)], count, seed=1)
    order = [mixture[index].prompt for index in range(count)]
    assert sorted(map(int, order)) == list(range(count))
    assert order != sorted(order, key=int)
    assert set(reads.values()) == {1}
    assert len(reads) == len(dataset.groups)
    resumed = Mixture([Source(pickle.loads(pickle.dumps(dataset)))], count, seed=1)
    assert [resumed[index].prompt for index in range(500, 520)] == order[500:520]


def test_opening_reads_no_shard(tmp_path):
    """10 million records; the shards do not exist."""
    shards = {f"shard-{number:06d}.parquet": {"rows": 1024, "bytes": 1, "sha256": ""} for number in range(9766)}
    index = {"version": 1, "group": GROUP, "rows": 0, "bad": 0, "shards": shards}
    (tmp_path / INDEX).write_text(json.dumps(index))
    dataset = StreamDataset(str(tmp_path), 8)
    assert len(dataset) == 9766 * 1024 > 10**7
    assert len(dataset.groups) == 9766 * 1024 // GROUP
    assert 0 <= Mixture([Source(dataset)], 100).locate(5)[1] < len(dataset)
    with pytest.raises(FileNotFoundError, match=r"shard-000001\.parquet:0: no such shard"):
        dataset[1024]


def test_sizes_are_read_without_the_shards(source, tmp_path):
    build(source, tmp_path)
    for file in tmp_path.glob("shard-*"):
        file.unlink()
    dataset = StreamDataset(str(tmp_path), 8)
    assert dataset.image_size(1) == (21, 30)
    assert dataset.image_sizes.shape == (30, 2)


def test_a_changed_byte_is_found_when_its_page_is_read(source, tmp_path):
    build(source, tmp_path)
    file = tmp_path / "shard-000001.parquet"
    content = bytearray(file.read_bytes())
    image = StreamDataset(str(tmp_path), 8).entry(5).image.content
    content[content.index(image) + len(image) // 2] ^= 1
    file.write_bytes(content)
    dataset = StreamDataset(str(tmp_path), 8)
    assert dataset.entry(0).prompt == "prompt 0 é"
    with pytest.raises(ValueError, match=r"shard-000001\.parquet:1: row group 0 is damaged"):
        dataset[5]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not JSON"),
        ("[]", "is no index of a stream"),
        ('{"version": 2}', "is of version 2, and 1 is read: build the stream again"),
        ('{"version": 1, "group": 0, "shards": {}}', "is no index of a stream"),
        ('{"version": 1, "group": 1, "shards": {"../x": {"rows": 1}}}', "is no index of a stream"),
        ('{"version": 1, "group": 1, "shards": {"x": {"rows": -1}}}', "is no index of a stream"),
        ('{"version": 1, "group": 1, "shards": {}}', "no records"),
    ],
)
def test_damaged_indices_are_refused(tmp_path, index, message):
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ValueError, match=message):
        StreamDataset(str(tmp_path), 8)
