"""Results of any suite: items with their scores, summaries by category, one table, and `results.json`.

{"suite": name,
 "metrics": {metric: "higher" | "lower" | null},                      # which direction is better, where known
 "scores": {category: {metric: {"mean": ..., "interval": [low, high] | null, "n": items}}, ...},   # "overall" last
 "answers": {answer: {category: {metric: as in "scores"}, ...}, ...}, # trivial ones and the true one, same requests
 "counts": {name: number},                                            # images, missing images and the like
 "missing": [{"item": ..., "reason": ..., "category": ... | null, "count": ...}, ...],
 "notes": [...],
 "items": [{"key": ..., "category": ... | null, "scores": {metric: number | null}, ...}, ...],
 "evaluator": {"from": {...}, ...}, "seeds": {...}, "recipe": ..., "generation": ..., "checksums": ..., "versions": ...}
"""

import json
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from got_core.errors import UserError, one_line, parse_json
from got_core.evaluation.answers import LABELS
from got_core.evaluation.statistics import Interval, Stratum, overall_interval, stratum
from got_core.weights.files import write_whole

PACKAGES = ("got-framework", "torch", "torchvision", "lightning", "transformers", "diffusers", "torchmetrics", "numpy")
"""The distributions whose versions results name, this one first."""

RESULTS = "results.json"
"""The file that an evaluation writes."""

SETTINGS = "generation.json"
"""In a folder of images that were generated here: from what and how."""

OVERALL = "overall"
"""The name of the summary over all categories."""

DIGITS = 6
"""Digits after the point of numbers in `results.json`."""

SEED = 0
"""Of bootstrap intervals and of random signs."""

LISTED = 5
"""Entries of a list that are printed; all are in `results.json`."""

WIDEST = 10_000
"""Characters of a line that no table reaches."""

Better = Literal["higher", "lower"] | None
"""Which direction of a metric is better."""

Pooling = Literal["items", "groups", "categories"]
"""What the overall score is a mean of: all items, the means of groups of items, or the means of categories."""


