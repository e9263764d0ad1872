"""Tables of every kind of source: files, Hugging Face datasets, and a second table that is joined by an id."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import accumulate, islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from got_core.data.tables import Table, missing_column, open_tables, record
from got_core.errors import one_line, parse_json
from got_core.paths import is_hub_id

SPLITS = "dataset_dict.json"
"""The file that lists the splits of a saved dataset."""


class HubTable(Table):
    """A split of a Hugging Face dataset: Arrow files that are mapped into memory, of which each row is read by itself.

    No column is decoded, and no code of the dataset is run.

    Args:
        dataset: Of the package `datasets`.
        path: Its folder or hub id.
        columns: The columns to read; None reads all.

    Raises:
        ValueError: A column that it does not have.
    """

    def __init__(self, dataset: Any, path: Path, columns: Sequence[str] | None) -> None:
        self.path = path
        self._names: list[str] = dataset.column_names
        for column in columns or ():
            if column not in self._names:
                raise missing_column(path, column, self._names)
        self._rows = (dataset if columns is None else dataset.select_columns(list(columns))).with_format("arrow")

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def files(self) -> list[Path]:
        """The Arrow files."""
        return [Path(file["filename"]) for file in self._rows.cache_files]

    @property
    def names(self) -> list[str]:
        """The columns, also those that are not read."""
        return self._names

    def number(self, index: int) -> int:
        """Return the number of a row, from 0."""
        return index

    def row(self, index: int) -> Mapping[str, Any]:
        """Read the values of a row by column."""
        name = self.name(index)
        try:
            (values,) = self._rows[index : index + 1].to_pylist()
        except Exception as error:  # Damaged Arrow files raise errors of every kind.
            raise ValueError(f"{name}: cannot be read ({one_line(error)})") from None
        return record(values, name)

    def values(self, column: str) -> Iterator[Any]:
        """Yield the values of a column, which alone is read."""
        for batch in self._rows.select_columns([column]).iter(10_000):
            yield from batch.column(0).to_pylist()


def open_source(
    path: str, columns: Sequence[str] | None, split: str = "train", subset: str | None = None
) -> list[Table]:
    """Open the tables of a file, of a folder of files, or of a Hugging Face dataset.

    Args:
        path: A file, a folder of files, a folder of `save_to_disk`, or a hub id such as `org/name`, which is downloaded
            whole.
        columns: Those that are needed; None reads all that there are.
        split: Of a Hugging Face dataset that has several.
        subset: Of a hub id that has several, which the hub calls configurations.

    Raises:
        FileNotFoundError: The path does not exist.
        ValueError: It cannot be read, a column or a split is missing, or the package `datasets` is.
    """
    folder = Path(path)
    if not folder.exists() and is_hub_id(path):
        return [HubTable(_from_hub(path, split, subset), folder, columns)]
    if all((folder / name).is_file() for name in ("index.json", "sizes.npy", "build.json")):
        raise ValueError(f"{path}: is a stream: name it in the recipe as got_core.data.streams.StreamDataset")
    if (folder / SPLITS).is_file():
        try:
            splits = parse_json((folder / SPLITS).read_bytes())["splits"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{folder / SPLITS}: does not list splits") from None
        if split not in splits:
            raise ValueError(f"{path}: no split '{split}'; it has {', '.join(map(str, splits))}")
        folder /= split
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        library = _library(path)
        try:
            dataset = library.load_from_disk(str(folder))
        except Exception as error:  # As above.
            raise ValueError(f"{folder}: not a saved dataset ({one_line(error)})") from None
        return [HubTable(dataset, folder, columns)]
    return open_tables(folder, columns)


def streamed(path: str, split: str, subset: str | None, number: int) -> list[Mapping[str, Any]]:
    """Read the first rows of a hub id, and download no more than they take.

    Raises:
        FileNotFoundError, ValueError: As `open_source` raises them.
    """
    dataset = _from_hub(path, split, subset, streaming=True).decode(False)
    try:
        return [record(row, path) for row in islice(dataset, number)]
    except Exception as error:  # Of the network, and of every kind of file.
        raise ValueError(f"{path}: cannot be read ({one_line(error)})") from None


def _library(path: str) -> ModuleType:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{path}: a Hugging Face dataset is read by the package datasets: pip install 'got-framework[datasets]'"
        ) from None
    return datasets


def _from_hub(path: str, split: str, subset: str | None, streaming: bool = False) -> Any:
    library = _library(path)
    try:
        return library.load_dataset(path, subset, split=split, streaming=streaming)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file or folder, and no dataset of the hub that can be reached"
        ) from None
    except Exception as error:  # Of the network, of splits and subsets, and of datasets that are code.
        raise ValueError(f"{path}: cannot be loaded from the hub ({one_line(error)})") from None


class Joined:
    """The rows of a source by their ids. Of each, a hash of 8 bytes and a number of 4 are held in memory.

    Args:
        path: Its name in errors.
        tables: Of the source.
        column: Of the ids; of several rows with one id, the first is taken.
    """

    def __init__(self, path: str, tables: Sequence[Table], column: str) -> None:
        self.path, self.column, self._tables = path, column, tables
        self._ends = list(accumulate(map(len, tables)))
        hashes = id_hashes(value for table in tables for value in table.values(column))
        self._order = np.argsort(hashes, kind="stable").astype(np.uint32 if len(hashes) < 2**32 else np.uint64)
        self._hashes = hashes[self._order]

    @property
    def files(self) -> list[Path]:
        """The files of the rows."""
        return [file for table in self._tables for file in table.files]

    def row(self, id_: object) -> Mapping[str, Any]:
        """Read the row of an id (ValueError: there is none, or it cannot be read)."""
        wanted = id_hashes([id_])
        start, end = (int(np.searchsorted(self._hashes, wanted, side)[0]) for side in ("left", "right"))
        for index in self._order[start:end].tolist():
            number = bisect_right(self._ends, index)
            row = self._tables[number].row(index - (self._ends[number - 1] if number else 0))
            if str(row[self.column]) == str(id_):
                return row
        raise ValueError(f"{self.path} has no row whose {self.column} is {str(id_)[:100]!r}")


def id_hashes(ids: Iterable[object]) -> np.ndarray:
    """Return a hash of 64 bits of each id, a text or a number."""
    digests = (blake2b(str(id_).encode(errors="replace"), digest_size=8).digest() for id_ in ids)
    return np.fromiter(map(int.from_bytes, digests), np.uint64)


def open_joined(
    path: str, columns: Sequence[str], id_column: str, join: str, join_column: str, split: str, subset: str | None
) -> tuple[list[Table], Joined]:
    """Open a source, and a second one that has the columns which the first lacks.

    Args:
        path, columns, split, subset: As in `open_source`.
        id_column: Of the first source.
        join: The second, a path as in `open_source`.
        join_column: Its ids.

    Raises:
        FileNotFoundError, ValueError: As `open_source` raises them.
    """
    own = {name for table in open_source(path, None, split, subset) for name in table.names}
    tables = open_source(path, [column for column in columns if column in own or column == id_column], split, subset)
    others = [column for column in columns if column not in own and column != join_column]
    return tables, Joined(join, open_source(join, [join_column, *others], split), join_column)
