"""Ledger rows held here (docs/fidelity.md): C15."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlm_server import ralw


@pytest.mark.parametrize(
    ("rule", "returns", "expected"),
    [
        ("max_abs", [4.0, -8.0, 2.0, 0.0], [0.5, 0.0, 0.25, 0.0]),
        ("max_abs", [10.0, 5.0], [1.0, 0.5]),
        ("max_abs", [-1.0, -3.0], [0.0, 0.0]),
        ("max_abs", [0.0, 0.0], [0.0, 0.0]),
        ("max_abs", [7.0], [1.0]),
        ("max_abs", [3.0, 3.0], [1.0, 1.0]),
        # 2 (g - 0) / 10 - 1 = -1, -0.5, 0, 0.6, 1
        ("min_max", [0.0, 2.5, 5.0, 8.0, 10.0], [0.0, 0.0, 0.0, 0.6, 1.0]),
        ("min_max", [-3.0, -2.0, -1.0], [0.0, 0.0, 1.0]),  # the sign does not matter to it
        ("min_max", [5.0, 5.0, 5.0], [0.0, 0.0, 0.0]),
        ("min_max", [-2.0], [0.0]),
        ("ones", [-5.0, 0.0, 5.0], [1.0, 1.0, 1.0]),
    ],
)
def test_weights_by_hand(rule, returns, expected):
    for given_as in (returns, np.array(returns), torch.tensor(returns)):
        weights = ralw.weights(given_as, rule)
        assert weights.dtype == torch.float32
        np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=1, max_size=20)
)
def test_weights_are_shares_at_any_magnitude(returns):
    for rule in ("max_abs", "min_max"):
        weights = ralw.weights(returns, rule)
        assert ((weights >= 0) & (weights <= 1)).all()
        positive = np.array(returns) > 0
        if rule == "max_abs":
            assert not weights.numpy()[~positive].any()
            if positive.any() and max(returns) >= -min(returns):
                assert weights.max() == 1


@pytest.mark.parametrize("returns", [[1.0, math.nan], [math.inf], [], [[1.0]], 3.0])
def test_weights_refuse_what_is_no_finite_vector(returns):
    with pytest.raises(ValueError, match="returns must be"):
        ralw.weights(returns)


def test_weights_name_the_rules():
    with pytest.raises(ValueError, match="max_abs, min_max, ones, uniform"):
        ralw.weights([1.0], "softmax")


def numpy_loss(logits, labels, weights, smoothing):
    """Eq. 6 token by token, with smoothing as a mixture of the label and the uniform distribution."""
    total, valid = 0.0, 0
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1]):
            if labels[b, t] == -100:
                continue
            z = logits[b, t].astype(np.float64)
            log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
            target = np.full(len(z), smoothing / len(z))
            target[labels[b, t]] += 1 - smoothing
            total += weights[b] * -(target * log_p).sum()
            valid += 1
    return total / valid


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_equals_numpy(smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (3, 4))
    labels[0, :2] = labels[1, 3] = -100
    weights = np.array([0.5, 0.0, 1.0], np.float32)
    got = ralw.loss(torch.tensor(logits), torch.tensor(labels), torch.tensor(weights), smoothing)
    assert got.shape == () and got.dtype == torch.float32
    np.testing.assert_allclose(float(got), numpy_loss(logits, labels, weights, smoothing), rtol=1e-5)


def test_loss_by_hand():
    # Uniform logits over 4 words: each of the 3 valid tokens costs ln 4, smoothed or not. The first row
    # weighs 0.5 with 2 tokens, the second weighs nothing but its token still divides (C14).
    logits = torch.zeros(2, 2, 4)
    labels = torch.tensor([[1, 2], [3, -100]])
    weights = torch.tensor([0.5, 0.0])
    assert float(ralw.loss(logits, labels, weights)) == pytest.approx(0.5 * 2 * math.log(4) / 3)


def test_zero_weight_gives_zero_gradient():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[0, 1, 2], [3, 4, 0]])
    ralw.loss(logits, labels, torch.tensor([1.0, 0.0])).backward()
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0


def test_loss_of_half_precision_is_computed_in_float32():
    logits = torch.randn(1, 2, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[3, 7]])
    half, full = (ralw.loss(x, labels, torch.ones(1)) for x in (logits, logits.float()))
    assert half.dtype == torch.float32 and float(half) == float(full)


def test_loss_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="must be"):
        ralw.loss(torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.long), torch.ones(2))
    with pytest.raises(ValueError, match="must be"):
        ralw.loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long), torch.ones(3))
    with pytest.raises(ValueError, match="no valid token"):
        ralw.loss(torch.zeros(1, 2, 4), torch.full((1, 2), -100), torch.ones(1))


def test_random_weights_follow_the_seed_and_not_the_returns():
    def drawn(returns, seed):
        return ralw.weights(returns, "uniform", torch.Generator().manual_seed(seed)).numpy()

    weights = drawn(np.arange(4000.0), 1)
    np.testing.assert_allclose([weights.mean(), weights.std()], [0.5, 1 / np.sqrt(12)], atol=0.02)  # 4 standard errors
    assert weights.min() >= 0 and weights.max() < 1
    np.testing.assert_array_equal(weights, drawn(-np.arange(4000.0), 1))
    assert not np.array_equal(weights, drawn(np.arange(4000.0), 2))
    with pytest.raises(ValueError, match="needs a generator"):
        ralw.weights([1.0], "uniform")
