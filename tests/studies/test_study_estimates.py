"""Means, intervals and corrected p-values over seeds, in closed form."""

import math

import numpy as np
import pytest

from got_core.evaluation.statistics import Estimate, estimate, holm

T_ONE, T_TWO = 12.706204736, 4.302652730
"""Student's t at 97.5% for one and for two degrees of freedom, from tables."""


def test_mean_and_interval_are_students():
    found = estimate([1.0, 2.0, 3.0])
    half = T_TWO * 1.0 / math.sqrt(3)
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    two = estimate([0.0, 1.0])
    assert (two.low, two.high) == pytest.approx((0.5 - T_ONE / 2, 0.5 + T_ONE / 2))


def test_one_value_has_no_interval_and_no_value_no_mean():
    assert estimate([0.5]) == Estimate(0.5, None, None, 1, None)
    assert estimate([]) is None


@pytest.mark.parametrize("values", [[0.03125] * 3, [0.1 + 0.2, 0.3, 0.3], [0, 0], [-0.5, -0.5]])
def test_values_that_agree_have_no_interval(values):
    found = estimate(values)
    assert (found.low, found.high, found.chance, found.number) == (None, None, None, len(values))
    assert found.mean == pytest.approx(values[-1])


@pytest.mark.parametrize(("values", "excludes"), [([1, 1.1, 0.9], True), ([-1, -1.1], True), ([-1, 1.1], False)])
def test_the_p_value_is_small_if_the_interval_excludes_zero(values, excludes):
    found = estimate(values)
    assert (not found.low <= 0 <= found.high) is (found.chance < 0.05) is excludes


def test_the_p_value_of_two_values_is_that_of_cauchys_distribution():
    """Student's t of one degree of freedom is Cauchy's: P(|T| > x) = 1 - 2 arctan(x) / pi."""
    found = estimate([0.0, 1.0])
    assert found.chance == pytest.approx(1 - 2 * math.atan(1.0) / math.pi)
    assert estimate([-1.0, 1.0]).chance == pytest.approx(1)


def test_the_interval_covers_the_mean_as_often_as_it_should():
    rng = np.random.default_rng(0)
    covered = [(found := estimate(list(rng.normal(0.3, 1, 3)))).low <= 0.3 <= found.high for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_p_values_are_corrected_in_their_order():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_corrected_p_values_are_rarely_small_without_a_difference():
    """Of studies of ten differences of pure noise, no more than one in twenty has any conclusion at all."""
    rng = np.random.default_rng(1)
    plain = [[estimate(list(rng.normal(0, 1, 3))).chance for _ in range(10)] for _ in range(1000)]
    assert np.mean([min(holm(chances)) < 0.05 for chances in plain]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([min(chances) < 0.05 for chances in plain]) > 0.3
