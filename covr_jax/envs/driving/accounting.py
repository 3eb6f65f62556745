"""What an episode was worth: ER and DD, as sums over ticks and as public code counts them.

Public code's step returns the mean reward of the repeated ticks beside the distance of the last one, and its evaluation
sums both once a decision: about a quarter of the physical sums at four ticks a decision. The papers do not say which
they print (docs/driving.md, "ER and DD").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Totals(NamedTuple):
    """Of an episode, up to now."""

    return_sum: float = 0.0  # ER: rewards of all ticks
    distance_m: float = 0.0  # DD: metres along the lane of all ticks; return_sum never exceeds it (printed rewards)
    er_compat: float = 0.0  # sum over decisions of the mean reward of their ticks
    dd_compat: float = 0.0  # sum over decisions of the metres of their last tick
    collisions: int = 0  # ticks with a collision
    impulse: float = 0.0  # N s


class Ticks(NamedTuple):
    """The ticks of one decision, [N] each."""

    rewards: Sequence[float]
    metres: Sequence[float]
    collided: Sequence[bool]
    impulses: Sequence[float]


def add(totals: Totals, ticks: Ticks) -> Totals:
    """One decision of N > 0 ticks more."""
    reward = sum(ticks.rewards)
    return Totals(
        totals.return_sum + reward,
        totals.distance_m + sum(ticks.metres),
        totals.er_compat + reward / len(ticks.rewards),
        totals.dd_compat + ticks.metres[-1],
        totals.collisions + sum(ticks.collided),
        totals.impulse + sum(ticks.impulses),
    )


def decision_reward(rewards: Sequence[float], rule: str) -> float:
    """The learner's reward of a decision: ``sum`` (S17) or ``mean`` over its ticks."""
    return sum(rewards) / (len(rewards) if rule == "mean" else 1)
