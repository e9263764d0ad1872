"""Builds streams from records, by several processes, and again from where it was ended.

Each shard is made of as many consecutive records of the source, whatever else is built beside it. While a stream is
built, `building/` holds what the index will say of each shard. It is written before its shard, so that a shard which
exists is done.
"""

import hashlib
import io
import json
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from got_core.chain.parser import parse
from got_core.data.folders import Folder
from got_core.data.images import PIXELS, open_image
from got_core.data.records import RecordsDataset, StoredImage
from got_core.data.sources import id_hashes
from got_core.data.streams import BAD, BUILD, INDEX, SCHEMA, SIZES, VERSION, shard_writer
from got_core.errors import one_line, parse_json

GROUP = 64
"""Records of a row group, which is read as a whole."""

SHARD = 1024
"""Records of the source from which a shard is made."""

ELONGATED = 32
"""Most times that one side of an image is as long as the other."""

QUALITY = 95
"""Of JPEGs that are made smaller."""

_BUILDING = "building"


@dataclass(frozen=True)
class Build:
    """How a stream is built from records. Each field changes what is written.

    Attributes:
        shard: Records of the source from which a shard is made.
        max_side: Longest side of an image in pixels; larger ones are made smaller. None keeps every image as it is.
    """

    shard: int = SHARD
    max_side: int | None = None


@dataclass(frozen=True)
class Built:
    """What a stream holds.

    Attributes:
        rows: Records.
        shards: Files.
        size: Bytes of the shards.
        bad: Records that were left out.
    """

    rows: int
    shards: int
    size: int
    bad: int


