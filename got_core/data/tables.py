"""Files of records, read one row at a time: JSON lines and Parquet."""

import json
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow
from pyarrow import parquet


@runtime_checkable
class Table(Protocol):
    """Rows of one file, by index."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> Mapping[str, Any]:
        """The row's values by column."""
        ...

    def name(self, index: int) -> str:
        """What error messages call the row."""
        ...


class JsonLines:
    """A file with one JSON object a line. Only the places of the lines are held in memory.

    Args:
        path: The file.
        columns: Keys that must occur in it; a single record may still lack one.

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
        """file:line."""
        return f"{self.path}:{self._numbers[index]}"

    def row(self, index: int) -> Mapping[str, Any]:
        """The line's object."""
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
    """A Parquet file. A row group is decoded when one of its rows is asked for, and kept until another one is:
    for shuffled reading, write small groups (100 rows of images, say).

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
        self._held: tuple[int, pyarrow.Table] | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}

    def name(self, index: int) -> str:
        """file:row, from 0."""
        return f"{self.path}:{index}"

    def row(self, index: int) -> Mapping[str, Any]:
        """The row's values in the columns that are read."""
        group = bisect_right(self._ends, index)
        if self._held is None or self._held[0] != group:
            with self._open() as file:
                self._held = group, file.read_row_group(group, columns=self.columns, use_threads=False)
        start = self._ends[group - 1] if group else 0
        row: Mapping[str, Any] = self._held[1].slice(index - start, 1).to_pylist()[0]
        return row

    def _open(self) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self.path)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{self.path}: not a Parquet file ({str(error).splitlines()[0]})") from None


READERS: Mapping[str, type[JsonLines] | type[Parquet]] = {".jsonl": JsonLines, ".parquet": Parquet}
"""What reads a file, by the end of its name."""


def open_tables(path: Path, columns: Sequence[str]) -> list[Table]:
    """The tables of a file, or of a folder's files in the order of their names.

    Raises:
        FileNotFoundError: No such path.
        ValueError: Nothing there that can be read, or a column is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in READERS)
    if not files or files[0].suffix not in READERS:
        raise ValueError(f"{path}: records are read from {' or '.join(READERS)} files, or from a folder of them")
    return [READERS[file.suffix](file, columns) for file in files]


def _missing(path: Path, column: str, existing: Sequence[str] | Mapping[str, Any]) -> ValueError:
    return ValueError(f"{path}: no column '{column}'; it has {', '.join(existing)}")
