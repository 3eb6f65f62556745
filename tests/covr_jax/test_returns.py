"""Ledger rows held here (docs/fidelity.md): S11."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax.returns import to_go


def test_hand_worked_episode():
    # 1 + 0.5 (2 + 0.5 (0 + 0.5 * 4)) = 2.5
    np.testing.assert_allclose(to_go(np.array([1.0, 2.0, 0.0, 4.0]), 0.5), [2.5, 3.0, 2.0, 4.0])


@pytest.mark.parametrize("discount", [0.0, 0.9, 0.99, 1.0])
def test_it_is_the_triangular_sum(discount):
    rewards = np.random.default_rng(0).normal(size=40)
    powers = np.arange(40)[None, :] - np.arange(40)[:, None]
    matrix = np.where(powers >= 0, float(discount) ** np.maximum(powers, 0), 0.0)
    np.testing.assert_allclose(to_go(rewards, discount), matrix @ rewards, rtol=1e-12, atol=1e-12)


def test_late_steps_of_a_constant_episode_return_less():
    """C7: three quarters through an episode of constant reward, discount 0.99."""
    for length, share in ((125, 0.38), (250, 0.51), (500, 0.72)):
        returns = to_go(np.ones(length), 0.99)
        assert returns[length * 3 // 4] / returns[0] == pytest.approx(share, abs=0.01)


def test_no_reward_no_return():
    assert to_go(np.zeros(0), 0.99).shape == (0,)


@pytest.mark.parametrize(
    ("rewards", "discount", "message"),
    [
        (np.array([1.0, np.nan]), 0.99, "rewards must be finite"),
        (np.zeros((2, 2)), 0.99, r"shape \[T\]"),
        (np.zeros(2), 1.01, "discount must be in"),
        (np.zeros(2), float("nan"), "discount must be in"),
    ],
)
def test_bad_values(rewards, discount, message):
    with pytest.raises(ValueError, match=message):
        to_go(rewards, discount)
