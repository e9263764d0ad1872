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
import platform
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from rich.table import Table
from torch import Tensor

from got_core.detection.base import FROM
from got_core.errors import UserError, one_line
from got_core.evaluation.statistics import Interval, stratum
from got_core.weights.files import write_whole


def processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


PACKAGES = ("got-framework", "torch", "torchvision", "lightning", "transformers", "diffusers", "torchmetrics", "numpy")
"""The distributions whose versions results name, this one first."""

SETTINGS = "drawing.json"
"""In a folder of images that were drawn here: what they were drawn from and how."""

SUMS = ("checkpoint", "prompts")
"""What of these settings are checksums."""


def origin(
    root: Path, judge: Mapping[str, Any], seeds: Mapping[str, int | None], checksums: Mapping[str, str]
) -> dict[str, Any]:
    """What a result came from, as `results.json` of any suite holds it.

    Args:
        root: The folder that was scored; where its images were drawn here, its `SETTINGS` are taken in.
        judge: The description of who scored it.
        seeds: Those that scoring used.
        checksums: Of what was scored.
    """
    file = root / SETTINGS
    drawing = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    sums = {name: drawing.pop(name) for name in SUMS if name in drawing}
    return {
        "judge": dict(judge),
        "seeds": {"drawing": drawing.pop("seed", None), **seeds},
        "recipe": drawing.pop("recipe", None),
        "drawing": drawing or None,
        "checksums": {**sums, **checksums},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of `PACKAGES` that are installed."""
    return {name: version(name) for name in PACKAGES}


RESULTS = "results.json"
"""The file that an evaluation writes."""

OVERALL = "overall"
"""What the plain mean over all categories is called."""


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


@dataclass(frozen=True)
class Missing:
    """Images that should be there and cannot be scored.

    Attributes:
        place: Folder or file, within the folder of all prompts.
        reason: What is the matter.
        category: Where it is known.
        images: How many.
    """

    place: str
    reason: str
    category: str | None
    images: int


def missing_by_category(missing: Iterable[Missing]) -> dict[str, int]:
    """Images that could not be scored, by category where that is known, and overall."""
    counted: Counter[str] = Counter()
    for entry in missing:
        counted[OVERALL] += entry.images
        if entry.category is not None:
            counted[entry.category] += entry.images
    return dict(counted)


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


@dataclass(frozen=True)
class Summary:
    """A figure over the items that have it.

    Attributes:
        mean: Over those items.
        interval: 95% bootstrap interval of the mean, over items; None for fewer than `bootstrap.FEWEST` items, or where
            all are alike in a figure that is no share.
        items: How many have it.
    """

    mean: float
    interval: Interval | None
    items: int

    def as_json(self) -> dict[str, Any]:
        """Rounded, for results."""
        ends = None if self.interval is None else [round(end, DIGITS) for end in self.interval]
        return {"mean": round(self.mean, DIGITS), "interval": ends, "n": self.items}


def summaries(
    found: Float[Tensor, "items figures"], names: Sequence[str], seed: int = 0, yes_or_no: Collection[str] = ()
) -> dict[str, Summary]:
    """The summary of each figure that an item has; the same for a seed.

    Args:
        found: NaN where an item has no such figure.
        names: Of the columns.
        seed: Of the bootstrap.
        yes_or_no: Figures that are 0 or 1; where all items agree in one, its interval is Wilson's.
    """
    summed = {}
    for place, name in enumerate(names):
        column = found[:, place].double().numpy()
        values = column[~np.isnan(column)]
        if len(values):
            part = stratum(values.tolist(), np.ones(len(values)).tolist(), seed)
            told = not part.agree or name in yes_or_no
            summed[name] = Summary(part.mean, part.interval if told else None, part.items)
    return summed


def scores_of(row: Float[Tensor, " figures"], names: Sequence[str]) -> dict[str, float]:
    """The figures that an item has, by name, rounded for results."""
    return {name: round(value, DIGITS) for name, value in zip(names, row.tolist(), strict=True) if not np.isnan(value)}


def summary_table(summed: Mapping[str, Summary], better: Mapping[str, Better], title: str) -> Table:
    """Summaries for people to read; `better` says which way each figure is better."""
    table = Table("figure", "better", title=title, title_justify="left")
    for heading in ("mean", "95% interval", "items"):
        table.add_column(heading, justify="right")
    for name, entry in summed.items():
        span = "-" if entry.interval is None else f"{entry.interval[0]:.4f} to {entry.interval[1]:.4f}"
        table.add_row(name, better.get(name) or "", f"{entry.mean:.4f}", span, str(entry.items))
    return table
