"""Edits to score, read in the layouts that datasets are published in."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from got_core.data.images import images_in, load_image
from got_core.data.tables import Table, open_tables
from got_core.errors import UserError, check_text, one_line, parse_json
from got_core.evaluation.results import Missing


@dataclass(frozen=True)
class Cell:
    """An image in a table: a path, the bytes of a file, or Hugging Face's struct {"bytes", "path"}.

    Attributes:
        table, row, column: Of the cell.
        root: Folder that paths start from.
    """

    table: Table
    row: int
    column: str
    root: Path

    def read(self) -> Path | bytes:
        """Return the file, or its bytes.

        Raises:
            ValueError: It holds neither.
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
"""Where an image is stored."""


def load_rgb(source: ImageSource, size: tuple[int, int] | None = None) -> Float[Tensor, "3 H W"]:
    """Load an image in [-1, 1], resized to (height, width) if a size is given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    if isinstance(source, Path):
        return load_image(source, size)
    return load_image(source.read(), size, name=f"{source.table.name(source.row)}: column '{source.column}'")


def image_bytes(source: ImageSource) -> bytes:
    """Return the bytes of an image's file.

    Raises:
        OSError: There is no such file.
        ValueError: There is no image in a table's cell.
    """
    stored = source if isinstance(source, Path) else source.read()
    return stored if isinstance(stored, bytes) else stored.read_bytes()


@dataclass(frozen=True)
class EditCase:
    """One edit.

    Attributes:
        name: Unlike that of every other edit of its set; letters, digits, `_`, `.` and `-`.
        instruction: What to change.
        source: The image that is edited.
        output: The edited image; None where there is none.
        source_caption, target_caption: What the source shows, and what the output should show, where known.
        chain: The chain that the output was generated from, if any.
        category: The kind of edit, where known.
        meta: Of a drawn scene, as `got_core.data.scenes.compose` makes it; empty for other images.
        target: The true edited image, where known.
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
    target: ImageSource | None = None


@dataclass(frozen=True)
class EditSet:
    """Edits from one file or folder.

    Attributes:
        path: File or folder.
        cases: The edits, in order.
        missing: What cannot be scored.
    """

    path: Path
    cases: tuple[EditCase, ...]
    missing: tuple[Missing, ...] = ()


EDITS, SOURCES, OUTPUTS, CHAINS, TARGETS = "edits.jsonl", "sources", "outputs", "chains", "targets"
"""In the folder of a set that was generated here; the last is there where the true edited images are known."""

LOOKUP, INPUT = "dataset_lookup.json", "input"
NO_METHOD = (INPUT, "mask", "GroundTruth")
"""ImagenHub's names; folders of the last hold no method's outputs."""

IMAGE, EDITED, INDEX = "image", "edited_image", "idx"
"""Emu-Edit's columns."""


def read_edits(path: Path, method: str | None = None) -> EditSet:
    """Read edits in any of the layouts.

    Args:
        path: File or folder.
        method: Whose outputs, in ImagenHub's layout; may be left out if there is only one.

    Raises:
        UserError: There is no edit, no known layout, two edits have one name, or several methods have outputs.
    """
    try:
        if (path / EDITS).is_file():
            cases = _generated(path)
        elif (path / LOOKUP).is_file():
            cases = _imagenhub(path, method)
        else:
            cases = _table(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: no edits can be read there ({type(error).__name__}: {one_line(error)}); a folder needs {EDITS}, "
            f"{LOOKUP}, or tables with the columns {IMAGE} and instruction"
        ) from error
    if not cases:
        raise UserError(f"{path}: there is no edit in it")
    names = Counter(case.name for case in cases)
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: several edits are called {name}")
    return EditSet(path, tuple(cases))


def with_outputs(edits: EditSet) -> EditSet:
    """Return a set to score: edits without output or source are missing.

    Raises:
        UserError: No edit is left.
    """
    missing: list[Missing] = []
    cases: list[EditCase] = []
    for case in edits.cases:
        for what, image in (("source", case.source), ("output", case.output)):
            if image is None or (isinstance(image, Path) and not image.is_file()):
                missing.append(
                    Missing(case.name, f"no {what}" if image is None else f"no {what} ({image})", case.category)
                )
                break
        else:
            cases.append(case)
    if not cases:
        first = missing[0]
        raise UserError(f"{edits.path}: no output to score for {len(edits.cases)} edits ({first.item}: {first.reason})")
    return EditSet(edits.path, tuple(cases), tuple(missing))


