"""Two results of a suite held against each other, item by item."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from rich.table import Table

from got_core.errors import UserError
from got_core.evaluation.results import OVERALL, Better, Key, SuiteResults
from got_core.evaluation.statistics import (
    AGREE,
    FEWEST,
    SIGNIFICANT,
    Interval,
    chance,
    holm,
    interval,
    resampled,
    stratified,
)

UNNAMED = "(no category)"
"""Stands for the category of items that have none, where others do."""


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the second result is than the first on the items of both.

    Attributes:
        first, second: Their scores; overall the plain means of the categories.
        interval: 95% bootstrap interval of second - first, over items; None for fewer than `FEWEST` items, or where
            all differ alike, which says nothing of others.
        chance: How likely such a difference is by chance, corrected for how many were tested.
        items: How many both have.
        smallest: How many there are in the smallest category.
    """

    first: float
    second: float
    interval: Interval | None
    chance: float
    items: int
    smallest: int

    def verdict(self, better: Better) -> str:
        """Whether the difference is more than chance, and if so what it means."""
        if self.smallest < FEWEST:
            return "too few items"
        if self.chance >= SIGNIFICANT:
            return "not significant"
        if better is None:
            return "significant"
        return f"significant: {'B' if (self.second > self.first) == (better == 'higher') else 'A'} is better"


Differences = dict[str, dict[str, PairedDifference]]
"""By figure and category, `OVERALL` last."""


def differences(first: SuiteResults, second: SuiteResults, seed: int = 0) -> Differences:
    """Paired differences over the items that both have; the same for a seed.

    Chances are corrected for their number (Holm): those of categories among themselves, and those overall.

    Raises:
        UserError: The results are of different suites, or have no scored item in common.
    """
    if first.suite != second.suite:
        raise UserError(f"{first.name} is of suite {first.suite}, {second.name} of {second.suite}: nothing to compare")
    found = {}
    for figure in first.figures:
        if shared := _shared(first, second, figure):
            found[figure] = _by_category(first, second, figure, shared, seed)
    if not found:
        raise UserError(
            f"{first.name} and {second.name} have no scored item in common ({len(first.items)} and {len(second.items)})"
        )
    return _corrected(found)


def difference_table(
    found: Mapping[str, PairedDifference], first: SuiteResults, second: SuiteResults, figure: str, judged_alike: bool
) -> Table:
    """Differences in a figure for people to read; without verdicts where other judges gave the scores."""
    better = first.figures[figure]
    title = f"{figure}{f' ({better} is better)' if better else ''}\nA: {first.name}\nB: {second.name}"
    table = Table("category", title=title, title_justify="left")
    for heading in ("items", "A", "B", "B - A", "95% interval", "by chance", "difference"):
        table.add_column(heading, justify="right")
    for name, entry in found.items():
        figures = (f"{entry.first:.3f}", f"{entry.second:.3f}", f"{entry.second - entry.first:+.3f}")
        span = "-" if entry.interval is None else f"{entry.interval[0]:+.3f} to {entry.interval[1]:+.3f}"
        verdict = entry.verdict(better) if judged_alike else "judged otherwise"
        table.add_row(name, str(entry.items), *figures, span, f"{entry.chance:.4f}", verdict)
    return table


def what_differs(first: SuiteResults, second: SuiteResults) -> Iterator[str]:
    """What else differs between two results than their scores, one line each."""
    for kind, of_first, of_second in (
        ("judge", first.judge or {}, second.judge or {}),
        ("counts", first.counts, second.counts),
        ("seeds", first.seeds, second.seeds),
    ):
        for name in sorted(of_first.keys() | of_second.keys()):
            one, other = of_first.get(name), of_second.get(name)
            if one != other:
                yield f"{kind}, {name}: A {_short(one)}, B {_short(other)}"


def _short(value: object, most: int = 80) -> str:
    text = str(value)
    return text if len(text) <= most else text[:most] + " ..."


def _shared(first: SuiteResults, second: SuiteResults, figure: str) -> list[Key]:
    """Items that have a figure in both."""
    both = first.items.keys() & second.items.keys()
    scored = (first, second)
    return sorted(key for key in both if all(results.items[key].get(figure) is not None for results in scored))


def _by_category(
    first: SuiteResults, second: SuiteResults, figure: str, shared: Sequence[Key], seed: int
) -> dict[str, PairedDifference]:
    found: dict[str, PairedDifference] = {}
    gaps: dict[str, Float[ndarray, " items"]] = {}
    means: dict[str, Float[ndarray, " draws"]] = {}
    for place, category in enumerate(sorted({key[0] for key in shared})):
        keys = [key for key in shared if key[0] == category]
        pairs = np.array([[results.items[key][figure] for key in keys] for results in (first, second)], dtype=float)
        name = category or UNNAMED
        gaps[name] = pairs[1] - pairs[0]
        means[name] = resampled(gaps[name], np.ones(len(keys)), seed + place)
        span = _interval(means[name], gaps[name], len(keys))
        one, other = (float(mean) for mean in pairs.mean(axis=1))
        found[name] = PairedDifference(one, other, span, chance([gaps[name]], seed + place), len(keys), len(keys))
    parts, smallest = list(found.values()), min(map(len, gaps.values()))
    overall = PairedDifference(
        first=float(np.mean([part.first for part in parts])),
        second=float(np.mean([part.second for part in parts])),
        interval=_interval(stratified(means), np.concatenate(list(gaps.values())), smallest),
        chance=chance(list(gaps.values()), seed),
        items=len(shared),
        smallest=smallest,
    )
    return {OVERALL: overall} if list(found) == [UNNAMED] else {**found, OVERALL: overall}


def _interval(means: Float[ndarray, " draws"], gaps: Float[ndarray, " items"], smallest: int) -> Interval | None:
    return None if smallest < FEWEST or np.ptp(gaps) <= AGREE else interval(means)


def _corrected(found: Differences) -> Differences:
    """The same with chances that count how many differences were tested."""
    places = [(figure, name) for figure, parts in found.items() for name in parts]
    for family in ([place for place in places if (place[1] == OVERALL) == overall] for overall in (True, False)):
        adjusted = holm([found[figure][name].chance for figure, name in family])
        for (figure, name), value in zip(family, adjusted, strict=True):
            found[figure][name] = replace(found[figure][name], chance=value)
    return found
