from __future__ import annotations

import pytest

from covr_jax import schedule


@pytest.mark.parametrize(
    ("rule", "intervals", "steps"),
    [
        ("linear", [5, 10, 15, 20, 25], [5, 15, 30, 50, 75]),
        ("literal", [5, 10, 30, 120, 600], [5, 15, 45]),
        ("additive", [5, 10, 20, 35, 55], [5, 15, 35, 70]),
        ("doubling", [5, 10, 20, 40, 80], [5, 15, 35, 75]),
        ("constant", [5, 5, 5, 5, 5], list(range(5, 101, 5))),
    ],
)
def test_rounds_within_100k(rule, intervals, steps):
    """In thousands of steps, psi0 = 5000."""
    assert [schedule.interval(c, 5000, rule) for c in range(5)] == [1000 * i for i in intervals]
    assert schedule.tuning_steps(100_000, 5000, rule) == [1000 * s for s in steps]


def test_rounds_within_500k():
    assert schedule.tuning_steps(500_000, 5000, "literal") == [5000, 15_000, 45_000, 165_000]
    linear = schedule.tuning_steps(500_000, 5000)
    assert len(linear) == 13 and linear[-1] == 455_000


@pytest.mark.parametrize(("decisions", "rounds"), [(12_500, 1), (25_000, 2), (50_000, 4)])
def test_psi_in_decisions_under_a_budget_of_100k_frames(decisions, rounds):
    assert len(schedule.tuning_steps(decisions, 5000)) == rounds


@pytest.mark.parametrize("rule", schedule.RULES)
def test_it_is_what_a_counter_does(rule):
    """Count after the step, fire when the counter reaches psi, start again (C9)."""
    fired, counter = [], 0
    for step in range(1, 1001):
        counter += 1
        if counter >= schedule.interval(len(fired), 7, rule):
            fired.append(step)
            counter = 0
    assert schedule.tuning_steps(1000, 7, rule) == fired


def test_the_budget_includes_its_last_step():
    assert schedule.tuning_steps(4999, 5000) == []
    assert schedule.tuning_steps(5000, 5000) == [5000]
    assert schedule.tuning_steps(0, 5000) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 5000), "round must be 0 or more"),
        ((0, 0), "psi0 must be 1 or more"),
        ((0, 5000, "square"), "linear, literal, additive, doubling, constant, got 'square'"),
    ],
)
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule.interval(*arguments)


def test_bad_budget():
    with pytest.raises(ValueError, match="budget must be 0 or more"):
        schedule.tuning_steps(-1, 5000)
