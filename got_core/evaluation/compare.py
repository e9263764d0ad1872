"""Compares two results of a suite, item by item: paired differences with intervals and tests."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.table import Table

from got_core.detection.base import FROM
from got_core.errors import UserError
from got_core.evaluation.results import OVERALL, SEED, Better, Results, shown
from got_core.evaluation.statistics import (
    AGREE,
    FEWEST,
    SIGNIFICANT,
    Interval,
    holm,
    interval,
    p_value,
    resampled,
    stratified,
)

UNNAMED = "(no category)"
"""Stands for the category of items that have none, where others do."""

SHOWN = 80
"""Characters of a value that `what_differs` shows."""

Key = tuple[str, str, int]
"""Category and key of an item, and how many items before it in the same file have the same two."""


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the second result is than the first on the items of both.

    Attributes:
        first, second: Their means; overall the plain means of the categories.
        interval: 95% bootstrap interval of second - first, over items; None for fewer than `FEWEST` items, or where
            all differences agree, which says nothing of other items.
        p_value: Of the sign-flip test, corrected for the number of tests.
        items: How many both have.
        smallest: How many there are in the smallest category.
    """

    first: float
    second: float
    interval: Interval | None
    p_value: float
    items: int
    smallest: int

    def conclusion(self, better: Better) -> str:
        """Say whether the difference is significant, and if so which result is better."""
        if self.smallest < FEWEST:
            return "too few items"
        if self.p_value >= SIGNIFICANT:
            return "not significant"
        if better is None:
            return "significant"
        return f"significant: {'B' if (self.second > self.first) == (better == 'higher') else 'A'} is better"


Differences = dict[str, dict[str, PairedDifference]]
"""By metric and category, `OVERALL` last."""


def differences(first: Results, second: Results) -> Differences:
    """Return paired differences over the items that both have; the same for the same results.

    P-values are corrected for their number (Holm): those of categories among themselves, and those overall.

    Raises:
        UserError: The results are of different suites, or have no scored item in common.
    """
    if first.suite != second.suite:
        raise UserError(f"{first.name} is of suite {first.suite}, {second.name} of {second.suite}: nothing to compare")
    scores = [_keyed(results) for results in (first, second)]
    common = sorted(scores[0].keys() & scores[1].keys())
    found: Differences = {}
    for metric in first.metrics:
        pairs = {key: (scores[0][key].get(metric), scores[1][key].get(metric)) for key in common}
        pairs = {key: pair for key, pair in pairs.items() if None not in pair}
        if pairs:
            found[metric] = _by_category(pairs)
    if not found:
        raise UserError(
            f"{first.name} and {second.name} have no scored item in common ({len(first.items)} and {len(second.items)})"
        )
    return _corrected(found)


def same_evaluator(first: Results, second: Results) -> bool:
    """Whether both were scored by the same evaluator, wherever it was loaded from."""
    return _evaluator(first) == _evaluator(second)


def difference_table(
    found: Mapping[str, PairedDifference], first: Results, second: Results, metric: str, comparable: bool
) -> Table:
    """Return a table of the differences in a metric; without conclusions where the evaluators differ."""
    better = first.metrics[metric]
    title = f"{metric}{f' ({better} is better)' if better else ''}\nA: {first.name}\nB: {second.name}"
    table = Table("category", title=title, title_justify="left")
    for heading in ("items", "A", "B", "B - A", "95% interval", "p-value", "difference"):
        table.add_column(heading, justify="right")
    for name, entry in found.items():
        means = (shown(entry.first), shown(entry.second), shown(entry.second - entry.first, "+"))
        span = "-" if entry.interval is None else " to ".join(shown(end, "+") for end in entry.interval)
        conclusion = entry.conclusion(better) if comparable else "different evaluators"
        table.add_row(name, str(entry.items), *means, span, f"{entry.p_value:.4f}", conclusion)
    return table


def what_differs(first: Results, second: Results) -> Iterator[str]:
    """Yield what else differs between two results than their scores, one line each."""
    for kind, of_first, of_second in (
        ("evaluator", _evaluator(first), _evaluator(second)),
        ("counts", first.counts, second.counts),
        ("seeds", first.origin["seeds"], second.origin["seeds"]),
    ):
        for name in sorted(of_first.keys() | of_second.keys()):
            one, other = of_first.get(name), of_second.get(name)
            if one != other:
                yield f"{kind}, {name}: A {_short(one)}, B {_short(other)}"


def _evaluator(results: Results) -> dict[str, object]:
    return {name: value for name, value in results.origin["evaluator"].items() if name != FROM}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."


def _keyed(results: Results) -> dict[Key, Mapping[str, float | None]]:
    counts: Counter[tuple[str, str]] = Counter()
    scores: dict[Key, Mapping[str, float | None]] = {}
    for item in results.items:
        pair = item.category or "", item.key
        scores[*pair, counts[pair]] = item.scores
        counts[pair] += 1
    return scores


def _by_category(pairs: Mapping[Key, tuple[float | None, float | None]]) -> dict[str, PairedDifference]:
    found: dict[str, PairedDifference] = {}
    gaps: dict[str, Float[ndarray, " items"]] = {}
    means: dict[str, Float[ndarray, " draws"]] = {}
    for index, category in enumerate(sorted({key[0] for key in pairs})):
        own = np.array([pair for key, pair in pairs.items() if key[0] == category], dtype=float)
        name, seed = category or UNNAMED, SEED + index
        gaps[name] = own[:, 1] - own[:, 0]
        means[name] = resampled(gaps[name], np.ones(len(own)), seed)
        span = _interval(means[name], gaps[name], len(own))
        first, second = own.mean(axis=0).tolist()
        found[name] = PairedDifference(first, second, span, p_value([gaps[name]], seed), len(own), len(own))
    parts, smallest = list(found.values()), min(map(len, gaps.values()))
    overall = PairedDifference(
        first=float(np.mean([part.first for part in parts])),
        second=float(np.mean([part.second for part in parts])),
        interval=_interval(stratified(means), np.concatenate(list(gaps.values())), smallest),
        p_value=p_value(list(gaps.values()), SEED),
        items=len(pairs),
        smallest=smallest,
    )
    return {OVERALL: overall} if list(found) == [UNNAMED] else {**found, OVERALL: overall}


def _interval(means: Float[ndarray, " draws"], gaps: Float[ndarray, " items"], smallest: int) -> Interval | None:
    return None if smallest < FEWEST or np.ptp(gaps) <= AGREE else interval(means)


def _corrected(found: Differences) -> Differences:
    """The same with p-values that are corrected for the number of tests."""
    tests = [(metric, name) for metric, parts in found.items() for name in parts]
    for family in ([test for test in tests if (test[1] == OVERALL) == overall] for overall in (True, False)):
        adjusted = holm([found[metric][name].p_value for metric, name in family])
        for (metric, name), value in zip(family, adjusted, strict=True):
            found[metric][name] = replace(found[metric][name], p_value=value)
    return found
