"""Tables in files: JSON lines, a JSON array, CSV or Parquet, by what a file holds."""

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from got_core.errors import one_line, parse_json

ENDINGS = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv")
"""Of tables in a folder, in lower or upper case."""

GROUPS_HELD = 8
"""Row groups of a Parquet file that are held decoded; shuffled reading stays within as many for a while."""

KEYS_FROM = 100
"""Objects of JSON whose keys are its columns; of all others they are known."""

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BEGINNING = 4096
_ARRAY = re.compile(rb'(?:\xef\xbb\xbf)?\s*\[\s*(?:[{"\]]|\Z)')
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:\{|\Z)")
_BETWEEN = re.compile(r"\s*(?P<comma>,?)\s*(?P<end>\]?)\s*")


class Table(ABC):
    """Rows of one file by index, each a mapping of columns to values; NaN is None.

    Attributes:
        path: The file.
        groups: Numbers of consecutive rows that are decoded together; None where each row is read by itself.
    """

    path: Path
    groups: Sequence[int] | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def number(self, index: int) -> int:
        """Return a row's number in the file: its line from 1 or, in Parquet, its row from 0."""

    @abstractmethod
    def row(self, index: int) -> Mapping[str, Any]:
        """Read a row (ValueError: it cannot be read; the message begins with its name)."""

    @property
    def files(self) -> list[Path]:
        """The files that hold the rows."""
        return [self.path]

    @property
    def names(self) -> list[str]:
        """The columns, also those that are not read; of JSON, the keys of its first `KEYS_FROM` objects."""
        names: dict[str, None] = {}
        for index in range(min(KEYS_FROM, len(self))):
            with suppress(ValueError):
                names |= dict.fromkeys(self.row(index))
        return list(names)

    def values(self, column: str) -> Iterator[Any]:
        """Yield the values of a column in the order of the rows, None where there is none or a row cannot be read."""
        for index in range(len(self)):
            try:
                yield self.row(index).get(column)
            except ValueError:
                yield None

    def name(self, index: int) -> str:
        """Return the name of a row in error messages: file:number."""
        return f"{self.path}:{self.number(index)}"


