"""Bootstrap intervals of means, sign-flip and t tests of paired differences, and Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist, fmean

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import bootstrap, permutation_test, ttest_1samp

DRAWS = 10_000
"""Resamples of a bootstrap, and random signs of a test."""

LEVEL = 0.95
"""Fraction of the draws that an interval holds."""

FEWEST = 20
"""With fewer items than this, resampling says too little: no interval is given."""

NUMBERS_AT_ONCE = 2**20
"""Random numbers that are generated together, which bounds the memory of a bootstrap or a test."""

AGREE = 1e-9
"""Values that differ by no more than this are the same."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Stratum:
    """A category's mean with its bootstrap distribution.

    Attributes:
        mean: Over its items, weighted.
        means: Of the bootstrap's draws.
        items: How many there are.
        agree: Whether all have the same value.
    """

    mean: float
    means: Float[ndarray, " draws"]
    items: int
    agree: bool

    @property
    def interval(self) -> Interval | None:
        """95% interval of a mean of values in 0 to 1; None for fewer than `FEWEST` items."""
        if self.items < FEWEST:
            return None
        return wilson(self.mean, self.items) if self.agree else interval(self.means)


def stratum(values: Sequence[float], weights: Sequence[float], seed: int) -> Stratum:
    """Return a category from the values of its items and their weights; the same for a seed.

    Raises:
        ValueError: No item, or one without weight.
    """
    own, heavy = np.array(values, dtype=np.float64), np.array(weights, dtype=np.float64)
    means = resampled(own, heavy, seed)
    return Stratum(float((own * heavy).sum() / heavy.sum()), means, len(own), bool(np.ptp(own) <= AGREE))


def resampled(
    values: Float[ndarray, " p"], weights: Float[ndarray, " p"], seed: int, draws: int = DRAWS
) -> Float[ndarray, " draws"]:
    """Return weighted means of the bootstrap's resamples (`scipy.stats.bootstrap`); the same for a seed.

    Raises:
        ValueError: No item, or one without weight.
    """
    if not len(values) or not (weights > 0).all():
        raise ValueError(f"{len(values)} items: a bootstrap needs at least one, each of a positive weight")
    if len(values) == 1:
        return np.full(draws, values[0], dtype=np.float64)
    result = bootstrap(
        (values, weights),
        lambda value, weight, axis: np.average(value, weights=weight, axis=axis),
        paired=True,
        n_resamples=draws,
        batch=_batch(len(values)),
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.asarray(result.bootstrap_distribution)


def _batch(items: int) -> int:
    """Return the number of resamples that are generated together."""
    return max(1, NUMBERS_AT_ONCE // items)


def interval(means: Float[ndarray, " draws"], level: float = LEVEL) -> Interval:
    """Return the percentiles between which a fraction `level` of the means lies."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def stratified(means: Mapping[str, Float[ndarray, " draws"]]) -> Float[ndarray, " draws"]:
    """Return the plain mean over categories of each draw; each category is resampled on its own."""
    return np.stack(list(means.values())).mean(axis=0)


def overall_interval(strata: Mapping[str, Stratum]) -> Interval | None:
    """Return the 95% interval of the plain mean over categories; None where a category has none.

    That of the stratified bootstrap, widened by the intervals of the categories whose items agree: squared distances
    from the means add up (Zou and Donner, "Construction of confidence limits about effect measures", 2008).
    """
    if any(part.interval is None for part in strata.values()):
        return None
    middle = sum(part.mean for part in strata.values()) / len(strata)
    low, high = interval(stratified({name: part.means for name, part in strata.items()}))
    below, above = middle - low, high - middle
    for part in strata.values():
        if part.agree and part.interval is not None:
            below = hypot(below, (part.mean - part.interval[0]) / len(strata))
            above = hypot(above, (part.interval[1] - part.mean) / len(strata))
    return middle - below, middle + above


def wilson(fraction: float, number: int, level: float = LEVEL) -> Interval:
    """Return Wilson's score interval of a fraction of `number` yes-or-no answers."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (fraction + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z * sqrt(fraction * (1 - fraction) / number + z**2 / (4 * number**2)) / (1 + z**2 / number)
    return max(middle - half, 0.0), min(middle + half, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: Of the values.
        low, high: The interval; None where the values do not differ, as a single one does not.
        number: How many values there were.
        chance: P-value of Student's t test that the mean is zero, two-sided; None where there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    number: int
    chance: float | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Return mean and Student's t interval of independent values; None where there are none.

    Values that are all the same have no interval: fractions of few samples often are, which says nothing of spread.

    The interval takes the values as draws of a normal distribution and says nothing of the samples they were scored
    on: it is about another seed.
    """
    if not values:
        return None
    mean, number = fmean(values), len(values)
    if max(values) - min(values) <= AGREE:
        return Estimate(mean, None, None, number, None)
    test = ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(LEVEL)
    return Estimate(mean, float(low), float(high), number, float(test.pvalue))


SIGNIFICANT = 0.05
"""P-value below which a difference is called significant."""

DECIMALS = 12
"""Decimals of a mean that are compared, so that equal means with other rounding errors are equal."""


def p_value(strata: Sequence[Float[ndarray, " _"]], seed: int) -> float:
    """Return the p-value of the sign-flip test: how likely a mean so far from zero is if signs are random; two-sided.

    The test of Fisher ("The Design of Experiments", 1935) by `scipy.stats.permutation_test`: with all signs where
    there are at most `DRAWS` ways to choose them, else with random ones. It holds for any number of differences.

    Args:
        strata: The differences, by category; what is tested is the plain mean of the categories' means.
        seed: Of the signs; the same for a seed.

    Raises:
        ValueError: A category without a difference.
    """
    if not strata or not all(len(differences) for differences in strata):
        raise ValueError("a test needs at least one difference in each category")
    weighted = np.concatenate([differences / len(differences) for differences in strata])
    moved = weighted[weighted != 0]
    if len(moved) < 2:
        return 1.0
    test = permutation_test(
        (moved,),
        lambda differences, axis: np.abs(differences.sum(axis=axis)).round(DECIMALS),
        permutation_type="samples",
        vectorized=True,
        n_resamples=DRAWS,
        batch=_batch(len(moved)),
        alternative="greater",
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of tests (Holm, 1979), in the same order."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
