import itertools

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from got_core.evaluation.statistics import DRAWS, SIGNIFICANT, chance, holm


def exact(strata):
    """Every way that the signs can fall."""
    weighted = np.concatenate([values / len(values) for values in strata])
    found = abs(weighted.sum()) - 1e-12
    every = np.array(list(itertools.product((-1, 1), repeat=len(weighted))))
    return np.mean(np.abs(every @ weighted) >= found)


@pytest.mark.parametrize("seed", range(4))
def test_chances_are_those_of_every_way_that_signs_can_fall(seed):
    rng = np.random.default_rng(seed)
    strata = [rng.normal(0.4, 1, 6), rng.normal(0.4, 1, 5)]
    assert chance(strata, seed) == pytest.approx(exact(strata))
    assert chance(strata[:1], seed) == pytest.approx(exact(strata[:1]))


@pytest.mark.parametrize("seed", range(4))
def test_random_signs_come_close_to_every_way(seed):
    rng = np.random.default_rng(seed)
    strata = [rng.normal(0.4, 1, 8), rng.normal(0.4, 1, 8)]
    expected = exact(strata)
    assert chance(strata, seed) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / DRAWS) ** 0.5)
    assert chance(strata, seed) == chance(strata, seed)


def test_means_that_differ_by_rounding_alone_are_equal():
    """.1 + .2 - .3 is 6e-17 in floating point; no choice of signs gives a smaller mean."""
    assert chance([np.array([0.1, 0.2, -0.3])], 0) == 1
    thirds = [np.full(3, 1 / 3), np.full(7, -1 / 7), np.array([0.25, -0.5])]
    assert chance(thirds, 0) == pytest.approx(exact(thirds))


def test_no_difference_is_sure_to_be_chance_and_few_cannot_be_significant():
    assert chance([np.zeros(40)], 0) == 1
    assert chance([np.array([0.7])], 0) == 1
    assert chance([np.ones(5)], 0) == 2 / 2**5
    assert chance([np.ones(5), np.zeros(10)], 0) > SIGNIFICANT
    assert chance([np.ones(20)], 0) < 0.001
    with pytest.raises(ValueError, match="at least one difference"):
        chance([np.ones(3), np.ones(0)], 0)


def test_noise_in_six_small_categories_is_seldom_called_significant():
    rng = np.random.default_rng(1)
    called = [
        chance([(rng.integers(0, 5, 20) - rng.integers(0, 5, 20)) / 4 for _ in range(6)], trial) < SIGNIFICANT
        for trial in range(50)
    ]
    assert np.mean(called) < 0.12


def test_holm_multiplies_the_smallest_by_their_number():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    chances = np.random.default_rng(0).random(20) ** 3
    assert (np.array(holm(list(chances))) >= false_discovery_control(chances)).all()