class JsonLines(Table):
    """A file with one JSON object a line. Only the offsets of the lines are held in memory.

    Args:
        path: The file, in UTF-8.
        columns: Keys that must occur in the file; a single record may lack one.

    Raises:
        ValueError: A key occurs in no record, or a line that is read is not a JSON object (file:line).
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._starts = array("Q")
        self._numbers = array("Q")
        unseen = {
            column: [json.dumps(column, ensure_ascii=ascii_).encode() for ascii_ in (True, False)] for column in columns
        }
        start = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.removeprefix(b"\xef\xbb\xbf").strip():
                    self._starts.append(start)
                    self._numbers.append(number)
                    unseen = {column: keys for column, keys in unseen.items() if not any(key in line for key in keys)}
                start += len(line)
        # Characters can be escaped in other ways too: such keys are found by reading.
        for column in unseen if len(self) else ():
            if not any(column in self.row(index) for index in range(len(self))):
                raise missing_column(path, column, self.row(0))

    def __len__(self) -> int:
        return len(self._starts)

    def number(self, index: int) -> int:
        """Return the number of a line, from 1."""
        return self._numbers[index]

    def row(self, index: int) -> Mapping[str, Any]:
        """Read the object of a line."""
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            line = file.readline()
        name = self.name(index)
        return record(_parsed(_text(line, name), name), name)


class RowsInMemory(Table):
    """Rows that are held in memory, with their lines in the file.

    Args:
        path: The file.
        rows: Line and values of each; values that are no object are refused when the row is read.
    """

    def __init__(self, path: Path, rows: Sequence[tuple[int, Any]]) -> None:
        self.path = path
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def number(self, index: int) -> int:
        """Return the number of the line that a row begins on, from 1; in CSV, that it ends on."""
        return self._rows[index][0]

    def row(self, index: int) -> Mapping[str, Any]:
        """Return the values of a row."""
        return record(self._rows[index][1], self.name(index))


class Parquet(Table):
    """A Parquet file. A row group is decoded when one of its rows is read; the last `GROUPS_HELD` are held.

    So groups should be small, such as 100 rows of images.

    Args:
        path: The file.
        columns: The columns to read; None reads all.

    Raises:
        ValueError: Not a Parquet file, a column that it does not have, or a damaged row group.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None) -> None:
        self.path = path
        self._footer: parquet.FileMetaData | None = None  # Read once: it is long where there are many row groups.
        with self._open() as file:
            self._names: list[str] = file.schema_arrow.names
            self.columns = self._names if columns is None else list(columns)
            for column in self.columns:
                if column not in self._names:
                    raise missing_column(path, column, self._names)
            self._footer = file.metadata
            self.groups = [self._footer.row_group(group).num_rows for group in range(file.num_row_groups)]
        self._ends = list(accumulate(self.groups))
        self._held: OrderedDict[int, pyarrow.Table] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": OrderedDict()}

    @property
    def names(self) -> list[str]:
        """The columns, also those that are not read."""
        return self._names

    def number(self, index: int) -> int:
        """Return the number of a row, from 0."""
        return index

    def values(self, column: str) -> Iterator[Any]:
        """Yield the values of a column, of which alone the pages are read (ValueError: one is damaged)."""
        with self._open() as file:
            try:
                for batch in file.iter_batches(columns=[column], use_threads=False):
                    yield from batch.column(0).to_pylist()
            except Exception as error:  # Decoders of damaged pages raise errors of every kind.
                raise ValueError(f"{self.path}: column '{column}' is damaged ({one_line(error)})") from None

    def row(self, index: int) -> Mapping[str, Any]:
        """Read the values of a row by column."""
        group = bisect_right(self._ends, index)
        if group not in self._held:
            with self._open() as file:
                try:
                    self._held[group] = file.read_row_group(group, columns=self.columns, use_threads=False)
                except Exception as error:  # Decoders of damaged pages raise errors of every kind.
                    raise ValueError(f"{self.name(index)}: row group {group} is damaged ({one_line(error)})") from None
        self._held.move_to_end(group)
        if len(self._held) > GROUPS_HELD:
            self._held.popitem(last=False)
        start = self._ends[group - 1] if group else 0
        try:
            return record(self._held[group].slice(index - start, 1).to_pylist()[0], self.name(index))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.name(index)}: not UTF-8 ({error})") from None

    def _open(self) -> parquet.ParquetFile:
        try:
            return parquet.ParquetFile(self.path, metadata=self._footer)
        except Exception as error:  # As above.
            raise ValueError(f"{self.path}: not a Parquet file ({one_line(error)})") from None


