"""A mean over seeds, its interval, and how likely chance alone would make it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from got_core.evaluation.bootstrap import AGREE, LEVEL


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        mean: Of the values.
        low, high: The interval; None where the values do not differ, as a single one does not.
        number: How many values there were.
        chance: How likely a mean so far from zero is if it were zero in truth (Student's t test, two-sided); None
            where there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    number: int
    chance: float | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's t interval of independent values; None where there are none.

    Values that are the same figure have no interval: shares of few samples often are, which says nothing of spread.

    The interval takes the values as draws of a normal distribution and says nothing of the samples they were scored
    on: it is about another seed.
    """
    if not values:
        return None
    mean, number = fmean(values), len(values)
    if max(values) - min(values) <= AGREE:
        return Estimate(mean, None, None, number, None)
    error = stdev(values) / number**0.5
    half = float(t.ppf((1 + LEVEL) / 2, number - 1)) * error
    return Estimate(mean, mean - half, mean + half, number, 2 * float(t.sf(abs(mean) / error, number - 1)))
