from __future__ import annotations

import pytest

from covr_jax.envs.driving.accounting import Ticks, Totals, add, decision_reward


def test_two_decisions_by_hand():
    ticks = Ticks([1.0, 0.5, 0.0, -0.5], [1.0, 0.5, 0.25, 0.75], [False, True, True, False], [0, 9, 1, 0])
    totals = add(Totals(), ticks)
    # Sums: 1.0 and 2.5; mean reward 0.25, last metres 0.75.
    assert totals == Totals(1.0, 2.5, 0.25, 0.75, 2, 10)
    totals = add(totals, Ticks([0.2, 0.4], [0.3, 0.4], [False, False], [0, 0]))
    assert totals == pytest.approx(Totals(1.6, 3.2, 0.55, 1.15, 2, 10))


def test_the_learners_reward():
    assert decision_reward([1.0, 2.0, 3.0], "sum") == 6.0
    assert decision_reward([1.0, 2.0, 3.0], "mean") == 2.0
