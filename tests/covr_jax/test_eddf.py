from __future__ import annotations

import math

import numpy as np
import pytest

from covr_jax import eddf

RETURNS = np.array([1.0, 2.0, 3.0, 4.0, 10.0])  # mean 4, population variance 10, median 3, quartiles 2 and 4


@pytest.mark.parametrize(("rule", "share"), [("intended", 1 / 3), ("literal", 2 / 3), ("relaxed", -2 / 3)])
def test_hand_worked_threshold(rule, share):
    """sigmoid(ln 2) = 2/3 and sigmoid(-ln 2) = 1/3; the IQR of the raw returns is 2."""
    tau = eddf.threshold(RETURNS, math.log(2), rule)
    assert tau == pytest.approx((3 + share * 2 - 4) / math.sqrt(10))
    kept = eddf.select(RETURNS, math.log(2), rule)
    np.testing.assert_array_equal(kept, RETURNS > 3 + share * 2)


def test_z_scores():
    np.testing.assert_allclose(eddf.z_scores(RETURNS), (RETURNS - 4) / math.sqrt(10), rtol=1e-7)
    np.testing.assert_array_equal(eddf.z_scores(np.array([7.0])), [0.0])


@pytest.mark.parametrize("rule", eddf.RULES)
@pytest.mark.parametrize("entropy", [-12.0, -1.0, 0.0, 0.7])
def test_standardising_changes_nothing(rule, entropy):
    """C4: the kept set is that of the raw returns against a threshold made of the raw returns."""
    for seed, scale in ((0, 1.0), (1, 200.0), (2, 0.01)):
        raw = scale * np.random.default_rng(seed).gamma(2.0, size=501) - scale
        weight = {"intended": 1 / (1 + np.exp(entropy)), "literal": 1 / (1 + np.exp(-entropy))}
        weight["relaxed"] = -weight["literal"]
        tau = np.median(raw) + weight[rule] * (np.quantile(raw, 0.75) - np.quantile(raw, 0.25))
        np.testing.assert_array_equal(eddf.select(raw, entropy, rule), raw > tau)


UNIFORM, AT_TARGET, RAD_START = math.log(2), -1.0, -2.58  # nats per action dimension


@pytest.mark.parametrize(
    ("per_dimension", "dimensions", "literal", "intended", "relaxed"),
    [
        (UNIFORM, 1, 18.4, 32.6, 81.6),
        (UNIFORM, 2, 14.0, 39.4, 86.0),
        (UNIFORM, 6, 9.2, 49.2, 90.8),
        (AT_TARGET, 1, 35.8, 16.2, 64.2),
        (AT_TARGET, 2, 43.6, 11.7, 56.4),
        (AT_TARGET, 6, 49.9, 8.9, 50.1),
        (RAD_START, 1, 46.2, 10.5, 53.8),
        (RAD_START, 2, 49.7, 9.0, 50.3),
        (RAD_START, 6, 50.0, 8.9, 50.0),
    ],
)
def test_kept_shares_of_normal_returns(per_dimension, dimensions, literal, intended, relaxed):
    """Percent kept, from the normal distribution function, with the joint entropy of A dimensions (C2)."""
    returns = 300 + 50 * np.random.default_rng(0).normal(size=200_000)
    entropy = per_dimension * dimensions
    for rule, percent in (("literal", literal), ("intended", intended), ("relaxed", relaxed)):
        assert 100 * eddf.select(returns, entropy, rule).mean() == pytest.approx(percent, abs=0.35)


def test_high_entropy_lowers_the_intended_threshold_and_raises_the_printed_one():
    for rule, sign in (("intended", -1), ("literal", 1), ("relaxed", -1)):
        taus = [eddf.threshold(RETURNS, entropy, rule) for entropy in (-3.0, -1.0, 0.0, 1.0)]
        assert (sign * np.diff(taus) > 0).all()


def test_raw_comparison_keeps_nearly_all_positive_returns():
    """C3: raw g of about 100 is above any threshold made of z scores."""
    returns = np.random.default_rng(0).uniform(50, 150, 1000)
    assert eddf.select(returns, 0.0, compare="raw").all()
    assert 0.1 < eddf.select(returns, 0.0, compare="z").mean() < 0.4


@pytest.mark.parametrize("value", [0.1, -3.7, 0.0, 1e6])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_equal_returns_keep_the_minimum(value, count):
    returns = np.full(count, value)
    assert not eddf.select(returns, 0.0).any()
    kept = eddf.select(returns, 0.0, minimum=5)
    np.testing.assert_array_equal(kept, np.arange(count) < 5)  # of equal ones the earlier


def test_the_minimum_takes_the_best():
    returns = np.array([5.0, 1.0, 9.0, 7.0, 3.0, 9.0])
    np.testing.assert_array_equal(
        eddf.select(returns, -20.0, minimum=3), [False, False, True, True, False, True]
    )
    assert eddf.select(returns, -20.0, minimum=32).all()
    many = np.random.default_rng(0).normal(size=1000)
    np.testing.assert_array_equal(eddf.select(many, 0.0, minimum=32), eddf.select(many, 0.0))


def test_no_steps():
    assert eddf.select(np.zeros(0), 0.0, minimum=32).shape == (0,)
    with pytest.raises(ValueError, match="at least one step"):
        eddf.threshold(np.zeros(0), 0.0)


@pytest.mark.parametrize(
    ("returns", "entropy", "options", "message"),
    [
        (np.array([1.0, np.nan]), 0.0, {}, "returns must be finite"),
        (np.array([1.0, np.inf]), 0.0, {}, "returns must be finite"),
        (RETURNS, float("nan"), {}, "entropy must be finite"),
        (np.zeros((2, 2)), 0.0, {}, r"shape \[N\]"),
        (RETURNS, 0.0, {"rule": "printed"}, "intended, literal, relaxed, got 'printed'"),
        (RETURNS, 0.0, {"compare": "g"}, "z, raw, got 'g'"),
        (RETURNS, 0.0, {"minimum": -1}, "minimum must be 0 or more"),
    ],
)
def test_bad_values(returns, entropy, options, message):
    with pytest.raises(ValueError, match=message):
        eddf.select(returns, entropy, **options)
