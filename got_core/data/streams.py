"""Streams: records with their images in indexed Parquet shards, built once and opened in no time.

A stream is a folder, local or at a URL of fsspec:

    index.json             rows, bytes and checksum of each shard, and the rows of a row group
    sizes.npy              (height, width) of each target image, two 16-bit numbers a record
    bad.jsonl              the records that were left out, each with its reason
    build.json             the source and the options it was built from
    shard-000000.parquet   records in row groups; each page has a checksum, which is verified when it is read
"""

import io
from bisect import bisect_right
from collections import OrderedDict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy import ndarray
from pyarrow import parquet
from torch.utils.data import Dataset

from got_core.data.folders import Folder
from got_core.data.framing import Fit
from got_core.data.records import Entry, StoredImage
from got_core.data.tables import GROUPS_HELD
from got_core.errors import check_text, one_line, parse_json
from got_core.types import Sample

VERSION = 1
"""Of the format."""

INDEX, SIZES, BAD, BUILD = "index.json", "sizes.npy", "bad.jsonl", "build.json"

SCHEMA = pyarrow.schema(
    {
        **dict.fromkeys(("id", "record", "prompt", "chain"), pyarrow.string()),
        "earlier": pyarrow.list_(pyarrow.string()),
        "image": pyarrow.binary(),
        "source": pyarrow.binary(),
    }
)


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
        fit: How images of other proportions fill it, as in `RecordsDataset`.

    Raises:
        FileNotFoundError: There is no stream, or it has not been built to its end.
        ValueError: Its index is damaged, or it has no records.
    """

    def __init__(self, path: str, size: int | tuple[int, int], fit: Fit = "cover") -> None:
        self.folder = Folder(path)
        self.size = (size, size) if isinstance(size, int) else size
        self.fit: Fit = fit
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
        return self.at_size(index, self.size)

    def at_size(self, index: int, size: tuple[int, int]) -> Sample:
        """Read a record with its images in a frame of (height, width)."""
        return self.entry(index).sample(size, self.fit)

    def entry(self, index: int) -> Entry:
        """Read a record, but decode no image (ValueError: it is damaged)."""
        shard, group, offset, name = self._located(index)
        if (shard, group) not in self._held:
            self._held[shard, group] = self._read_group(shard, group, SCHEMA.names, name)
        self._held.move_to_end((shard, group))
        if len(self._held) > GROUPS_HELD:
            self._held.popitem(last=False)
        row = _row(self._held[shard, group], offset, name)
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
        """Return the name of a record in its source, and its chain, without reading images."""
        shard, group, offset, name = self._located(index)
        row = _row(self._read_group(shard, group, ["record", "chain"], name), offset, name)
        return row["record"], row["chain"]

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

    def _located(self, index: int) -> tuple[int, int, int, str]:
        """A record's shard, row group and row in it, and its name in error messages."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        shard = bisect_right(self._ends, index)
        row = index - (self._ends[shard - 1] if shard else 0)
        return shard, *divmod(row, self._group), f"{self.folder.url}/{self._names[shard]}:{row}"

    def _read_group(self, shard: int, group: int, columns: list[str], name: str) -> pyarrow.Table:
        try:
            with self.folder.open(self._names[shard]) as file:
                opened = parquet.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
                return opened.read_row_group(group, columns=columns, use_threads=False)
        except FileNotFoundError:
            raise FileNotFoundError(f"{name}: no such shard") from None
        except Exception as error:  # Decoders of damaged pages raise errors of every kind.
            raise ValueError(f"{name}: row group {group} is damaged ({one_line(error)})") from None


def _row(group: pyarrow.Table, row: int, name: str) -> dict[str, Any]:
    try:
        rows = group.slice(row, 1).to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 ({error})") from None
    if not rows:
        raise ValueError(f"{name}: there is no such row: build the stream again")
    values: dict[str, Any] = rows[0]
    return values


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
