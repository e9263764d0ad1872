"""Edits to be scored, read in the layouts that datasets are published in."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import load_image
from got_core.data.records import Table, open_tables
from got_core.errors import UserError, one_line


@dataclass(frozen=True)
class Cell:
    """An image in a table: a path, the bytes of a file, or Hugging Face's struct {"bytes", "path"}.

    Attributes:
        table, row, column: Where it stands.
        root: Folder that paths start from.
    """

    table: Table
    row: int
    column: str
    root: Path

    def read(self) -> Path | bytes:
        """The file, or its bytes.

        Raises:
            ValueError: There is neither in it.
        """
        value = self.table.row(self.row).get(self.column)
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if isinstance(value, str) and value:
            return self.root / value
        raise ValueError(f"{self.table.name(self.row)}: column '{self.column}' holds no image")


ImageSource = Path | Cell
"""Where an image is."""


def load_rgb(picture: ImageSource, size: tuple[int, int] | None = None) -> Float[Tensor, "3 H W"]:
    """An image in [-1, 1], resized to (height, width) where a size is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    if isinstance(picture, Path):
        return load_image(picture, size)
    return load_image(picture.read(), size, name=f"{picture.table.name(picture.row)}: column '{picture.column}'")


def image_bytes(picture: ImageSource) -> bytes:
    """The bytes of an image's file.

    Raises:
        OSError: There is no such file.
        ValueError: There is no image in a table's cell.
    """
    found = picture if isinstance(picture, Path) else picture.read()
    return found if isinstance(found, bytes) else found.read_bytes()


@dataclass(frozen=True)
class EditCase:
    """One edit.

    Attributes:
        name: Unlike that of every other edit of its set; letters, digits, `_`, `.` and `-`.
        instruction: What is asked for.
        source: The image that is edited.
        output: What was made of it; None where nothing is there.
        source_caption, target_caption: What the source shows, and what the output should show, where that is known.
        chain: The chain that the output was drawn from, where there is one.
        category: The kind of edit, where it is known.
        meta: Of a drawn scene, as `got_core.data.scenes.compose` makes it; empty for other images.
    """

    name: str
    instruction: str
    source: ImageSource
    output: ImageSource | None = None
    source_caption: str | None = None
    target_caption: str | None = None
    chain: str | None = None
    category: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EditSet:
    """Edits from one place.

    Attributes:
        place: File or folder.
        cases: The edits, in order.
        missing: What cannot be scored, with the reason, by the edit's name.
    """

    place: Path
    cases: tuple[EditCase, ...]
    missing: Mapping[str, str] = field(default_factory=dict)


EDITS, SOURCES, OUTPUTS, CHAINS = "edits.jsonl", "sources", "outputs", "chains"
"""In the folder of a drawn set."""

LOOKUP, INPUT = "dataset_lookup.json", "input"
BESIDE = (INPUT, "mask", "GroundTruth")
"""ImagenHub's names; folders of the last are no method's."""

IMAGE, EDITED, INDEX = "image", "edited_image", "idx"
"""Emu-Edit's columns."""


def read_edits(place: Path, method: str | None = None) -> EditSet:
    """The edits of a place, in whichever of the layouts it has.

    Args:
        place: File or folder.
        method: Whose outputs, in ImagenHub's layout; may be left out where there is one.

    Raises:
        UserError: There is no edit, no known layout, two edits of one name, or no telling whose outputs are meant.
    """
    try:
        if (place / EDITS).is_file():
            cases = _drawn(place)
        elif (place / LOOKUP).is_file():
            cases = _imagenhub(place, method)
        else:
            cases = _table(place)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place}: no edits can be read there ({type(error).__name__}: {one_line(error)}); a folder needs {EDITS}, "
            f"{LOOKUP}, or tables with the columns {IMAGE} and instruction"
        ) from error
    if not cases:
        raise UserError(f"{place}: there is no edit in it")
    often = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if often:
        raise UserError(f"{place}: several edits are called {often[0]}")
    return EditSet(place, tuple(cases))


