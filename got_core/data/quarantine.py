"""Records that cannot be read while training goes on: replaced, counted, and listed once in the run's folder."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch.utils.data import Dataset

from got_core.errors import UserError, one_line, parse_json
from got_core.types import Sample

BAD = "bad_records"
"""Entry of `Sample.meta`: name and error of each record in whose place the sample was taken. Its count is logged."""

LEAST = 20
"""Samples that must have been replaced before their fraction counts."""


class Tolerant(Dataset[Sample]):
    """A dataset in which a readable sample takes the place of one that cannot be read, the same at each time.

    It is the next one or, if that is bad too, the one 2, 4, 8 ... further on, so that a damaged part of a file is left
    quickly. After the last comes the first.

    Args:
        dataset: Any map-style dataset of samples with a length. A ValueError or FileNotFoundError is of a bad record.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Sample:
        return self._first(index, self.dataset.__getitem__)

    def at_size(self, index: int, size: tuple[int, int]) -> Sample:
        """Return a sample in a size, if the dataset makes its samples in any."""
        dataset: Any = self.dataset
        return self._first(index, lambda i: dataset.at_size(i, size) if hasattr(dataset, "at_size") else dataset[i])

    def _first(self, index: int, read: Callable[[int], Sample]) -> Sample:
        bad: list[tuple[str, str]] = []
        for offset in (0, *(1 << bit for bit in range((len(self) - 1).bit_length()))):
            number = (index + offset) % len(self)
            try:
                sample = read(number)
            except (ValueError, FileNotFoundError) as error:
                bad.append((record_name(self.dataset, number), one_line(error)))
            else:
                return replace(sample, meta={**sample.meta, BAD: tuple(bad)}) if bad else sample
        raise ValueError(f"none of {len(bad)} records could be read to replace the first of them: {bad[0][1]}")


def record_name(dataset: Any, index: int) -> str:
    """Return a record's name, such as file:line, of the dataset or of the one that it wraps."""
    while not callable(getattr(dataset, "name", None)):
        if not hasattr(dataset, "dataset"):
            return f"{type(dataset).__name__} {index}"
        dataset = dataset.dataset
    name: str = dataset.name(index)
    return name


class Quarantine:
    """Counts the training samples of one rank, and those that were replaced; lists bad records in a file.

    All ranks write into one file, each record once, a line {"record": name, "error": reason} of JSON. A resumed run
    goes on with the counts of its first rank and with the file.

    Args:
        most: Fraction of the samples that may be replaced, once at least `LEAST` were.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.read = self.replaced = 0
        self._listed: set[int] = set()
        self._end = 0

    def count(self, meta: Sequence[Mapping[str, Any]], file: Path) -> None:
        """Count the samples of a training batch (UserError: too many were replaced)."""
        self.read += len(meta)
        self.replaced += sum(BAD in entry for entry in meta)
        self.add(meta, file)
        if self.replaced >= LEAST and self.replaced > self.most * self.read:
            raise UserError(
                f"{self.replaced:,} of {self.read:,} samples could not be read, more than {self.most:.0%} "
                f"(max_bad_records): {file} lists them, and got data check all others"
            )

    def add(self, meta: Sequence[Mapping[str, Any]], file: Path) -> None:
        """List the bad records of a batch."""
        bad = dict(pair for entry in meta for pair in entry.get(BAD, ()))
        bad = {record: error for record, error in bad.items() if hash(record) not in self._listed}
        if not bad:
            return
        if not self._listed:
            print(f"a bad record is replaced by another: {next(iter(bad.values()))}; {file} lists all of them")
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name(f".{file.name}.lock")), file.open("ab+") as lines:
            lines.seek(self._end)
            self._listed.update(map(hash, _records(lines.read())))
            for record, error in bad.items():
                if hash(record) not in self._listed:
                    lines.write(json.dumps({"record": record, "error": error}).encode() + b"\n")
                    self._listed.add(hash(record))
            self._end = lines.tell()

    def begin(self, file: Path) -> None:
        """Remove what an earlier run has listed."""
        file.unlink(missing_ok=True)
        self._listed, self._end = set(), 0


def _records(lines: bytes) -> Iterator[str]:
    for line in lines.splitlines():
        try:
            yield parse_json(line)["record"]
        except (ValueError, TypeError, KeyError):  # A process was killed while it wrote the line.
            continue
