"""A first look at a source: its columns, some of its records as text, and a proposal of how a recipe names them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from got_core.chain.dialects import from_json
from got_core.chain.parser import parse
from got_core.data.images import ENDINGS
from got_core.data.sources import open_source, streamed
from got_core.data.streams import StreamDataset, is_stream
from got_core.errors import parse_json
from got_core.paths import is_hub_id

SAMPLES = 3
"""Records that are shown."""

_READ, _SHOWN = 20, 100
"""Records from which kinds are known; characters of a value that are shown."""

_NAMES = {
    "source": ("source", "src", "input", "original", "before"),
    "image": ("image", "target", "edited", "output", "after", "jpg", "png"),
    "prompt": ("prompt", "instruction", "caption", "text", "edit"),
    "chain": ("chain", "got", "reason", "thought", "cot"),
    "coordinates": ("coord", "box"),
    "earlier": ("earlier", "history", "previous", "turns"),
}
"""Parts of the usual names of each column, the likeliest first."""


def peek(path: str, split: str = "train", subset: str | None = None) -> Iterator[str]:
    """Yield lines about a source. Of a hub id only the first records are downloaded.

    Args:
        path: A file, folder or hub id, as of `open_source`.
        split, subset: Of a Hugging Face dataset.

    Raises:
        FileNotFoundError, ValueError: As `open_source` raises them.
    """
    if is_stream(path):
        yield from _about_stream(path)
        return
    if not Path(path).exists() and is_hub_id(path):
        rows = streamed(path, split, subset, _READ)
        names, count = list(dict.fromkeys(name for row in rows for name in row)), ""
    else:
        tables = open_source(path, None, split)
        table = next((table for table in tables if len(table)), tables[0])
        rows = [table.row(index) for index in range(min(_READ, len(table)))]
        names, count = table.names, f": {sum(map(len, tables)):,} records"
    if not rows:
        raise ValueError(f"{path}: no records")
    kinds = {name: kind_of([row.get(name) for row in rows]) for name in names}
    width = max(map(len, kinds))
    yield f"{printable(path)}{count}"
    yield "columns:"
    yield from (f"  {printable(name):{width}}  {kind}" for name, kind in kinds.items())
    for number, row in enumerate(rows[:SAMPLES], 1):
        yield f"record {number}:"
        yield from (f"  {printable(name)}: {shown(value)}" for name, value in row.items())
    yield "in a recipe:"
    yield from _recipe(path, split, subset, proposed(kinds, rows))


def _about_stream(path: str) -> Iterator[str]:
    stream = StreamDataset(path, 1)
    yield f"{printable(path)}: a stream of {len(stream):,} records"
    for index in range(min(SAMPLES, len(stream))):
        entry, (height, width) = stream.entry(index), stream.image_size(index)
        yield f"record {index + 1}: {printable(entry.name)}, an image of {width} x {height} pixels"
        texts = {"prompt": entry.prompt, "chain": entry.chain, "earlier": list(entry.earlier)}
        yield from (f"  {name}: {shown(value)}" for name, value in texts.items() if value)
    yield "in a recipe:"
    yield from (
        f"  {line}"
        for line in yaml.safe_dump(
            {"class_path": "got_core.data.streams.StreamDataset", "init_args": {"path": path, "size": 512}},
            sort_keys=False,
        ).splitlines()
    )


def printable(text: str) -> str:
    """Return a text in which control characters, such as those of a terminal's codes, are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(value: object) -> str:
    """Return a value as a short line of text."""
    if isinstance(value, Mapping) and "bytes" in value:
        value = value["bytes"] or value.get("path")
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")


def kind_of(values: Sequence[object]) -> str:
    """Return what a column holds, from some of its values."""
    kinds = {_kind(value) for value in values if value is not None}
    return " or ".join(sorted(kinds)) or "empty"


def _kind(value: object) -> str:
    match value:
        case bytes() | {"bytes": bytes()}:
            return "image"
        case {"bytes": None, "path": str()}:
            return "path of an image"
        case str() if value.lower().endswith(ENDINGS):
            return "path of an image"
        case str():
            return "text"
        case bool():
            return "yes or no"
        case int() | float():
            return "number"
        case [str(), *_]:
            return "texts"
        case list():
            return "list"
    return "object"


def proposed(kinds: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return a column for each role that has one: by what its values are, then by its name.

    Args:
        kinds: Of each column.
        rows: Some records.
    """
    columns: dict[str, str] = {}
    left = dict(kinds)

    def choose(role: str, *allowed: str, suited: Sequence[str] = ()) -> None:
        fitting = [name for name, kind in left.items() if kind in allowed]
        named = [name for part in _NAMES[role] for name in fitting if part in name.lower()]
        if candidates := [*(name for name in named if name in suited), *suited, *named]:
            columns[role] = candidates[0]
            del left[candidates[0]]

    if ids := [name for name, kind in kinds.items() if kind in ("text", "number") and _is_id(name)]:
        columns["id"] = ids[0]
        del left[ids[0]]
    texts = [name for name, kind in left.items() if kind == "text"]
    boxes = [name for name in texts if any(_has_boxes(row.get(name)) for row in rows)]
    keys = [name for name, kind in kinds.items() if any(_places(row.get(name)) for row in rows)]
    if keys:
        columns["coordinates"] = keys[0]
        del left[keys[0]]
        places = {name: _places(row.get(keys[0])) for row in rows for name in texts}
        boxes = [n for n in texts if n in left and any(key in str(row.get(n)) for row in rows for key in places[n])]
    choose("chain", "text", suited=boxes)
    images = ("image", "path of an image")
    choose("source", *images)
    choose("image", *images, suited=[name for name, kind in left.items() if kind in images])
    choose("earlier", "texts", "list")
    choose("prompt", "text", "texts")
    return columns


def _is_id(name: str) -> bool:
    return name.lower().split("_")[-1] == "id"


def _has_boxes(value: object) -> bool:
    return isinstance(value, str) and bool(parse(from_json(value)).regions)


def _places(value: object) -> list[str]:
    """The placeholders of a column of coordinates."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = parse_json(value)
        except ValueError:
            return []
    if not isinstance(value, Mapping) or "bytes" in value:
        return []
    return [key for key, box in value.items() if isinstance(box, str | list) and len(box) >= 4]


def _recipe(path: str, split: str, subset: str | None, columns: Mapping[str, str]) -> Iterator[str]:
    """The lines of a dataset in a recipe."""
    settings: dict[str, Any] = {"path": path, "size": 512}
    settings |= {} if split == "train" else {"split": split}
    settings |= {} if subset is None else {"subset": subset}
    settings |= {f"{role}_column": column for role, column in columns.items()}
    yield "  class_path: got_core.data.records.RecordsDataset"
    yield "  init_args:"
    for name, value in settings.items():
        yield "    " + yaml.safe_dump({name: value}, width=10**6).strip()
    for role, meaning in {
        "prompt": "caption or instruction",
        "chain": "chain with boxes",
        "image": "target image",
    }.items():
        if role not in columns:
            hint = "; an `id_column` and `join: PATH` read it from another table" if role == "image" else ""
            yield f"    # {role}_column: no column looks like the {meaning}{hint}"
