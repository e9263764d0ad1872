"""The sign-flip test and Holm's correction."""

import itertools

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from got_core.evaluation.statistics import DRAWS, SIGNIFICANT, holm, p_value


def exact(strata):
    """The p-value over all choices of signs."""
    weighted = np.concatenate([values / len(values) for values in strata])
    found = abs(weighted.sum()) - 1e-12
    every = np.array(list(itertools.product((-1, 1), repeat=len(weighted))))
    return np.mean(np.abs(every @ weighted) >= found)


@pytest.mark.parametrize("seed", range(4))
def test_p_values_are_those_of_all_choices_of_signs(seed):
    rng = np.random.default_rng(seed)
    strata = [rng.normal(0.4, 1, 6), rng.normal(0.4, 1, 5)]
    assert p_value(strata, seed) == pytest.approx(exact(strata))
    assert p_value(strata[:1], seed) == pytest.approx(exact(strata[:1]))


@pytest.mark.parametrize("seed", range(4))
def test_random_signs_come_close_to_all_choices(seed):
    rng = np.random.default_rng(seed)
    strata = [rng.normal(0.4, 1, 8), rng.normal(0.4, 1, 8)]
    expected = exact(strata)
    assert p_value(strata, seed) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / DRAWS) ** 0.5)
    assert p_value(strata, seed) == p_value(strata, seed)


def test_means_that_differ_by_rounding_alone_are_equal():
    """.1 + .2 - .3 is 6e-17 in floating point; no choice of signs gives a smaller mean."""
    assert p_value([np.array([0.1, 0.2, -0.3])], 0) == 1
    thirds = [np.full(3, 1 / 3), np.full(7, -1 / 7), np.array([0.25, -0.5])]
    assert p_value(thirds, 0) == pytest.approx(exact(thirds))


def test_no_difference_has_p_value_one_and_few_cannot_be_significant():
    assert p_value([np.zeros(40)], 0) == 1
    assert p_value([np.array([0.7])], 0) == 1
    assert p_value([np.ones(5)], 0) == 2 / 2**5
    assert p_value([np.ones(5), np.zeros(10)], 0) > SIGNIFICANT
    assert p_value([np.ones(20)], 0) < 0.001
    with pytest.raises(ValueError, match="at least one difference"):
        p_value([np.ones(3), np.ones(0)], 0)


def test_noise_in_six_small_categories_is_seldom_called_significant():
    rng = np.random.default_rng(1)
    called = [
        p_value([(rng.integers(0, 5, 20) - rng.integers(0, 5, 20)) / 4 for _ in range(6)], trial) < SIGNIFICANT
        for trial in range(50)
    ]
    assert np.mean(called) < 0.12


def test_holm_multiplies_the_smallest_by_their_number():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    p_values = np.random.default_rng(0).random(20) ** 3
    assert (np.array(holm(list(p_values))) >= false_discovery_control(p_values)).all()
