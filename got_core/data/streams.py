"""Streams: records with their images in indexed Parquet shards, built once and opened in no time.

A stream is a folder, local or at a URL of fsspec:

    index.json             rows, bytes and checksum of each shard, and the rows of a row group
    sizes.npy              (height, width) of each target image, two 16-bit numbers a record
    bad.jsonl              the records that were left out, each with its reason
    build.json             the source and the options it was built from
    shard-000000.parquet   records in row groups; each page has a checksum, which is verified when it is read

Each shard is made of as many consecutive records of the source, whatever else is built beside it. While a stream is
built, `building/` holds what the index will say of each shard. It is written before its shard, so that a shard which
exists is done.
"""

import hashlib
import io
import json
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pyarrow
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from numpy import ndarray
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from got_core.chain.parser import parse
from got_core.data.images import PIXELS, open_image
from got_core.data.records import Entry, RecordsDataset, StoredImage
from got_core.data.tables import GROUPS_HELD, open_tables
from got_core.errors import check_text, one_line, parse_json
from got_core.types import Sample
from got_core.weights.files import new_file

VERSION = 1
"""Of the format."""

GROUP = 64
"""Records of a row group, which is read as a whole."""

SHARD = 1024
"""Records of the source from which a shard is made."""

ELONGATED = 32
"""Most times that one side of an image is as long as the other."""

QUALITY = 95
"""Of JPEGs that are made smaller."""

INDEX, SIZES, BAD, BUILD, BUILDING = "index.json", "sizes.npy", "bad.jsonl", "build.json", "building"

SCHEMA = pyarrow.schema(
    {
        **dict.fromkeys(("id", "record", "prompt", "chain"), pyarrow.string()),
        "earlier": pyarrow.list_(pyarrow.string()),
        "image": pyarrow.binary(),
        "source": pyarrow.binary(),
    }
)


@dataclass(frozen=True)
class Folder:
    """A folder, local or at a URL that fsspec opens, such as `s3://bucket/stream` or `memory://stream`.

    Attributes:
        url: Its path or URL.

    Raises:
        ValueError: fsspec knows no such URL, or lacks a package for it.
    """

    url: str

    def __post_init__(self) -> None:
        self._opened()

    @property
    def local(self) -> Path | None:
        """Its path, if it is local."""
        files, root = self._opened()
        return Path(root) if isinstance(files, LocalFileSystem) else None

    @property
    def in_process(self) -> bool:
        """Whether other processes do not see what is written into it."""
        return isinstance(self._opened()[0], MemoryFileSystem)

    def exists(self, name: str) -> bool:
        """Return whether it holds a file."""
        files, root = self._opened()
        return bool(files.exists(f"{root}/{name}"))

    def names(self) -> set[str]:
        """Return the names of what is in it; none if it does not exist."""
        files, root = self._opened()
        files.invalidate_cache()
        try:
            return {entry.rstrip("/").rsplit("/", 1)[-1] for entry in files.ls(root, detail=False)}
        except FileNotFoundError:
            return set()

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the bytes of a file, or those from `start` to `end`."""
        files, root = self._opened()
        content: bytes = files.cat_file(f"{root}/{name}", start, end)
        return content

    def open(self, name: str) -> Any:
        """Open a file to be read in parts."""
        files, root = self._opened()
        return files.open(f"{root}/{name}", "rb")

    @contextmanager
    def new_file(self, name: str) -> Iterator[Any]:
        """Open a file that appears with all that is written into it, or not at all; its folder is made."""
        if self.local is not None:
            local = self.local / name
            local.parent.mkdir(parents=True, exist_ok=True)
            with new_file(local) as file:
                yield file
            return
        files, root = self._opened()
        path = PurePosixPath(root, name)
        partial = path.with_name(f".{path.name}.partial")
        files.makedirs(str(path.parent), exist_ok=True)
        with files.open(str(partial), "wb") as file:
            yield file
        files.mv(str(partial), str(path))

    def write(self, name: str, content: bytes) -> None:
        """Write a file that appears whole, or not at all."""
        with self.new_file(name) as file:
            file.write(content)

    def remove(self, name: str) -> None:
        """Remove a folder in it, if there is one."""
        files, root = self._opened()
        if files.exists(f"{root}/{name}"):
            files.rm(f"{root}/{name}", recursive=True)

    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Opened each time: fsspec holds them for each process."""
        try:
            files, root = fsspec.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{self.url}: cannot be opened ({one_line(error)})") from None
        return files, root.rstrip("/")