def open_table(path: Path, columns: Sequence[str] | None) -> Table:
    """Open the table of a file. What it holds decides how it is read; only CSV has to be named `.csv` or `.tsv`.

    Args:
        path: The file.
        columns: Those that are needed; None reads all that there are.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a table, or a column is missing.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    form = _form(path)
    if form == "parquet":
        return Parquet(path, columns)
    columns = columns or ()
    if form in _DELIMITERS:
        return RowsInMemory(path, _csv_rows(path, columns, _DELIMITERS[form]))
    if form == "array":
        rows = list(_array_rows(path))
        for column in columns if rows else ():
            if not any(isinstance(row, Mapping) and column in row for _, row in rows):
                raise missing_column(path, column, record(rows[0][1], f"{path}:{rows[0][0]}"))
        return RowsInMemory(path, rows)
    if form == "lines":
        return JsonLines(path, columns)
    raise ValueError(f"{path}: records are read from {', '.join(ENDINGS)} files, or from a folder of them")


def open_texts(path: Path, column: str) -> Table:
    """Open a file whose lines may be texts, the values of one column; a line that begins with `{` is a JSON object.

    Raises:
        FileNotFoundError, ValueError: As `open_table` raises them.
    """
    if path.is_file() and _form(path) in ("lines", None):
        lines = enumerate(map(str.strip, _text(path.read_bytes(), path).split("\n")), 1)
        texts = [(number, line) for number, line in lines if line]
        return RowsInMemory(
            path,
            [(n, _parsed(line, f"{path}:{n}") if line.startswith("{") else {column: line}) for n, line in texts],
        )
    return open_table(path, ())


def open_tables(path: Path, columns: Sequence[str] | None) -> list[Table]:
    """Open the table of a file, or of a folder's files in the order of their names. Hidden files are left out.

    Args:
        path: The file or folder.
        columns: Those that are needed; None reads all that there are.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: It has no file that can be read, or a column is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    files = _tables_in(path) if path.is_dir() else [path]
    if not files:
        inside = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir() and _tables_in(folder)]
        instead = f"; there are such files in its folder {inside[0]}: name that one" if inside else ""
        raise ValueError(f"{path}: there is no {', '.join(ENDINGS)} file in this folder{instead}")
    return [open_table(file, columns) for file in files]


def _form(path: Path) -> str | None:
    """How a table is written: "parquet", ".csv", ".tsv", "array", "lines" of JSON, or None for none of these."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    ending = path.suffix.lower()
    if beginning.startswith(b"PAR1") or ending == ".parquet":
        return "parquet"
    if ending in _DELIMITERS:
        return ending
    if _ARRAY.match(beginning):
        return "array"
    return "lines" if ending in ENDINGS or _OBJECT.match(beginning) else None


def missing_column(where: Path | str, column: str, existing: Sequence[str] | Mapping[str, Any]) -> ValueError:
    """Return the error of a column that does not exist."""
    return ValueError(f"{where}: no column '{column}'; it has {', '.join(existing)}")


def _tables_in(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and not file.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _array_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array with the lines on which they begin."""
    text = _text(path.read_bytes(), path)
    decoder = json.JSONDecoder(parse_constant=_constant)
    counted, line = 0, 1
    position = text.index("[") + 1
    while True:
        between = _BETWEEN.match(text, position)
        assert between is not None
        position = between.end()
        line, counted = line + text.count("\n", counted, position), position
        if between["end"] and not between["comma"]:
            break
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{line}: not JSON ({one_line(error)})") from None
        yield line, row
    if position < len(text):
        raise ValueError(f"{path}:{line}: not JSON (text follows the array)")


def _csv_rows(path: Path, columns: Sequence[str], delimiter: str) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of CSV by the names in its first line."""
    reader = csv.reader(io.StringIO(_text(path.read_bytes(), path), newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, Mapping[str, Any]]] = []
    try:
        names = next(reader, [])
        for column in columns:
            if column not in names:
                raise missing_column(path, column, names)
        for values in filter(None, reader):
            if len(values) != len(names):
                raise ValueError(f"{path}:{reader.line_num}: {len(values)} values for {len(names)} columns")
            rows.append((reader.line_num, dict(zip(names, values, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    return rows


def _text(content: bytes, name: Path | str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].count(b"\n")
        where = f" in line {before + 1}" if isinstance(name, Path) else ""
        raise ValueError(f"{name}: not UTF-8: byte 0x{content[error.start]:02x}{where} ({error.reason})") from None


def _parsed(text: str, name: str) -> Any:
    try:
        return parse_json(text, parse_constant=_constant)
    except ValueError as error:
        raise ValueError(f"{name}: not JSON ({one_line(error)})") from None


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def record(row: Any, name: str) -> Mapping[str, Any]:
    """Return a row whose NaNs are None (ValueError: it is no mapping of columns to values)."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{name}: not a JSON object but a {type(row).__name__}")
    return {column: None if isinstance(value, float) and value != value else value for column, value in row.items()}
