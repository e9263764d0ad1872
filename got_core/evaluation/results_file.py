"""`results.json` of any suite: what it holds, how it is written and read.

    {"suite": name,
     "figures": {figure: "higher" | "lower" | null},          # which way is better, where that is known
     "items": [{"key": ..., "category": ... | null, "scores": {figure: number | null}, ...}, ...],
     "counts": {name: number},                                # such as images, and images of each item
     "judge": {"from": {...}, ...}, "seeds": {...}, "recipe": ..., "drawing": ..., "checksums": ..., "versions": ...}

Items of two results are paired by category, key and, where a key comes several times, its turn.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from got_core.errors import UserError, one_line
from got_core.evaluation.provenance import write_whole

RESULTS = "results.json"
"""The file that an evaluation writes."""

OVERALL = "overall"
"""What the plain mean over all categories is called."""

FROM = "from"
"""In the description of a judge: the places it was loaded from, which say nothing of what was there."""

DIGITS = 6
"""Of figures in results."""

Better = Literal["higher", "lower"] | None

Key = tuple[str, str, int]
"""Category, key, and how often the two have come before in the same file."""


@dataclass(frozen=True)
class Item:
    """What was scored, such as a prompt with its images.

    Attributes:
        key: The same for the same thing in other results.
        category: None in suites without categories.
        scores: By figure; None where it has no such figure.
        details: Whatever else the results say of it.
    """

    key: str
    category: str | None
    scores: Mapping[str, float | None]
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As results hold it."""
        rounded = {name: None if value is None else round(value, DIGITS) for name, value in self.scores.items()}
        return {"key": self.key, "category": self.category, "scores": rounded, **self.details}


@dataclass(frozen=True)
class SuiteResults:
    """A `results.json` that was read.

    Attributes:
        name: Of its file.
        suite: What was measured.
        figures: With the direction that is better.
        items: The scores of each, by figure.
        judge: What measured it, without the places it was loaded from.
        counts: Of images and the like.
        seeds: Of drawings and the like.
    """

    name: str
    suite: str
    figures: Mapping[str, Better]
    items: Mapping[Key, Mapping[str, float | None]]
    judge: Any
    counts: Mapping[str, Any]
    seeds: Mapping[str, Any]


def scored_items(suite: str, figures: Mapping[str, Better], items: Sequence[Item]) -> dict[str, Any]:
    """The part of results that `got compare` reads."""
    return {"suite": suite, "figures": dict(figures), "items": [item.as_json() for item in items]}


def check_writable(folder: Path) -> None:
    """See, before anything is scored, that files can be written into a folder; it is made if it is not there.

    Raises:
        UserError: They cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({os.strerror(error.errno or 0)}); name another folder with --output"
        ) from error


def write_results(file: Path, content: Mapping[str, Any]) -> None:
    """Write results whole or not at all.

    Raises:
        UserError: They cannot be written.
    """
    try:
        write_whole(file, json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({one_line(error)}); name another folder with --output") from error


def read_results(file: Path) -> SuiteResults:
    """Results that can be compared.

    Raises:
        UserError: There is no such file, or it has no scores of items.
    """
    counted: Counter[tuple[str, str]] = Counter()
    items: dict[Key, dict[str, float | None]] = {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        for entry in content["items"]:
            pair = str(entry["category"] or ""), str(entry["key"])
            scores = entry["scores"].items()
            items[*pair, counted[pair]] = {name: None if value is None else float(value) for name, value in scores}
            counted[pair] += 1
        judge = {name: value for name, value in (content.get("judge") or {}).items() if name != FROM}
        counts, seeds = dict(content.get("counts") or {}), dict(content.get("seeds") or {})
        return SuiteResults(str(file), content["suite"], dict(content["figures"]), items, judge, counts, seeds)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a results.json with scores of items ({type(error).__name__})") from error