def build_stream(
    source: RecordsDataset, folder: Folder, build: Build, options: Mapping[str, Any], workers: int
) -> Built:
    """Build a stream from records, or what is left of one that was begun.

    Args:
        source: The records, of which the first need not have been checked.
        folder: Where it is built: empty, or with a stream of the same source and options.
        build: How it is built.
        options: Of the source, by the names of the command's options.
        workers: Processes; 0 builds in this one.

    Raises:
        ValueError: The folder holds something else.
        OSError: It cannot be written.
    """
    duplicates = _begin(source, folder, asdict(build) | dict(options))
    numbers = range(-(-len(source) // build.shard))
    existing = folder.names()
    left = [number for number in numbers if _shard_name(number) not in existing]
    loader = DataLoader(
        _Shards(source, folder, build, duplicates),
        batch_size=None,
        sampler=left,
        num_workers=0 if folder.in_process else min(workers, len(left)),
        in_order=False,
    )
    done = len(source) - sum(_records(source, build.shard, number) for number in left)
    with tqdm(total=len(source), initial=done, unit=" records", disable=None) as bar:
        for records in loader:
            bar.update(records)
    return _end(folder, numbers) if INDEX not in existing else _summary(folder)


def _begin(source: RecordsDataset, folder: Folder, options: dict[str, Any]) -> dict[int, str]:
    """Write what is built, or compare with what was begun; return the bad records that repeat the id of another."""
    files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in source.files]
    state = {"version": VERSION, "options": options, "files": files}
    if not folder.exists(BUILD):
        if any(not name.startswith(".") for name in folder.names()):  # Hidden: what a killed build was writing.
            raise ValueError(f"{folder.url}: holds something else than a stream; name a new folder")
        duplicates = {} if source.id_column is None else _duplicates(source)
        folder.write(BUILD, _json({**state, "duplicates": duplicates}))
        return duplicates
    name = f"{folder.url}/{BUILD}"
    try:
        begun = parse_json(folder.read(BUILD))
        duplicates = {int(index): reason for index, reason in begun["duplicates"].items()}
        old, old_files = {"version": begun["version"], **begun["options"]}, list(begun["files"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{name}: is damaged; name a new folder") from None
    for option, value in {"version": VERSION, **options}.items():
        if old.get(option) != value:
            raise ValueError(
                f"{folder.url}: was begun with {option.replace('_', '-')} {old.get(option)}, not {value}; give the "
                "same or name a new folder"
            )
    if old_files != files:
        changed = next((file[0] for file in files if file not in old_files), "the list of files")
        raise ValueError(f"{folder.url}: {changed} has changed since the stream was begun; name a new folder")
    return duplicates


def _duplicates(source: RecordsDataset) -> dict[int, str]:
    """The records whose id another one has before them, by index, with the reason why they are bad."""
    hashes, rows = array("Q"), array("Q")
    ids = tqdm(source.ids(), desc="ids", total=len(source), unit=" records", disable=None)
    for index, id_ in enumerate(ids):
        if id_ is not None:  # Otherwise it is bad for another reason.
            hashes.append(int(id_hashes([id_])[0]))
            rows.append(index)
    _, inverse, counts = np.unique(np.asarray(hashes), return_inverse=True, return_counts=True)
    first: dict[str, str] = {}
    bad = {}
    for index in np.asarray(rows)[counts[inverse] > 1].tolist():
        id_, name = source.id_of(index), Path(source.name(index)).name
        if id_ in first:
            bad[index] = f"its id '{id_}' is that of {first[id_]}"
        first.setdefault(id_, name)
    return bad


@dataclass(frozen=True)
class _Shards(Dataset[int]):
    """Builds a shard when its number is taken; the item is the number of records of the source."""

    source: RecordsDataset
    folder: Folder
    build: Build
    duplicates: Mapping[int, str]

    def __getitem__(self, number: int) -> int:
        start, bad = number * self.build.shard, []
        records = _records(self.source, self.build.shard, number)
        sizes: list[tuple[int, int]] = []
        with self.folder.new_file(_shard_name(number)) as file:
            hashed = _Hashed(file)
            with shard_writer(hashed) as writer:
                rows: list[dict[str, Any]] = []
                for index in range(start, start + records):
                    try:
                        row, size = self._row(index)
                    except (ValueError, FileNotFoundError) as error:
                        bad.append(self._bad(index, error))
                        continue
                    rows.append(row)
                    sizes.append(size)
                    if len(rows) == GROUP:
                        writer.write_table(pyarrow.Table.from_pylist(rows, SCHEMA))
                        rows.clear()
                if rows:
                    writer.write_table(pyarrow.Table.from_pylist(rows, SCHEMA))
            part = {"rows": len(sizes), "bytes": hashed.size, "sha256": hashed.digest.hexdigest()}
            self.folder.write(_part_name(number), _json({**part, "sizes": sizes, "bad": bad}))
        return records

    def _row(self, index: int) -> tuple[dict[str, Any], tuple[int, int]]:
        if index in self.duplicates:
            raise ValueError(self.duplicates[index])
        entry = self.source.entry(index)
        if not parse(entry.chain).regions:
            raise ValueError("no box in the chain")
        image, size = checked_image(entry.image, self.build.max_side)
        row = {
            "id": entry.id,
            "record": Path(entry.name).name,
            "prompt": entry.prompt,
            "chain": entry.chain,
            "earlier": list(entry.earlier),
            "image": image,
            "source": None if entry.source is None else checked_image(entry.source, self.build.max_side)[0],
        }
        return row, size

    def _bad(self, index: int, error: Exception) -> dict[str, Any]:
        name = self.source.name(index)
        return {"index": index, "record": Path(name).name, "reason": one_line(error).removeprefix(f"{name}: ")}


class _Hashed(io.RawIOBase):
    """Counts and hashes what is written into a file."""

    def __init__(self, file: Any) -> None:
        self._file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, content: Any) -> int:
        self._file.write(content)
        self.digest.update(content)
        self.size += len(content)
        return len(content)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size


def checked_image(image: StoredImage, max_side: int | None = None) -> tuple[bytes, tuple[int, int]]:
    """Decode an image once and return the bytes to be stored, and its (height, width).

    They are the bytes of its file, unless it is made smaller: then a JPEG is JPEG again, and another format PNG.

    Raises:
        FileNotFoundError: Its file does not exist.
        ValueError: It is no readable image, has too many pixels or is too elongated.
    """
    content = image.content
    if isinstance(content, Path):
        if not content.is_file():
            raise FileNotFoundError(f"{image.name}: no such image file")
        if content.stat().st_size > 4 * PIXELS:
            raise ValueError(f"{image.name}: has more than {4 * PIXELS:,} bytes")
        content = content.read_bytes()
    decoded = open_image(content, image.name)
    if max(decoded.size) > ELONGATED * min(decoded.size):
        raise ValueError(
            f"{image.name}: {decoded.width:,} x {decoded.height:,} pixels: one side is more than {ELONGATED} times as "
            "long as the other"
        )
    if max_side is not None and max(decoded.size) > max_side:
        is_jpeg = content.startswith(b"\xff\xd8")
        factor = max_side / max(decoded.size)
        width, height = (max(1, round(side * factor)) for side in decoded.size)
        decoded = decoded.resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        decoded.save(
            buffer, "JPEG" if is_jpeg else "PNG", **({"quality": QUALITY, "subsampling": 0} if is_jpeg else {})
        )
        content = buffer.getvalue()
    return content, (decoded.height, decoded.width)


def _end(folder: Folder, numbers: range) -> Built:
    """Write the index from what is known of each shard."""
    shards, bad = {}, []
    sizes = array("H")
    for number in numbers:
        part = parse_json(folder.read(_part_name(number)))
        shards[_shard_name(number)] = {name: part[name] for name in ("rows", "bytes", "sha256")}
        bad.extend(part["bad"])
        for size in part["sizes"]:
            sizes.extend(size)
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(sizes, np.uint16).reshape(-1, 2))
    listed = b"".join(json.dumps(each).encode() + b"\n" for each in bad)
    folder.write(SIZES, buffer.getvalue())
    folder.write(BAD, listed)
    index = {"version": VERSION, "group": GROUP, "rows": len(sizes) // 2, "bad": len(bad), "shards": shards}
    folder.write(INDEX, _json(index))
    return _summary(folder)


def _summary(folder: Folder) -> Built:
    index = parse_json(folder.read(INDEX))
    folder.remove(_BUILDING)
    shards = index["shards"].values()
    return Built(index["rows"], len(shards), sum(shard["bytes"] for shard in shards), index["bad"])


def _records(source: RecordsDataset, shard: int, number: int) -> int:
    return min(shard, len(source) - number * shard)


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.parquet"


def _part_name(number: int) -> str:
    return f"{_BUILDING}/{number:06d}.json"


def _json(value: object) -> bytes:
    return f"{json.dumps(value)}\n".encode()