def with_outputs(edits: EditSet) -> EditSet:
    """A set to be scored: edits without output or source are taken out and named.

    Raises:
        UserError: No edit is left.
    """
    missing = {}
    for case in edits.cases:
        for what, picture in (("output", case.output), ("source", case.source)):
            if picture is None or (isinstance(picture, Path) and not picture.is_file()):
                missing[case.name] = f"no {what}" if picture is None else f"no {what} ({picture})"
    cases = tuple(case for case in edits.cases if case.name not in missing)
    if not cases:
        name, reason = next(iter(missing.items()))
        raise UserError(f"{edits.place}: no output to score for {len(edits.cases)} edits ({name}: {reason})")
    return EditSet(edits.place, cases, missing)


def _drawn(root: Path) -> list[EditCase]:
    (table,) = open_tables(root / EDITS, ["name", "instruction"])
    cases = []
    for row in range(len(table)):
        entry = table.row(row)
        name = _name(entry["name"])
        chain = root / CHAINS / f"{name}.txt"
        cases.append(
            EditCase(
                name=name,
                instruction=_words(entry, "instruction"),
                source=root / SOURCES / f"{name}.png",
                output=root / OUTPUTS / f"{name}.png",
                source_caption=entry.get("source_caption") or None,
                target_caption=entry.get("target_caption") or None,
                chain=chain.read_text(encoding="utf-8").strip() if chain.is_file() else None,
                category=entry.get("category"),
                meta=entry.get("meta") or {},
            )
        )
    return cases


def _imagenhub(root: Path, method: str | None) -> list[EditCase]:
    lookup = json.loads((root / LOOKUP).read_text(encoding="utf-8"))
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name not in BESIDE)
    methods = [folder.name for folder in folders if any((folder / file).is_file() for file in lookup)]
    if method is None and len(methods) > 1:
        raise UserError(f"{root}: outputs of {', '.join(methods)} are there: give --method one of them")
    if method is not None and method not in methods:
        raise UserError(f"{root}: no outputs of {method}; there are {', '.join(methods) or 'none'}")
    chosen = method or (methods[0] if methods else None)
    return [
        EditCase(
            name=_name(Path(file).stem),
            instruction=_words(entry, "instruction"),
            source=root / INPUT / file,
            output=None if chosen is None else root / chosen / file,
            source_caption=entry.get("source_global_caption") or None,
            target_caption=entry.get("target_global_caption") or None,
        )
        for file, entry in lookup.items()
    ]


def _table(place: Path) -> list[EditCase]:
    root = place if place.is_dir() else place.parent
    cases: list[EditCase] = []
    for table in _tables(place):
        for row in range(len(table)):
            entry = table.row(row)
            cases.append(
                EditCase(
                    name=_name(entry.get(INDEX, len(cases))),
                    instruction=_words(entry, "instruction"),
                    source=Cell(table, row, IMAGE, root),
                    output=Cell(table, row, EDITED, root) if entry.get(EDITED) else None,
                    source_caption=entry.get("input_caption") or None,
                    target_caption=entry.get("output_caption") or None,
                    category=entry.get("task"),
                )
            )
    return cases


def _tables(place: Path) -> list[Table]:
    """The tables with as many of the columns that may be left out as they have."""
    needed = [IMAGE, "instruction"]
    open_tables(place, needed)
    for optional in (INDEX, "task", "input_caption", "output_caption", EDITED):
        try:
            open_tables(place, [*needed, optional])
        except ValueError:
            continue
        needed.append(optional)
    return open_tables(place, needed)


def _name(value: object) -> str:
    return re.sub(r"[^\w.-]", "_", str(value))


def _words(entry: Mapping[str, Any], column: str) -> str:
    text = entry[column]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"'{column}' of an edit holds no words: {text!r}")
    return text