def processor() -> str:
    """Return the processor's name where the system gives it, else its kind."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, object]:
    """Describe this machine as results do."""
    import torch  # `got compare` reads results without it.

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"system": platform.platform(), "processor": processor(), "cores": cores(), "gpus": gpus}


def versions() -> dict[str, str]:
    """Return the versions of `PACKAGES` that are installed."""
    return {name: version(name) for name in PACKAGES}


@dataclass(frozen=True)
class Item:
    """Something that was scored, such as a prompt with its images.

    Attributes:
        key: The same for the same item in other results.
        category: None in suites without categories.
        scores: By metric; None, or left out, where the item has no such score.
        weights: By metric, in summaries; 1 where left out.
        group: Of items that are not independent, such as cases of one scene; each is its own group by default.
        details: Whatever else `results.json` says of it.
    """

    key: str
    category: str | None
    scores: Mapping[str, float | None]
    weights: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """A metric over the items that have it.

    Attributes:
        mean: Over those items, or a value of the whole set that is no mean, such as FID.
        interval: 95% interval of it; None where there are too few items, or where all agree in a metric that is no
            fraction, which says nothing of other items.
        n: Number of items.
        extra: Whatever else is known, such as a p-value.
    """

    mean: float
    interval: Interval | None
    n: int
    extra: Mapping[str, Any] = field(default_factory=dict)


Scores = Mapping[str, Mapping[str, Summary]]
"""Summaries by category and metric, `OVERALL` last."""


@dataclass(frozen=True)
class Missing:
    """Images or other items that should be there and cannot be scored.

    Attributes:
        item: Its name or file.
        reason: What is wrong.
        category: Where it is known.
        count: How many images.
    """

    item: str
    reason: str
    category: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Results:
    """The outcome of a suite.

    Attributes:
        suite: Its name.
        metrics: With the direction that is better.
        items: What was scored.
        scores: Summaries by category.
        counts: Of images and the like.
        missing: What could not be scored.
        notes: What a reader should know of the scores.
        origin: What they come from: `evaluator`, `seeds`, `recipe`, `checksums` and so on; see `origin`.
        name: Of the file they were read from.
        answers: Summaries, as in `scores`, of trivial answers to the same requests and of the true one, by the names of
            `got_core.evaluation.answers`.
    """

    suite: str
    metrics: Mapping[str, Better]
    items: Sequence[Item]
    scores: Scores
    counts: Mapping[str, Any] = field(default_factory=dict)
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    answers: Mapping[str, Scores] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the content of `results.json`."""
        items = [
            {"key": item.key, "category": item.category, "scores": rounded(item.scores), **rounded(item.details)}
            for item in self.items
        ]
        return {
            "suite": self.suite,
            "metrics": dict(self.metrics),
            "scores": _scores_as_json(self.scores),
            "answers": {name: _scores_as_json(scores) for name, scores in self.answers.items()},
            "counts": dict(self.counts),
            "missing": [asdict(entry) for entry in self.missing],
            "notes": list(self.notes),
            "items": items,
            **self.origin,
        }

    def table(self, title: str) -> Table:
        """Return a table with a column for each category and a row for each metric: mean and 95% interval.

        Below a metric stand the means of the answers that have it.
        """
        missing = missing_by_category(self.missing)
        names = [*sorted(missing.keys() - self.scores.keys() - {OVERALL}), *self.scores]
        table = Table("metric", "better", title=title, title_justify="left")
        for name in names:
            table.add_column(name, justify="right")
        for metric, better in self.metrics.items():
            cells = [_cell(self.scores.get(name, {}).get(metric)) for name in names]
            if any(cells):
                table.add_row(metric, better or "", *(cell or "-" for cell in cells))
                for answer, label in LABELS.items():
                    scores = self.answers.get(answer, {})
                    own = [scores.get(name, {}).get(metric) for name in names]
                    if any(own):
                        table.add_row(f"  {label}", "", *("-" if entry is None else shown(entry.mean) for entry in own))
        sizes = [max((entry.n for entry in self.scores.get(name, {}).values()), default=0) for name in names]
        table.add_row("items", "", *map(str, sizes))
        if self.missing:
            table.add_row("missing", "", *(str(missing.get(name, 0)) for name in names))
        return table

    def publish(self, folder: Path, title: str) -> None:
        """Write `results.json` into a folder; print the table, the notes and the first missing items.

        Raises:
            UserError: It cannot be written.
        """
        write_results(folder / RESULTS, self.as_json())
        print_table(self.table(title))
        missing = [f"{entry.item}: {entry.reason}" for entry in self.missing]
        for kind, lines in (("note", self.notes), ("missing", missing)):
            for line in lines[:LISTED]:
                print(f"{kind}: {line}")
            if len(lines) > LISTED:
                print(f"{kind}: {len(lines) - LISTED} more, all of them in {RESULTS}")
        print(f"written: {folder / RESULTS}")


def _scores_as_json(scores: Scores) -> dict[str, Any]:
    return {
        category: {
            name: rounded({"mean": entry.mean, "interval": entry.interval, "n": entry.n, **entry.extra})
            for name, entry in summaries.items()
        }
        for category, summaries in scores.items()
    }


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return ""
    lines = [shown(summary.mean)]
    if summary.interval is not None:
        lines.append(f"{shown(summary.interval[0])} to {shown(summary.interval[1])}")
    if "conclusion" in summary.extra:
        lines.append(f"p {summary.extra['p_value']:.4f}, {summary.extra['conclusion']}")
    return "\n".join(lines)


def shown(value: float, sign: str = "") -> str:
    """Return a number with three digits after the point, a small one with five; a `sign` of "+" is always shown."""
    return f"{value:{sign}.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:{sign}.5f}"


def missing_by_category(missing: Sequence[Missing]) -> dict[str, int]:
    """Count what could not be scored, by category where that is known, and overall."""
    counts: Counter[str] = Counter()
    for entry in missing:
        counts[OVERALL] += entry.count
        if entry.category is not None:
            counts[entry.category] += entry.count
    return dict(counts)


def rounded(value: Any) -> Any:
    """Return numbers rounded to `DIGITS`, however they are nested."""
    if isinstance(value, Mapping):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


