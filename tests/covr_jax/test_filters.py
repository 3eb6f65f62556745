"""The filters of COVR's Table 5 against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from covr_jax import eddf, filters
from covr_jax.config import EddfConfig, RoundsConfig
from covr_jax.covr_rounds import Rounds

TEN = np.arange(10.0)[::-1]  # 9, 8, ... 0
SKEWED = np.random.default_rng(0).gamma(2.0, size=500)


def kept(scores, entropy=0.0, seed=0, **fields):
    config = dataclasses.replace(EddfConfig(minimum=0), **fields)
    return filters.select(scores, entropy, config, np.random.default_rng(seed))


@pytest.mark.parametrize(
    ("percentile", "keep_top", "tau", "best"),
    # Linear interpolation: the p-th percentile of 0 ... 9 is 9 p / 100.
    [(80, False, 7.2, 2), (90, False, 8.1, 1), (95, False, 8.55, 1), (80, True, 1.8, 8), (90, True, 0.9, 9)],
)
def test_fixed_percentiles(percentile, keep_top, tau, best):
    keep, threshold = kept(TEN, filter="percentile", percentile=percentile, keep_top=keep_top)
    assert threshold == pytest.approx(tau)
    assert keep.tolist() == [i < best for i in range(10)]


def test_the_random_filter_keeps_as_many_as_eddf_and_not_the_same():
    own, tau = kept(SKEWED)
    drawn, shown = kept(SKEWED, filter="random")
    assert drawn.sum() == own.sum() > 0 and shown == tau
    assert not np.array_equal(drawn, own)
    assert np.array_equal(drawn, kept(SKEWED, filter="random")[0])
    assert not np.array_equal(drawn, kept(SKEWED, filter="random", seed=1)[0])
    share = np.mean([kept(SKEWED, filter="random", seed=seed)[0] for seed in range(400)], axis=0)
    np.testing.assert_allclose(share, own.mean(), atol=0.12)  # 5 standard errors: every step alike


@pytest.mark.parametrize("rule", eddf.RULES)
def test_without_z_score_the_same_steps_are_kept(rule):
    """M5 is a no-op when like is held against like (C4)."""
    for entropy in (-2.0, 0.0, 0.7):
        for scores in (SKEWED, 300 + 50 * SKEWED, -TEN):
            with_score, without = (kept(scores, entropy, rule=rule, zscore=z)[0] for z in (True, False))
            np.testing.assert_array_equal(with_score, without)


def test_the_threshold_without_z_score_is_in_reward_units():
    # Median 3, quartiles 2 and 4, sigmoid(-ln 2) = 1/3.
    scores = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    keep, tau = kept(scores, math.log(2), zscore=False)
    assert tau == pytest.approx(3 + 2 / 3) and keep.tolist() == [False, False, False, True, True]


def test_another_score_than_the_return_decides_who_is_kept():
    rounds = Rounds(RoundsConfig(eddf=EddfConfig(minimum=0)), discount=1.0, action_dim=1)
    for i in range(40):
        rounds.memory.step(i, 1.0, {})  # returns 40, 39, ...
    rounds.memory.close_episode()
    filtered = rounds.filter(0.0, score=lambda ids: ids.astype(float))
    # Median 19.5, IQR 19.5, half of it more: above 29.25.
    assert np.flatnonzero(filtered.keep).tolist() == list(range(30, 40))
    assert filtered.steps.returns[0] == 40.0


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="allowed: eddf, random, percentile"):
        kept(TEN, filter="best")
