"""GoT records of real images, in JSON lines or Parquet."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
from jaxtyping import Float
from pyarrow import parquet
from torch import Tensor
from torch.utils.data import Dataset

from got_core.chain.dialects import fill_coordinates
from got_core.data.images import load_image
from got_core.types import Sample


class JsonLines:
    """A file with one JSON object a line. Only the offsets of the lines are held in memory.

    Args:
        path: The file.
        columns: Keys that must occur in the file; a single record may lack one.

    Raises:
        ValueError: A key occurs in no record, or a line that is read is not a JSON object (file:line).
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._starts = array("Q")
        self._numbers = array("Q")
        unseen = {column: json.dumps(column).encode() for column in columns}
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    self._starts.append(start)
                    self._numbers.append(number)
                    unseen = {column: key for column, key in unseen.items() if key not in line}
                start += len(line)
        if unseen and len(self):
            raise _missing(path, next(iter(unseen)), self.row(0))

    def __len__(self) -> int:
        return len(self._starts)

    def name(self, index: int) -> str:
        """Return the name of a row in error messages: file:line."""
        return f"{self.path}:{self._numbers[index]}"

    def row(self, index: int) -> Mapping[str, Any]:
        """Read the object of a line."""
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{self.name(index)}: not valid JSON ({error})") from None
        if not isinstance(record, dict):
            raise ValueError(f"{self.name(index)}: a record must be a JSON object, not a {type(record).__name__}")
        return record


class Parquet:
    """A Parquet file. A row group is decoded when one of its rows is read, and cached until another one is read.

    For shuffled reading, write small groups, such as 100 rows of images.

    Args:
        path: The file.
        columns: The columns to read.

    Raises:
        ValueError: Not a Parquet file, or a column that it does not have.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = list(columns)
        with self._open() as file:
            for column in columns:
                if column not in file.schema_arrow.names:
                    raise _missing(path, column, file.schema_arrow.names)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._ends = list(accumulate(sizes))
        self._cached: tuple[int, pyarrow.Table] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cached": None}

    def name(self, index: int) -> str:
        """Return the name of a row in error messages: file:row, from 0."""
        return f"{self.path}:{index}"

    def row(self, index: int) -> Mapping[str, Any]:
        """Read the values of a row by column."""
        group = bisect_right(self._ends, index)
        if self._cached is None or self._cached[0] != group:
            with self._open() as file:
                self._cached = group, file.read_row_group(group, columns=self.columns, use_threads=False)
        start = self._ends[group - 1] if group else 0
        row: Mapping[str, Any] = self._cached[1].slice(index - start, 1).to_pylist()[0]
        return row

    def _open(self) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self.path)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{self.path}: not a Parquet file ({str(error).splitlines()[0]})") from None


Table = JsonLines | Parquet
"""Rows of one file, by index."""

READERS: Mapping[str, type[JsonLines] | type[Parquet]] = {".jsonl": JsonLines, ".parquet": Parquet}
"""The class of a file, by its suffix."""


def open_tables(path: Path, columns: Sequence[str]) -> list[Table]:
    """Open the tables of a file, or of a folder's files in the order of their names.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: It has no file that can be read, or a column is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in READERS)
    if not files or files[0].suffix not in READERS:
        raise ValueError(f"{path}: records are read from {' or '.join(READERS)} files, or from a folder of them")
    return [READERS[file.suffix](file, columns) for file in files]


def _missing(where: Path | str, column: str, existing: Sequence[str] | Mapping[str, Any]) -> ValueError:
    return ValueError(f"{where}: no column '{column}'; it has {', '.join(existing)}")


class RecordsDataset(Dataset[Sample]):
    """Samples from JSON lines or Parquet, by index. An image is read only when its sample is.

    An image column holds a path, the bytes of an image file, or Hugging Face's struct {"bytes", "path"}. Every image
    is resized to `size` without a crop, so that the chain's boxes, which are relative to the image, stay right.

    Args:
        path: A .jsonl or .parquet file, or a folder of them (read in the order of their names).
        size: (height, width) of the samples in pixels, or one number for both.
        prompt_column: The caption or instruction. Of a list of wordings, record i takes number i modulo their count.
        chain_column: The reasoning chain, in any form that `got_core.chain.parser` reads.
        image_column: The target image.
        source_column: The image to be edited, or None without edits; a record in which it is missing or empty is
            text-to-image.
        coordinates_column: Boxes of the chain's placeholders, as in OmniEdit-GoT; None when the chain has its own.
        image_root: Folder of relative paths of images; by default the folder of the records.

    Raises:
        FileNotFoundError: The records or an image do not exist.
        ValueError: A missing column, a bad line or an unreadable image. The first record is read at once.
    """

    def __init__(
        self,
        path: str,
        size: int | tuple[int, int],
        prompt_column: str = "prompt",
        chain_column: str = "chain",
        image_column: str = "image",
        source_column: str | None = None,
        coordinates_column: str | None = None,
        image_root: str | None = None,
    ) -> None:
        records = Path(path)
        self.size = (size, size) if isinstance(size, int) else size
        self.prompt_column = prompt_column
        self.chain_column = chain_column
        self.image_column = image_column
        self.source_column = source_column
        self.coordinates_column = coordinates_column
        columns = (prompt_column, chain_column, image_column, source_column, coordinates_column)
        self._tables = open_tables(records, [column for column in columns if column is not None])
        self._ends = list(accumulate(len(table) for table in self._tables))
        self._image_root = Path(image_root) if image_root else records if records.is_dir() else records.parent
        if not len(self):
            raise ValueError(f"{path}: no records")
        self[0]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        table = self._tables[number]
        row = index - (self._ends[number - 1] if number else 0)
        record, where = table.row(row), table.name(row)
        target = self._image(record, self.image_column, where)
        if target is None:
            raise ValueError(f"{where}: column '{self.image_column}' is empty")
        source = self._image(record, self.source_column, where) if self.source_column else None
        return Sample(
            prompt=self._prompt(record, index, where),
            chain=self._chain(record, where),
            size=self.size,
            target=target,
            source=source,
            meta={"kind": "t2i" if source is None else "edit", "record": where},
        )

    def _prompt(self, record: Mapping[str, Any], index: int, where: str) -> str:
        prompt = _value(record, self.prompt_column, where)
        if isinstance(prompt, list) and prompt:
            prompt = prompt[index % len(prompt)]
        return _text(prompt, self.prompt_column, where)

    def _chain(self, record: Mapping[str, Any], where: str) -> str:
        chain = _text(_value(record, self.chain_column, where), self.chain_column, where)
        if self.coordinates_column is None:
            return chain
        try:
            return fill_coordinates(chain, _value(record, self.coordinates_column, where))
        except ValueError as error:
            raise ValueError(f"{where}: column '{self.coordinates_column}': {error}") from None

    def _image(self, record: Mapping[str, Any], column: str, where: str) -> Float[Tensor, "3 H W"] | None:
        value = record.get(column) if column == self.source_column else _value(record, column, where)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if not value:
            return None
        if isinstance(value, str):
            return load_image(self._image_root / value, self.size, name=f"{where}: {self._image_root / value}")
        if isinstance(value, bytes):
            return load_image(value, self.size, name=f"{where}: column '{column}'")
        raise ValueError(f"{where}: column '{column}' holds a {type(value).__name__}, not a path or an image's bytes")


def _value(record: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise _missing(where, column, record)
    return record[column]


def _text(value: object, column: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: column '{column}' holds a {type(value).__name__}, not text")
    return value