def summarize(
    items: Sequence[Item], metrics: Collection[str], pooling: Pooling = "items", fractions: Collection[str] = ()
) -> dict[str, dict[str, Summary]]:
    """Return a summary of each metric for each category, and overall; the same for the same items.

    Args:
        items: What was scored.
        metrics: In the order of the table.
        pooling: What the overall score is a mean of. Its interval is over items or groups; over categories it is that
            of the stratified bootstrap, None where a category has none.
        fractions: Metrics in 0 to 1 whose interval is Wilson's where all items agree.
    """
    categories = {item.category: None for item in items if item.category is not None}
    parts = {name: [item for item in items if item.category == name] for name in categories}
    scores = {name: _summaries(own, metrics, fractions, SEED + i) for i, (name, own) in enumerate(parts.items())}
    if pooling == "categories":
        overall = {metric: _mean_of_categories(parts, metric) for metric in metrics}
        return {**scores, OVERALL: {metric: entry for metric, entry in overall.items() if entry is not None}}
    whole = items if pooling == "items" else _grouped(items, metrics)
    return {**scores, OVERALL: _summaries(whole, metrics, fractions, SEED)}


def _summaries(
    items: Sequence[Item], metrics: Collection[str], fractions: Collection[str], seed: int
) -> dict[str, Summary]:
    summaries = {}
    for metric in metrics:
        part = _stratum(items, metric, seed)
        if part is not None:
            span = None if part.agree and metric not in fractions else part.interval
            summaries[metric] = Summary(part.mean, span, part.items)
    return summaries


def _stratum(items: Sequence[Item], metric: str, seed: int) -> Stratum | None:
    """A metric over the items that have it; None where none has."""
    scored = [item for item in items if item.scores.get(metric) is not None]
    weights = [item.weights.get(metric, 1.0) for item in scored]
    return stratum([item.scores[metric] or 0.0 for item in scored], weights, seed) if scored else None


def _mean_of_categories(parts: Mapping[str, Sequence[Item]], metric: str) -> Summary | None:
    """The plain mean of the categories' means; None unless every category has one."""
    strata: dict[str, Stratum] = {}
    for index, (name, items) in enumerate(parts.items()):
        part = _stratum(items, metric, SEED + index)
        if part is None:
            return None
        strata[name] = part
    mean = sum(part.mean for part in strata.values()) / len(strata)
    return Summary(mean, overall_interval(strata), sum(part.items for part in strata.values()))


def _grouped(items: Sequence[Item], metrics: Collection[str]) -> list[Item]:
    """One item for each group, with the means of its items' scores."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.group or item.key, []).append(item)
    grouped = []
    for name, own in groups.items():
        values = {metric: [v for item in own if (v := item.scores.get(metric)) is not None] for metric in metrics}
        grouped.append(Item(name, None, {metric: float(np.mean(v)) for metric, v in values.items() if v}))
    return grouped


def origin(
    folder: Path, evaluator: Mapping[str, Any], checksums: Mapping[str, str], seeds: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return what results come from, as `results.json` holds it.

    Args:
        folder: What was scored; if its images were generated here, its `SETTINGS` are included.
        evaluator: Description of the evaluator.
        checksums: Of what was scored.
        seeds: Of scoring.
    """
    file = folder / SETTINGS
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    sums = {name: settings.pop(name) for name in ("checkpoint", "prompts") if name in settings}
    return {
        "evaluator": dict(evaluator),
        "seeds": {"generation": settings.pop("seed", None), **({"bootstrap": SEED} if seeds is None else seeds)},
        "recipe": settings.pop("recipe", None),
        "generation": settings or None,
        "checksums": {**sums, **checksums},
        "versions": versions(),
    }


def check_writable(folder: Path) -> None:
    """Check that files can be written into a folder before anything is scored; it is created if necessary.

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


def read_results(file: Path) -> Results:
    """Read results that can be compared: suite, metrics, items and what they come from.

    Raises:
        UserError: There is no such file, or it has no scores of items.
    """
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        items = [
            Item(
                str(entry["key"]),
                None if entry["category"] is None else str(entry["category"]),
                {name: None if value is None else float(value) for name, value in entry["scores"].items()},
            )
            for entry in content["items"]
        ]
        kinds: dict[str, Any] = {name: dict(content.get(name) or {}) for name in ("counts", "evaluator", "seeds")}
        metrics = dict(content["metrics"])
        return Results(content["suite"], metrics, items, {}, kinds.pop("counts"), origin=kinds, name=str(file))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a results.json with scores of items ({type(error).__name__})") from error


def print_table(table: Table) -> None:
    """Print a table as wide as it is; in a narrower terminal its cells are folded, and nothing is cut off."""
    console = Console()
    for column in table.columns:
        column.overflow = "fold"
    if not console.is_terminal:
        natural = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
        console.width = max(console.width, natural)
    console.print(table)
