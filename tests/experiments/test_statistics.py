"""Hand-worked statistics, and a slow check that 95 % intervals hold the truth in 95 % of all draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from experiments import statistics


def test_mean_std_by_hand():
    assert statistics.mean_std([1.0, 3.0, math.nan]) == (2.0, pytest.approx(math.sqrt(2)), 2)
    mean, deviation, count = statistics.mean_std([4.0])
    assert (mean, count) == (4.0, 1) and math.isnan(deviation)


def test_mean_interval_by_hand():
    # Mean 2, sample deviation 1, t(0.975; 2) = 4.302653 from the table: half width 4.302653 / sqrt(3).
    assert statistics.mean_interval([1, 2, 3]) == pytest.approx((2, 2 - 2.484138, 2 + 2.484138), abs=1e-5)
    estimate, low, high = statistics.mean_interval([7.0])
    assert estimate == 7 and math.isnan(low) and math.isnan(high)
    assert statistics.mean_interval([1, 2, 3]).minus(10).low == pytest.approx(-8 - 2.484138, abs=1e-5)


def test_difference_by_hand():
    # Equal spreads and sizes: Welch's freedom is 4, t(0.975; 4) = 2.776445, standard error sqrt(1/3 + 1/3).
    half = 2.776445 * math.sqrt(2 / 3)
    found = statistics.difference_interval([11, 12, 13], [1, 2, 3])
    assert found == pytest.approx((10, 10 - half, 10 + half), abs=1e-5)
    # Spreads 2 and 0: all freedom is that of the first group, t(0.975; 1) = 12.706205, standard error 1.
    assert statistics.difference_interval([0, 2], [5, 5]) == pytest.approx((-4, -16.706205, 8.706205), abs=1e-5)
    assert math.isnan(statistics.difference_interval([1, 2], [1]).low)
    assert statistics.difference_interval([3, 3], [1, 1]) == (2, 2, 2)


def test_iqm_by_hand():
    # Eight scores: two go at either end, 3, 4, 5 and 6 stay.
    assert statistics.iqm([np.array([8, 1, 3, 5]), np.array([2, 4, 6, 100])]) == 4.5
    # Five scores: one goes at either end. Three: none.
    assert statistics.iqm([np.array([0, 1, 2, 3, 50])]) == 2
    assert statistics.iqm([np.array([0, 1, 50])]) == 17
    np.testing.assert_array_equal(statistics.iqm([np.array([[0, 1, 2, 9], [4, 4, 4, 4]])]), [1.5, 4])


def test_profile_by_hand():
    tasks = [[0.1, 0.5], [0.2, 0.6, 0.7, 0.8]]
    # Above 0.5: none of two and three of four; equal is not above.
    found = statistics.profile(tasks, np.array([0.0, 0.5, 0.75]))
    np.testing.assert_allclose(found.estimate, [1, 0.375, 0.125])
    # Wilson for 10 of 10: from 1 / (1 + 1.96^2 / 10) to 1.
    ten = statistics.profile([np.arange(1, 6), np.arange(1, 6)], np.array([0.0]))
    assert (ten.low[0], ten.high[0]) == pytest.approx((0.72247, 1.0), abs=1e-5)
    # Tasks of 2 and 4 seeds weigh the same: as uncertain as 4 / (1/2 + 1/4) = 5.33 seeds; 1 / (1 + 1.96^2 / 5.33).
    assert found.low[0] == pytest.approx(0.58131, abs=1e-5)


def test_probability_of_improvement_by_hand():
    # Task 1: 2 beats 1, ties 2, loses to 3: 1.5 of 3; 4 beats all: 4.5 of 6. Task 2: 0 of 4.
    found = statistics.probability_of_improvement([[2, 4], [0, 0]], [[1, 2, 3], [1, 1]])
    assert found.estimate == pytest.approx((0.75 + 0) / 2)
    assert 0 < found.low < found.estimate < found.high < 1


def test_probability_of_improvement_is_never_certain():
    # All nine comparisons won. The lower bound w solves 1 - w = 1.96 sqrt(w (1-w) (1 + 2 ((1-w)/(2-w) + w/(1+w))) / 9).
    found = statistics.probability_of_improvement([[7, 8, 9]], [[1, 2, 3]])
    assert found.estimate == found.high == 1
    w = found.low
    variance = w * (1 - w) * (1 + 2 * ((1 - w) / (2 - w) + w / (1 + w))) / 9
    assert (1 - w) / math.sqrt(variance) == pytest.approx(1.96, abs=2e-3)
    mirrored = statistics.probability_of_improvement([[1, 2, 3]], [[7, 8, 9]])
    assert mirrored.estimate == mirrored.low == 0 and mirrored.high == pytest.approx(1 - w)
    assert math.isnan(statistics.probability_of_improvement([[1]], [[1, 2]]).low)


def test_bootstrap_stays_within_tasks_and_leaves_one_out():
    """Of [0, 2] one seed is left out and the other drawn twice: means of 0 or 2, the unbiased standard error 1."""
    mean = lambda tasks: np.mean([scores.mean(axis=-1) for scores in tasks], axis=0)  # noqa: E731
    draws = statistics.bootstrap_draws([[0, 2]], mean, seed=3, draws=4000)
    assert set(draws) == {0, 2} and draws.std() == pytest.approx(1, abs=0.01)
    two = statistics.bootstrap_draws([[0, 2], [10, 10]], mean, seed=3, draws=4000)
    assert set(two) == {5, 6}
    # Freedom 2, t(0.975; 2) = 4.302653, standard error 0.5.
    found = statistics.bootstrap_interval([[0, 2], [10, 10]], mean, seed=3, draws=4000)
    assert found == pytest.approx((5.5, 5.5 - 2.151, 5.5 + 2.151), abs=0.03)
    assert found == statistics.bootstrap_interval([[0, 2], [10, 10]], mean, seed=3, draws=4000)
    assert found != statistics.bootstrap_interval([[0, 2], [10, 10]], mean, seed=4, draws=4000)
    assert math.isnan(statistics.bootstrap_interval([[0, 2], [10]], mean).low)


CENTRES = np.array([0.2, 0.35, 0.5, 0.6, 0.75, 0.9])
NORMAL_IQM = 0.5504  # of the mixture of six normals below, by its distribution function (see the next test)
TRIALS = 1000


def test_the_true_iqm_of_the_mixture():
    def cdf(x):
        return np.mean(stats.norm.cdf((x - CENTRES) / 0.1))

    grid = np.linspace(-0.5, 1.6, 200_001)
    share = np.mean(stats.norm.cdf((grid[:, None] - CENTRES) / 0.1), axis=1)
    inner = (share >= 0.25) & (share <= 0.75)
    density = np.mean(stats.norm.pdf((grid[inner, None] - CENTRES) / 0.1), axis=1) / 0.1
    assert np.trapezoid(grid[inner] * density, grid[inner]) * 2 == pytest.approx(NORMAL_IQM, abs=1e-3)
    assert cdf(NORMAL_IQM) == pytest.approx(0.5, abs=0.02)


def covered(trial, truth: float) -> float:
    """Share of TRIALS intervals that hold the truth."""
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(TRIALS):
        _, low, high = trial(rng)
        hits += low - 1e-9 <= truth <= high + 1e-9
    return hits / TRIALS


COVERAGE = {
    "mean, 3 seeds": (lambda rng: statistics.mean_interval(rng.normal(500, 80, 3)), 500),
    "mean, 5 seeds": (lambda rng: statistics.mean_interval(rng.normal(500, 80, 5)), 500),
    "difference, 5 and 3 seeds, unequal spread": (
        lambda rng: statistics.difference_interval(rng.normal(600, 120, 5), rng.normal(500, 60, 3)), 100),
    "IQM, 1 task, 10 seeds": (
        lambda rng: statistics.bootstrap_interval([rng.normal(0.5, 0.1, 10)], statistics.iqm, draws=500), 0.5),
    "IQM, 6 tasks, 3 seeds": (
        lambda rng: statistics.bootstrap_interval(
            rng.normal(CENTRES[:, None], 0.1, (6, 3)), statistics.iqm, draws=500), NORMAL_IQM),
    "IQM, 6 tasks, 5 seeds": (
        lambda rng: statistics.bootstrap_interval(
            rng.normal(CENTRES[:, None], 0.1, (6, 5)), statistics.iqm, draws=500), NORMAL_IQM),
    "improvement, 6 tasks, 5 seeds": (
        lambda rng: statistics.probability_of_improvement(rng.normal(0.7, 1, (6, 5)), rng.normal(0, 1, (6, 5))),
        stats.norm.cdf(0.7 / math.sqrt(2))),
    "improvement, 1 task, 10 seeds": (
        lambda rng: statistics.probability_of_improvement(rng.normal(0.7, 1, (1, 10)), rng.normal(0, 1, (1, 10))),
        stats.norm.cdf(0.7 / math.sqrt(2))),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", COVERAGE)
def test_intervals_hold_the_truth_in_95_percent(case):
    share = covered(*COVERAGE[case])
    print(f"{case}: {share:.3f}")
    assert 0.93 <= share <= 0.97


@pytest.mark.slow
def test_a_percentile_bootstrap_would_not():
    """Why the module has no percentile bootstrap: with three seeds it holds the truth in some 76 % of all draws."""

    def trial(rng):
        scores = rng.normal(500, 80, 3)
        means = scores[rng.integers(0, 3, (500, 3))].mean(axis=1)
        return scores.mean(), *np.percentile(means, [2.5, 97.5])

    assert covered(trial, 500) < 0.8
