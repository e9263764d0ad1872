"""GoT records of real images, in tables of any form, and a check that their boxes are read."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch.utils.data import Dataset

from got_core.chain.dialects import dialect_of, fill_coordinates, from_json, read_dialect
from got_core.chain.objects import Unit
from got_core.chain.parser import NUMBERS, SIDE, lexemes, parse
from got_core.data.framing import OBJECTS_CUT, Fit, frame, in_window, window
from got_core.data.images import open_image, stored_size
from got_core.data.sources import Joined, open_joined, open_source
from got_core.data.tables import Table, missing_column
from got_core.errors import check_text, one_line, parse_json
from got_core.planning.plan import check_chain, check_prompt
from got_core.types import Sample


class StoredImage(NamedTuple):
    """An image that is not decoded yet.

    Attributes:
        content: Its file, or the bytes of one.
        name: Of the image in error messages.
    """

    content: Path | bytes
    name: str


@dataclass(frozen=True)
class Entry:
    """A record whose images are not decoded yet. Its texts keep to the limits of prompts and chains.

    Attributes:
        name: In error messages, such as file:line.
        id: Names the record in its source.
        prompt: The caption or instruction.
        chain: The reasoning chain.
        image: The target image.
        source: The image to be edited, or None for text-to-image.
        earlier: The requests of earlier turns.

    Raises:
        ValueError: A text is longer, or a chain has more boxes, than is allowed.
    """

    name: str
    id: str
    prompt: str
    chain: str
    image: StoredImage
    source: StoredImage | None = None
    earlier: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            for text in (self.prompt, *self.earlier):
                check_prompt(text)
            check_chain(self.chain)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def sample(self, size: tuple[int, int], fit: Fit = "cover") -> Sample:
        """Decode the images; errors are those of `load_image`.

        Args:
            size: (height, width) of the target. The source keeps its scale, and is cropped or padded alike.
            fit: How images of other proportions fill the frame. The chain's boxes are of the frame.
        """
        target = open_image(self.image.content, self.image.name, size)
        shown = window((target.height, target.width), size, fit)
        chain, cut = in_window(self.chain, shown)
        source = None if self.source is None else open_image(self.source.content, self.source.name)
        meta: dict[str, Any] = {"kind": "t2i" if source is None else "edit", "record": self.name}
        return Sample(
            prompt=self.prompt,
            chain=chain,
            size=size,
            target=frame(target, shown, size),
            source=None if source is None else frame(source, window((source.height, source.width), size, fit), None),
            meta=meta | ({OBJECTS_CUT: cut} if cut else {}),
            earlier=self.earlier,
        )


FIRST = 10
"""Records of which one must be readable."""


class RecordsDataset(Dataset[Sample]):
    """Samples of records by index, from JSON lines, a JSON array, CSV, Parquet or a Hugging Face dataset.

    An image is read only when its sample is.

    An image column holds a path, the bytes of an image file, or Hugging Face's struct {"bytes", "path"}. Targets are
    resized to `size`; those of other proportions are cropped around their centre, and the chain's boxes with them: an
    object of which less than a quarter is left leaves the chain. Sources keep their scale (see `Sample`).

    Args:
        path: A file, a folder of them (read in the order of their names), a folder of `save_to_disk`, or a hub id.
        size: (height, width) of the samples in pixels, or one number for both.
        prompt_column: The caption or instruction. Of a list of wordings, record i takes number i modulo their count.
        chain_column: The reasoning chain, in any form that `got_core.chain.parser` reads.
        image_column: The target image.
        source_column: The image to be edited, or None without edits; a record in which it is missing or empty is
            text-to-image.
        coordinates_column: Boxes of the chain's placeholders, as in OmniEdit-GoT; None when the chain has its own.
        image_root: Folder of relative paths of images; by default the folder of the records, or of `join`.
        allow_outside: Whether images may be outside of `image_root`, by absolute paths, `..` or links.
        earlier_column: The requests of earlier turns, a list of texts (in CSV, in JSON); None without conversations.
        id_column: What names a record in its source; by default its file and line.
        check_first: Whether the first record is read at once, or the next of `FIRST` if it is bad.
        join: A second table, such as one of images: a path like `path`. It has the columns that the records lack.
        join_column: Ids in `join`, which `id_column` names in the records; by default of the same name.
        split: Of a Hugging Face dataset that has several.
        subset: Of a hub id that has several.
        fit: How images of other proportions fill `size`: "cover" crops, "pad" adds black, "squash" distorts.
        dialect: Form of the chains, in `got_core.chain.dialects.DIALECTS`; by default any that the parser reads, and
            JSON of thousandths. In forms of objects each object must be read.
        unit: Of the chains' coordinates: thousandths, pixels of the target image in its file, or fractions; by default
            the dialect's own, else thousandths.

    Raises:
        FileNotFoundError: The records or an image do not exist.
        ValueError: A missing column, a bad line or an unreadable image; the package `datasets` is missing.
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
        allow_outside: bool = False,
        earlier_column: str | None = None,
        id_column: str | None = None,
        check_first: bool = True,
        join: str | None = None,
        join_column: str | None = None,
        split: str = "train",
        subset: str | None = None,
        fit: Fit = "cover",
        dialect: str | None = None,
        unit: Unit | None = None,
    ) -> None:
        self.path, self.fit, self.unit = path, fit, unit
        self.dialect = dialect if dialect is not None or unit is None else "got"  # It reads every form with words.
        if self.dialect is not None:
            dialect_of(self.dialect)
        self.size = (size, size) if isinstance(size, int) else size
        self.prompt_column = prompt_column
        self.chain_column = chain_column
        self.image_column = image_column
        self.source_column = source_column
        self.coordinates_column = coordinates_column
        self.earlier_column = earlier_column
        self.id_column = id_column
        named = (
            prompt_column,
            chain_column,
            image_column,
            source_column,
            coordinates_column,
            earlier_column,
            id_column,
        )
        columns = [column for column in named if column is not None]
        self._joined: Joined | None = None
        if join is None:
            self._tables = open_source(path, columns, split, subset)
        elif id_column is None:
            raise ValueError(f"{path}: join needs id_column, the column of the records whose values are ids in {join}")
        else:
            on = join_column or id_column
            self._tables, self._joined = open_joined(path, columns, id_column, join, on, split, subset)
        self._ends = list(accumulate(len(table) for table in self._tables))
        self.allow_outside = allow_outside
        beside = Path(path if join is None else join)
        self._image_root = Path(image_root) if image_root else beside if beside.is_dir() else beside.parent
        if not len(self):
            raise ValueError(f"{path}: no records")
        if check_first:
            self._check_first()

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def groups(self) -> list[int] | None:
        """Numbers of consecutive records that are decoded together; None where each is read by itself."""
        groups = [table.groups for table in self._tables if table.groups is not None]
        return [size for own in groups for size in own] if len(groups) == len(self._tables) else None

    @property
    def files(self) -> list[Path]:
        """The files of the records, in order."""
        joined = () if self._joined is None else self._joined.files
        return [*(file for table in self._tables for file in table.files), *joined]

    def ids(self) -> Iterator[Any]:
        """Yield the value of `id_column` of each record, None where it cannot be read."""
        for table in self._tables:
            yield from table.values(str(self.id_column))

    def id_of(self, index: int) -> str:
        """Return the id of a record (ValueError: it has none, or cannot be read)."""
        table, row = self._located(index)
        name = table.name(row)
        return Path(name).name if self.id_column is None else _id(table.row(row), self.id_column, name)

    def name(self, index: int) -> str:
        """Return the name of a record, file:line."""
        table, row = self._located(index)
        return table.name(row)

    def __getitem__(self, index: int) -> Sample:
        return self.at_size(index, self.size)

    def at_size(self, index: int, size: tuple[int, int]) -> Sample:
        """Read a record with its images in a frame of (height, width)."""
        return self.entry(index).sample(size, self.fit)

    def entry(self, index: int) -> Entry:
        """Read a record, but decode no image (ValueError: it cannot be read)."""
        record, where = self._record(index)
        return Entry(
            name=where,
            id=self.id_of(index),
            prompt=self._prompt(record, index, where),
            chain=self._chain(record, where),
            image=self._target(record, where),
            source=self._stored(record, self.source_column, where) if self.source_column else None,
            earlier=() if self.earlier_column is None else _earlier(record, self.earlier_column, where),
        )

    def chain(self, index: int) -> tuple[str, str]:
        """Return the name of a record, file:line, and its chain."""
        record, where = self._record(index)
        return where, self._chain(record, where)

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a record's target image in its file, without decoding it."""
        return stored_size(*self._target(*self._record(index)))

    def _record(self, index: int) -> tuple[Mapping[str, Any], str]:
        table, row = self._located(index)
        record, where = table.row(row), table.name(row)
        if self._joined is None or self.id_column is None:
            return record, where
        try:
            return {**self._joined.row(_id(record, self.id_column, where)), **record}, where
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _check_first(self) -> None:
        """Read a record, so that errors of columns and folders, which all records have, are raised at once."""
        errors = []
        for index in range(min(FIRST, len(self))):
            try:
                self[index]
                return
            except (ValueError, FileNotFoundError) as error:
                errors.append(error)
        raise errors[0]

    def _located(self, index: int) -> tuple[Table, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect_right(self._ends, index)
        return self._tables[number], index - (self._ends[number - 1] if number else 0)

    def _prompt(self, record: Mapping[str, Any], index: int, where: str) -> str:
        prompt = _value(record, self.prompt_column, where)
        if isinstance(prompt, list) and prompt:
            prompt = prompt[index % len(prompt)]
        return _text(prompt, self.prompt_column, where)

    def _chain(self, record: Mapping[str, Any], where: str) -> str:
        chain = _text(_value(record, self.chain_column, where), self.chain_column, where)
        if self.coordinates_column is not None:
            try:
                chain = check_text(fill_coordinates(chain, _value(record, self.coordinates_column, where)))
            except ValueError as error:
                raise ValueError(f"{where}: column '{self.coordinates_column}': {error}") from None
        if self.dialect is not None:
            return self._converted(chain, self.dialect, record, where)
        return from_json(chain) if self.coordinates_column is None else chain

    def _converted(self, chain: str, name: str, record: Mapping[str, Any], where: str) -> str:
        """The chain of a declared dialect and unit in thousandths."""
        dialect = dialect_of(name)
        unit = self.unit or dialect.unit or "thousandths"
        size = stored_size(*self._target(record, where)) if unit == "pixels" else None
        try:
            read = read_dialect(chain, name, unit=unit, size=size)
            lost = [problem for problem in read.problems if problem.startswith("dropped") and dialect.read is not None]
            if lost:
                raise ValueError(lost[0])
        except ValueError as error:
            raise ValueError(f"{where}: column '{self.chain_column}': {name}: {error}") from None
        return read.chain

    def _target(self, record: Mapping[str, Any], where: str) -> StoredImage:
        target = self._stored(record, self.image_column, where)
        if target is None:
            raise ValueError(f"{where}: column '{self.image_column}' is empty")
        return target

    def _stored(self, record: Mapping[str, Any], column: str, where: str) -> StoredImage | None:
        """The image of a column; None if the record has none."""
        value = record.get(column) if column == self.source_column else _value(record, column, where)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if not value:
            return None
        if isinstance(value, str):
            file = self._image_root / _text(value, column, where)
            if not self.allow_outside and not file.resolve().is_relative_to(self._image_root.resolve()):
                raise ValueError(
                    f"{where}: {value} is outside of {self._image_root}; give `allow_outside: true` if the records are "
                    "trusted"
                )
            return StoredImage(file, f"{where}: {file}")
        if isinstance(value, bytes):
            return StoredImage(value, f"{where}: column '{column}'")
        raise ValueError(f"{where}: column '{column}' holds a {type(value).__name__}, not a path or an image's bytes")


def _value(record: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in record:
        raise missing_column(where, column, record)
    return record[column]


def _text(value: object, column: str, where: str) -> str:
    if value is None:
        raise ValueError(f"{where}: column '{column}' is empty")
    if not isinstance(value, str):
        raise ValueError(f"{where}: column '{column}' holds a {type(value).__name__}, not text")
    try:
        return check_text(value)
    except ValueError as error:
        raise ValueError(f"{where}: column '{column}': {error}") from None


def _id(record: Mapping[str, Any], column: str, where: str) -> str:
    value = _value(record, column, where)
    return _text(str(value) if isinstance(value, int) else value, column, where)


def _earlier(record: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    """The texts of a list, which may be written in JSON; none if it is empty or missing."""
    value = record.get(column) or []
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ValueError(f"{where}: column '{column}' is no list in JSON ({one_line(error)})") from None
    if not isinstance(value, list):
        raise ValueError(f"{where}: column '{column}' holds a {type(value).__name__}, not a list of texts")
    return tuple(_text(each, column, where) for each in value)


CHECKED = 1000
"""Records of a source that are checked, spread evenly."""

_FOUR_NUMBERS = re.compile(r"(?:\d+(?:\.\d+)?[^\w.]+){3}\d|\bbbox|\"x1\"")
_ENOUGH, _SMALL, _TOUCHES = 5, 800, 0.97
"""Records from which pixels are inferred; pixels of a side to which thousandths would not fit; fraction of a side."""


@runtime_checkable
class Chains(Protocol):
    """A dataset whose chains can be read without its images' pixels."""

    def __len__(self) -> int: ...

    def chain(self, index: int) -> tuple[str, str]:
        """Return the name of a record, such as file:line, and its chain."""
        ...

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (height, width) of a record's image in its file."""
        ...


@dataclass(frozen=True)
class BadChain:
    """A chain of which boxes are lost.

    Attributes:
        record: Its name.
        box: As it is written.
        unit: What it probably is.
        whole_source: Whether that is only known from other chains too.
    """

    record: str
    box: str
    unit: str
    whole_source: bool = False


def bad_chains(source: Chains, tolerant: bool = False) -> tuple[list[BadChain], int]:
    """Return the bad chains among records of a source, and the number of records that were checked.

    Args:
        source: The records.
        tolerant: Whether records that cannot be read are left out.

    Raises:
        FileNotFoundError, ValueError: A record cannot be read.
    """
    indices = range(0, len(source), max(1, len(source) // CHECKED))[:CHECKED]
    left_out = (ValueError, FileNotFoundError) if tolerant else ()
    bad, largest = [], {}
    for index in indices:
        try:
            record, chain = source.chain(index)
        except left_out:
            continue
        boxes = [chain[each.start : each.end] for each in lexemes(chain) if each.kind == "box"]
        fault = _fault(chain, boxes)
        if fault is not None:
            bad.append(BadChain(record, *fault))
        elif boxes:
            largest[index] = max(boxes, key=lambda box: max(map(float, NUMBERS.findall(box))))
    pixels = list(_in_pixels(source, largest, left_out))
    return (pixels if pixels else bad), len(indices)


def lost_box(chain: str) -> tuple[str, str] | None:
    """Return a box of a chain that is not read as thousandths, and what it probably is; None if all are read."""
    return _fault(chain, [chain[each.start : each.end] for each in lexemes(chain) if each.kind == "box"])


def _fault(chain: str, boxes: list[str]) -> tuple[str, str] | None:
    """A box of a chain that is lost, and its probable unit; None if all are read."""
    for box in boxes:
        numbers = [float(number) for number in NUMBERS.findall(box)]
        if max(numbers) <= 1:
            return box, "fractions of width and height"
        if max(numbers) > SIDE:
            return box, "pixels"
    read = parse(chain)
    if not boxes and (written := _FOUR_NUMBERS.search(chain)):
        return chain[written.start() : written.start() + 60], "JSON or a list"
    if len(read.regions) < len(boxes):
        return next(box for box in boxes if not parse(box).regions), "no area"
    return None


def _in_pixels(source: Chains, largest: dict[int, str], left_out: tuple[type[Exception], ...]) -> Iterator[BadChain]:
    """All records with boxes, if they fit into their images' pixels and reach the border of some: none fits others."""
    reach = []
    for index, box in largest.items():
        try:
            height, width = source.image_size(index)
        except left_out:
            continue
        x1, y1, x2, y2 = map(float, NUMBERS.findall(box))
        if max(height, width) > _SMALL or max(x1, x2) > width or max(y1, y2) > height:
            return
        reach.append(max(max(x1, x2) / width, max(y1, y2) / height))
    if len(reach) >= _ENOUGH and max(reach) >= _TOUCHES:
        for index, box in largest.items():
            yield BadChain(source.chain(index)[0], box, "pixels: no box leaves its image's pixel size", True)