def _generated(root: Path) -> list[EditCase]:
    (table,) = open_tables(root / EDITS, ["name", "instruction"])
    cases = []
    sources, outputs, targets = (images_in(root / part) for part in (SOURCES, OUTPUTS, TARGETS))
    for row in range(len(table)):
        entry = table.row(row)
        name = _name(entry["name"])
        chain = root / CHAINS / f"{name}.txt"
        cases.append(
            EditCase(
                name=name,
                instruction=_words(entry, "instruction"),
                source=sources.get(name, root / SOURCES / f"{name}.png"),
                output=outputs.get(name, root / OUTPUTS / f"{name}.png"),
                source_caption=entry.get("source_caption") or None,
                target_caption=entry.get("target_caption") or None,
                chain=chain.read_text(encoding="utf-8").strip() if chain.is_file() else None,
                category=entry.get("category"),
                meta=entry.get("meta") or {},
                target=targets.get(name),
            )
        )
    return cases


def _imagenhub(root: Path, method: str | None) -> list[EditCase]:
    lookup = parse_json((root / LOOKUP).read_text(encoding="utf-8-sig"))
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and entry.name not in NO_METHOD)
    stems = {Path(file).stem for file in lookup}
    methods = [folder.name for folder in folders if stems & images_in(folder).keys()]
    if method is None and len(methods) > 1:
        raise UserError(f"{root}: outputs of {', '.join(methods)} are there: give --method one of them")
    if method is not None and method not in methods:
        raise UserError(f"{root}: no outputs of {method}; there are {', '.join(methods) or 'none'}")
    chosen = method or (methods[0] if methods else None)
    sources, outputs = images_in(root / INPUT), {} if chosen is None else images_in(root / chosen)
    return [
        EditCase(
            name=_name(Path(file).stem),
            instruction=_words(entry, "instruction"),
            source=_named(root / INPUT / file, sources),
            output=None if chosen is None else _named(root / chosen / file, outputs),
            source_caption=entry.get("source_global_caption") or None,
            target_caption=entry.get("target_global_caption") or None,
        )
        for file, entry in lookup.items()
    ]


def _named(file: Path, images: Mapping[str, Path]) -> Path:
    """A file or, if it does not exist, the image of its name with another ending."""
    return file if file.is_file() else images.get(file.stem, file)


def _table(path: Path) -> list[EditCase]:
    root = path if path.is_dir() else path.parent
    cases: list[EditCase] = []
    taken: Counter[str] = Counter()
    for table in _tables(path):
        for row in range(len(table)):
            entry = table.row(row)
            index = entry.get(INDEX)
            cases.append(
                EditCase(
                    name=_distinct(_name(len(cases) if index in (None, "") else index), taken),
                    instruction=_words(entry, "instruction"),
                    source=Cell(table, row, IMAGE, root),
                    output=Cell(table, row, EDITED, root) if entry.get(EDITED) else None,
                    source_caption=entry.get("input_caption") or None,
                    target_caption=entry.get("output_caption") or None,
                    category=entry.get("task"),
                )
            )
    return cases


def _tables(path: Path) -> list[Table]:
    """The tables with the optional columns that they have."""
    needed = [IMAGE, "instruction"]
    open_tables(path, needed)
    for optional in (INDEX, "task", "input_caption", "output_caption", EDITED):
        try:
            open_tables(path, [*needed, optional])
        except ValueError:
            continue
        needed.append(optional)
    return open_tables(path, needed)


def _distinct(name: str, taken: Counter[str]) -> str:
    """A name that is not taken yet: itself, or with a number behind it."""
    taken[name] += 1
    return name if taken[name] == 1 else _distinct(f"{name}_{taken[name]}", taken)


def _name(value: object) -> str:
    return re.sub(r"[^\w.-]", "_", str(value))


def _words(entry: Mapping[str, Any], column: str) -> str:
    text = entry[column]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"'{column}' of an edit has no words: {text!r}")
    return check_text(text)
