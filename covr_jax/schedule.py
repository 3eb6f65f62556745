"""When the VLM is tuned, and when it is asked (COVR, Algorithm 1)."""

from __future__ import annotations

import math

# Rule -> interval before round c (c = 0, 1, ...) in units of psi0.
RULES = {
    "linear": lambda c: c + 1,
    "literal": lambda c: math.factorial(c + 1),
    "additive": lambda c: 1 + c * (c + 1) // 2,
    "doubling": lambda c: 2**c,
    "constant": lambda c: 1,
}


def interval(round: int, psi0: int, rule: str = "linear") -> int:
    """psi_c, the steps between the previous round and round c (COVR, Algorithm 1).

    Print and meaning part (C8): the printed psi_{c+1} = psi_c (1 + c) is psi0 (c+1)!, which grows so fast
    that a budget of 100k sees three rounds; the text calls the growth linear and reports five. ``linear`` is
    psi0 (c+1), ``literal`` the print, ``additive`` psi_{c+1} = psi_c + psi0 (c+1), ``doubling`` psi0 2^c,
    ``constant`` psi0.

    Args:
        round: c >= 0, rounds done before.
        psi0: steps (of the run's step unit) to the first round, >= 1.
        rule: linear | literal | additive | doubling | constant.

    Returns:
        steps, >= 1. The round fires after the step at which the counter reaches it, then the counter restarts
        (C9).

    Raises:
        ValueError: negative round, psi0 below 1, unknown rule.
    """
    if round < 0:
        raise ValueError(f"round must be 0 or more, got {round}")
    if psi0 < 1:
        raise ValueError(f"psi0 must be 1 or more, got {psi0}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    return psi0 * RULES[rule](round)


def tuning_steps(budget: int, psi0: int, rule: str = "linear") -> list[int]:
    """The steps of all rounds within a budget, the budget's own last step included.

    COVR, Algorithm 1 read with the prose (C9): the counter is compared after the step, so that no round fires
    at 0. With psi0 = 5000 and ``linear`` a budget of 100k gives 5k, 15k, 30k, 50k, 75k.

    Args:
        budget: steps of the whole run, >= 0.
        psi0: as of ``interval``.
        rule: as of ``interval``.

    Returns:
        increasing steps; empty if the budget ends before the first.

    Raises:
        ValueError: as ``interval``, or a negative budget.
    """
    if budget < 0:
        raise ValueError(f"budget must be 0 or more, got {budget}")
    steps: list[int] = []
    at = interval(0, psi0, rule)
    while at <= budget:
        steps.append(at)
        at += interval(len(steps), psi0, rule)
    return steps


def asks(steps_before: int, steps_now: int, period: int, first: bool) -> bool:
    """Whether the decision at ``steps_now`` is a question (S5).

    It is when the step counter has crossed a multiple of ``period`` since the decision before, at ``steps_before``, and
    at the start of an episode.
    """
    return first or steps_now // period > steps_before // period