def is_stream(path: str) -> bool:
    """Return whether a folder or URL holds a stream, or one that is being built."""
    return ("://" in path or Path(path).is_dir()) and Folder(path).exists(BUILD)


class StreamDataset(Dataset[Sample]):
    """The samples of a stream, by index. Only its index is read when it is opened.

    A row group is read when one of its records is; the last `GROUPS_HELD` are held. A `Mixture` shuffles them within
    as many for a while, so that each is read once.

    Args:
        path: The stream's folder, or a URL that fsspec opens.
        size: (height, width) of the samples in pixels, or one number for both.

    Raises:
        FileNotFoundError: There is no stream, or it has not been built to its end.
        ValueError: Its index is damaged, or it has no records.
    """

    def __init__(self, path: str, size: int | tuple[int, int]) -> None:
        self.folder = Folder(path)
        self.size = (size, size) if isinstance(size, int) else size
        shards, self._group = _read_index(self.folder)
        self._names = list(shards)
        self._ends = list(accumulate(shards.values()))
        self.groups = [
            min(self._group, rows - start) for rows in shards.values() for start in range(0, rows, self._group)
        ]
        self._held: OrderedDict[tuple[int, int], pyarrow.Table] = OrderedDict()
        self._sizes: ndarray | None = None
        if not len(self):
            raise ValueError(f"{path}: no records")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict(), "_sizes": None}

    def __getitem__(self, index: int) -> Sample:
        return self.entry(index).sample(self.size)

    def entry(self, index: int) -> Entry:
        """Read a record, but decode no image (ValueError: it is damaged)."""
        row, name = self._row(index)
        try:
            return Entry(
                name=row["record"],
                id=row["id"],
                prompt=check_text(row["prompt"]),
                chain=check_text(row["chain"]),
                image=StoredImage(row["image"], f"{name}: column 'image'"),
                source=None if row["source"] is None else StoredImage(row["source"], f"{name}: column 'source'"),
                earlier=tuple(map(check_text, row["earlier"])),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}: {one_line(error)}") from None

    def chain(self, index: int) -> tuple[str, str]:
        """Return the name of a record in its source, and its chain."""
        entry = self.entry(index)
        return entry.name, entry.chain

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a record's target image, without reading the record."""
        height, width = self.image_sizes[index].tolist()
        return height, width

    @property
    def image_sizes(self) -> ndarray:
        """(height, width) of every target image, in an array of 16 bits; of a local stream it is a map of the file."""
        if self._sizes is None:
            local, name = self.folder.local, f"{self.folder.url}/{SIZES}"
            try:
                self._sizes = np.load(
                    io.BytesIO(self.folder.read(SIZES)) if local is None else local / SIZES,
                    mmap_mode=None if local is None else "r",
                )
            except ValueError as error:
                raise ValueError(f"{name}: damaged ({one_line(error)})") from None
            if self._sizes.shape != (len(self), 2):
                raise ValueError(f"{name}: holds no sizes of {len(self):,} images: build the stream again")
        return self._sizes

    def _row(self, index: int) -> tuple[dict[str, Any], str]:
        """A record's columns, and its shard and row for error messages."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        row = index - (self._ends[shard - 1] if shard else 0)
        group, offset = divmod(row, self._group)
        name = f"{self.folder.url}/{self._names[shard]}:{row}"
        if (shard, group) not in self._held:
            self._held[shard, group] = self._read_group(shard, group, name)
        self._held.move_to_end((shard, group))
        if len(self._held) > GROUPS_HELD:
            self._held.popitem(last=False)
        try:
            rows = self._held[shard, group].slice(offset, 1).to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: not UTF-8 ({error})") from None
        if not rows:
            raise ValueError(f"{name}: there is no such row: build the stream again")
        return rows[0], name

    def _read_group(self, shard: int, group: int, name: str) -> pyarrow.Table:
        try:
            with self.folder.open(self._names[shard]) as file:
                opened = parquet.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
                return opened.read_row_group(group, columns=SCHEMA.names, use_threads=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such shard") from None
        except Exception as error:  # Decoders of damaged pages raise errors of every kind.
            raise ValueError(f"{name}: row group {group} is damaged ({one_line(error)})") from None


def _read_index(folder: Folder) -> tuple[dict[str, int], int]:
    """The rows of each shard, and of a row group."""
    name = f"{folder.url}/{INDEX}"
    try:
        index = parse_json(folder.read(INDEX))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{name}: no such file; a stream is made by got data build, which may not have come to its end"
        ) from None
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({one_line(error)})") from None
    match index:
        case {"version": version} if version != VERSION:
            raise ValueError(f"{name}: is of version {version}, and {VERSION} is read: build the stream again")
        case {"group": int(group), "shards": dict(shards)} if group > 0:
            rows = {shard: entry["rows"] for shard, entry in shards.items() if _is_shard(shard, entry)}
            if len(rows) == len(shards):
                return rows, group
    raise ValueError(f"{name}: is no index of a stream")


def _is_shard(name: str, entry: object) -> bool:
    match entry:
        case {"rows": int(rows)}:
            return rows >= 0 and "/" not in name and "\\" not in name
    return False


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
        if folder.names():
            raise ValueError(f"{folder.url}: holds something else than a stream; name a new folder")
        duplicates = {} if source.id_column is None else _duplicates(source.path, source.id_column)
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


def _duplicates(path: str, column: str) -> dict[int, str]:
    """The records whose id another one has before them, by index, with the reason why they are bad."""
    tables = open_tables(Path(path), [column])
    ends = list(accumulate(map(len, tables)))

    def read(index: int) -> tuple[object, str]:
        number = bisect_right(ends, index)
        row = index - (ends[number - 1] if number else 0)
        return tables[number].row(row).get(column), Path(tables[number].name(row)).name

    hashes, rows = array("Q"), array("Q")
    for index in tqdm(range(ends[-1]), desc="ids", unit=" records", disable=None):
        try:
            id_, _ = read(index)
        except ValueError:  # It is bad for this reason.
            continue
        if id_ is not None:
            digest = hashlib.blake2b(str(id_).encode(errors="replace"), digest_size=8).digest()
            hashes.append(int.from_bytes(digest))
            rows.append(index)
    _, inverse, counts = np.unique(np.asarray(hashes), return_inverse=True, return_counts=True)
    first: dict[str, str] = {}
    bad = {}
    for index in np.asarray(rows)[counts[inverse] > 1].tolist():
        id_, name = read(index)
        if str(id_) in first:
            bad[index] = f"its id '{id_}' is that of {first[str(id_)]}"
        first.setdefault(str(id_), name)
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


def shard_writer(file: Any) -> parquet.ParquetWriter:
    """Open the writer of a shard; each table that it writes becomes a row group."""
    return parquet.ParquetWriter(
        file,
        SCHEMA,
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        compression={name: "none" if name in ("image", "source") else "zstd" for name in SCHEMA.names},
    )


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
    folder.remove(BUILDING)
    shards = index["shards"].values()
    return Built(index["rows"], len(shards), sum(shard["bytes"] for shard in shards), index["bad"])


def _records(source: RecordsDataset, shard: int, number: int) -> int:
    return min(shard, len(source) - number * shard)


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.parquet"


def _part_name(number: int) -> str:
    return f"{BUILDING}/{number:06d}.json"


def _json(value: object) -> bytes:
    return f"{json.dumps(value)}\n".encode()
