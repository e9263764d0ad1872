"""CPU seconds of image records in formats of shards: Parquet by rows of a row group, tar with an index, and MDS.

What is read are whole records whose images are not decoded, from a local folder and from fsspec's memory.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow
import torch
from rich.table import Table

from got_core.benchmarks.measuring import Stopwatch, Task, Timings, in_turns
from got_core.benchmarks.reading import DIFFERENT, jpegs
from got_core.data.folders import Folder
from got_core.data.mixture import Mixture, Source
from got_core.data.records import Entry, StoredImage
from got_core.data.streams import INDEX, SCHEMA, VERSION, StreamDataset, shard_writer

OPEN, IN_ORDER, SHUFFLED, RANDOM = "open", "in order", "shuffled", "random rows"

GROUPS = (16, 64, 256)
"""Rows of a row group that are compared."""

FEWER = 16
"""Random rows are so many times fewer than rows."""

SHARD = 1024
"""Rows of a shard, or of a file of tar."""

Read = Callable[[int], Entry]


def compare_shards(rows: int, repeats: int, side: int = 256) -> tuple[Timings, dict[str, int]]:
    """Time formats of shards, and return the bytes of each too.

    Args:
        rows: Records of a turn.
        repeats: Turns that are counted.
        side: Of the JPEGs in pixels.
    """
    images = jpegs(side)
    records = [
        {"id": str(row), "record": str(row), "prompt": "a dog", "chain": "a dog (1,1),(2,2)"} for row in range(rows)
    ]
    random = np.random.default_rng(0).integers(0, rows, max(1, rows // FEWER)).tolist()
    with tempfile.TemporaryDirectory() as local:
        openers: dict[str, Callable[[], Read]] = {}
        orders: dict[str, Sequence[int]] = {}
        sizes = {}
        for root in (local, f"memory://{Path(local).name}"):
            place = "local" if root == local else "memory"
            for group in GROUPS:
                folder = Folder(f"{root}/{group}")
                sizes[f"Parquet, {group}"] = write_stream(folder, records, images, group)
                openers[f"Parquet, {group}, {place}"] = partial(open_stream, folder)
                orders[f"Parquet, {group}, {place}"] = _shuffled(StreamDataset(folder.url, 1))
            folder = Folder(f"{root}/tar")
            sizes["tar"] = write_tars(folder, records, images)
            openers[f"tar, {place}"] = partial(open_tars, folder)
        if find_spec("streaming"):
            sizes["MDS"] = write_mds(f"{local}/mds", records, images)
            openers["MDS, local"] = partial(open_mds, f"{local}/mds")
        uniform = np.random.default_rng(1).permutation(rows).tolist()
        tasks = {
            name: _task(opener, {IN_ORDER: range(rows), SHUFFLED: orders.get(name, uniform), RANDOM: random})
            for name, opener in openers.items()
        }
        return in_turns(tasks, repeats, torch.device("cpu")), sizes


def _task(opener: Callable[[], Read], orders: Mapping[str, Sequence[int]]) -> Task:
    def task(watch: Stopwatch) -> None:
        with watch.stage(OPEN):
            read = opener()
        for name, indices in orders.items():
            with watch.stage(name):
                for index in indices:
                    read(index)

    return task


def write_stream(folder: Folder, records: Sequence[Mapping[str, str]], images: Sequence[bytes], group: int) -> int:
    """Write records as a stream whose row groups have `group` rows; return its bytes."""
    shards, size = {}, 0
    for start in range(0, len(records), SHARD):
        name, buffer = f"{start}.parquet", io.BytesIO()
        with shard_writer(buffer) as writer:
            for row in range(start, min(start + SHARD, len(records)), group):
                rows: list[dict[str, object]] = [
                    {**records[each], "earlier": [], "image": images[each % DIFFERENT], "source": None}
                    for each in range(row, min(row + group, start + SHARD, len(records)))
                ]
                writer.write_table(pyarrow.Table.from_pylist(rows, SCHEMA))
        folder.write(name, buffer.getvalue())
        size += len(buffer.getvalue())
        shards[name] = {"rows": min(SHARD, len(records) - start)}
    folder.write(INDEX, json.dumps({"version": VERSION, "group": group, "shards": shards}).encode())
    return size


def open_stream(folder: Folder) -> Read:
    """Open what `write_stream` wrote."""
    return StreamDataset(folder.url, 1).entry


def _shuffled(dataset: StreamDataset) -> list[int]:
    mixture = Mixture([Source(dataset)], len(dataset))
    return [mixture.locate(index)[1] for index in range(len(dataset))]


def _entry(record: Mapping[str, str], image: bytes) -> Entry:
    return Entry(record["record"], record["id"], record["prompt"], record["chain"], StoredImage(image, "image"))


def write_tars(folder: Folder, records: Sequence[Mapping[str, str]], images: Sequence[bytes]) -> int:
    """Write records as tars, of whose members an index has the offsets and sizes; return their bytes."""
    index, size = [], 0
    for start in range(0, len(records), SHARD):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for row in range(start, min(start + SHARD, len(records))):
                entry = [start]
                text = json.dumps(records[row]).encode()
                for ending, content in {"json": text, "jpg": images[row % DIFFERENT]}.items():
                    member = tarfile.TarInfo(f"{row}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                    entry += [buffer.tell() - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE, len(content)]
                index.append(entry)
        folder.write(f"{start}.tar", buffer.getvalue())
        size += len(buffer.getvalue())
    offsets = io.BytesIO()
    np.save(offsets, np.asarray(index))
    folder.write("index.npy", offsets.getvalue())
    return size


def open_tars(folder: Folder) -> Read:
    """Open what `write_tars` wrote."""
    offsets = np.load(io.BytesIO(folder.read("index.npy")))

    def read(index: int) -> Entry:
        start, text, length, image, size = offsets[index].tolist()
        content = folder.read(f"{start}.tar", text, image + size)
        return _entry(json.loads(content[:length]), content[image - text :])

    return read


def write_mds(folder: str, records: Sequence[Mapping[str, str]], images: Sequence[bytes]) -> int:
    """Write records as MosaicML's MDS; return their bytes."""
    from streaming import MDSWriter

    with MDSWriter(
        out=folder, columns={"record": "json", "image": "bytes"}, size_limit=SHARD * len(images[0])
    ) as writer:
        for row, record in enumerate(records):
            writer.write({"record": dict(record), "image": images[row % DIFFERENT]})
    return sum(file.stat().st_size for file in Path(folder).glob("*.mds"))


def open_mds(folder: str) -> Read:
    """Open what `write_mds` wrote."""
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=folder, batch_size=1)

    def read(index: int) -> Entry:
        row = dataset[index]
        return _entry(row["record"], row["image"])

    return read


def shards_table(timings: Timings, sizes: Mapping[str, int], rows: int) -> Table:
    """Return a table of images a second, of the time to open, and of bytes over those of the images."""
    table = Table(title=f"{rows:,} records, shards of {SHARD:,}; images a second, not decoded", title_justify="left")
    for heading in ("", IN_ORDER, SHUFFLED, RANDOM, "ms to open", "MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    counts = {IN_ORDER: rows, SHUFFLED: rows, RANDOM: max(1, rows // FEWER)}
    for name in timings.runs:
        rates = [f"{count / timings.median(name, stage):,.0f}" for stage, count in counts.items()]
        size = sizes[name.rpartition(", ")[0]] / 1e6
        table.add_row(name, *rates, f"{timings.median(name, OPEN) * 1e3:.1f}", f"{size:,.1f}")
    return table
