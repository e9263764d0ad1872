"""Bootstrap intervals of means, and of fractions that all items agree on."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from got_core.evaluation.statistics import FEWEST, interval, overall_interval, resampled, stratified, stratum, wilson


@pytest.mark.parametrize(("prompts", "right"), [(40, 14), (100, 90), (80, 3)])
def test_yes_or_no_prompts_give_the_quantiles_of_a_binomial(prompts, right):
    values = np.array([1.0] * right + [0.0] * (prompts - right))
    low, high = interval(resampled(values, np.ones(prompts), seed=1))
    expected = binom.ppf([0.025, 0.975], prompts, right / prompts) / prompts
    assert [low, high] == pytest.approx(expected, abs=1.01 / prompts)


def test_means_weigh_prompts_by_their_images():
    means = resampled(np.array([0.0, 1.0]), np.array([1.0, 3.0]), seed=2, draws=20_000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0, 0.75, 1]
    assert counts / len(means) == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def of(values, seed=0):
    return stratum(values, [1.0] * len(values), seed)


def test_items_that_agree_have_the_interval_of_their_number():
    """Wilson's interval for no right answer of n is 0 to z^2 / (n + z^2)."""
    z = norm.ppf(0.975)
    assert of([0.0] * 50).interval == pytest.approx((0, z**2 / (50 + z**2)))
    assert of([1.0] * 50).interval == pytest.approx((50 / (50 + z**2), 1))
    for right, number in ((3, 40), (20, 40)):
        expected = binomtest(right, number).proportion_ci(method="wilson")
        assert wilson(right / number, number) == pytest.approx((expected.low, expected.high))


def test_few_items_have_no_interval():
    varied = [0.0, 1.0] * FEWEST
    assert of(varied[: FEWEST - 1]).interval is None
    assert of(varied[:FEWEST]).interval is not None
    assert overall_interval({"one": of(varied), "few": of(varied[:2])}) is None


def test_a_rare_success_is_covered():
    """At a true fraction of .005, 100 prompts of four images often show none: the interval must still reach it."""
    rng = np.random.default_rng(0)
    covered = []
    for trial in range(60):
        low, high = of(list(rng.binomial(4, 0.005, 100) / 4), trial).interval
        covered.append(low <= 0.005 <= high)
    assert np.mean(covered) > 0.9


def test_overall_is_the_stratified_bootstrap_widened_by_categories_that_agree():
    varied = {"one": of([0.0, 1.0] * 20), "two": of([0.0, 1.0] * 20, 1)}
    assert overall_interval(varied) == pytest.approx(interval(stratified({k: v.means for k, v in varied.items()})))
    alike = of([1.0] * 40)
    assert overall_interval({"one": alike}) == pytest.approx(alike.interval)
    low, high = overall_interval({"one": varied["one"], "alike": alike})
    below = np.hypot(0.75 - np.quantile((varied["one"].means + 1) / 2, 0.025), (1 - alike.interval[0]) / 2)
    assert low == pytest.approx(0.75 - below)
    assert high == pytest.approx(np.quantile((varied["one"].means + 1) / 2, 0.975))


def test_a_seed_gives_the_same_interval_however_many_are_sampled_at_once(monkeypatch):
    values = np.linspace(0, 1, 7)
    first = resampled(values, np.ones(7), seed=3, draws=1001)
    assert len(first) == 1001
    assert (first == resampled(values, np.ones(7), seed=3, draws=1001)).all()
    assert (first != resampled(values, np.ones(7), seed=4, draws=1001)).any()
    monkeypatch.setattr("got_core.evaluation.statistics.NUMBERS_AT_ONCE", 70)
    assert (first == resampled(values, np.ones(7), seed=3, draws=1001)).all()


def test_categories_have_equal_weight_and_their_variances_add_up():
    halves = np.array([0.0, 1.0] * 20)
    one, two = (resampled(halves, np.ones(40), seed) for seed in (0, 1))
    both = stratified({"one": one, "two": two})
    assert both == pytest.approx((one + two) / 2)
    assert both.std() == pytest.approx(np.sqrt(0.25 / 40 / 2), rel=0.05)


def plain_means(values, weights, seed, draws=20_000):
    """The bootstrap in five lines of numpy."""
    rng = np.random.default_rng(seed)
    sampled = rng.integers(0, len(values), (draws, len(values)))
    return (values * weights)[sampled].sum(axis=1) / weights[sampled].sum(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_those_of_a_plain_bootstrap(seed):
    """The ends differ by no more than the Monte Carlo error of two quantiles; weights count as they should."""
    rng = np.random.default_rng(seed)
    values, weights = rng.gamma(2.0, 1.0, 60), rng.integers(1, 5, 60).astype(float)
    means, expected = resampled(values, weights, seed), plain_means(values, weights, seed + 100)
    spread = expected.std()
    for quantile in (0.025, 0.975):
        error = np.sqrt(quantile * (1 - quantile) / len(means)) * spread / norm.pdf(norm.ppf(quantile))
        assert np.quantile(means, quantile) == pytest.approx(np.quantile(expected, quantile), abs=5 * error)


def test_one_item_and_equal_items_have_means_without_spread():
    assert (resampled(np.array([0.3]), np.ones(1), seed=0, draws=7) == 0.3).all()
    alike = resampled(np.full(30, 0.25), np.arange(1.0, 31), seed=0)
    assert alike == pytest.approx(np.full(len(alike), 0.25))
    assert of([0.3]).mean == 0.3
    assert of([0.3]).interval is None


@pytest.mark.parametrize(("values", "weights"), [([], []), ([1.0, 0.0], [1.0, 0.0])])
def test_there_must_be_prompts_with_images(values, weights):
    with pytest.raises(ValueError, match="at least one"):
        resampled(np.array(values), np.array(weights), seed=0)
