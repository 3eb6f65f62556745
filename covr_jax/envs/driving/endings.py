"""When an episode ends, and whether that is a terminal state or a cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from covr_jax.envs.driving.world import Tick

STUCK_SPEED = 0.02  # m/s; looked at every STUCK_EVERY ticks
STUCK_EVERY = 100
GLITCH_TICKS, GLITCH_CLIMB, GLITCH_HEIGHT = 20, 1.0, 0.5  # a car that is thrown up as it is spawned: m/s, m


@dataclass(frozen=True)
class Rules:
    """The papers print the horizon alone; the rest is public code's."""

    horizon: int = 1000
    horizon_unit: str = "ticks"  # ticks | decisions
    terminate_on_collision: bool = False  # at the first one
    collision_ticks: int = 20  # consecutive ticks with a collision that end the episode; 0: any number is allowed
    off_road: bool = True  # leaving the driving lanes ends the episode
    stuck: bool = True  # standing still does, looked at every 100 ticks
    terminal_horizon: bool = False  # public code's slip: the horizon is learned as a terminal state


class Count(NamedTuple):
    """What the rules remember of an episode."""

    ticks: int = 0
    decisions: int = 0  # finished ones
    colliding: int = 0  # consecutive ticks with a collision, up to now


class Ending(NamedTuple):
    reason: str
    terminated: bool  # otherwise the episode is truncated: its return would have gone on


def count(before: Count, tick: Tick) -> Count:
    """One tick more."""
    return before._replace(ticks=before.ticks + 1, colliding=before.colliding + 1 if tick.collided else 0)


def after_tick(tick: Tick, so_far: Count, rules: Rules) -> Ending | None:
    """The ending that this tick, already counted in ``so_far``, brings; None: the episode goes on."""
    if so_far.ticks <= GLITCH_TICKS and (tick.climb > GLITCH_CLIMB or tick.height > GLITCH_HEIGHT):
        return Ending("glitch", False)
    if rules.terminate_on_collision and tick.collided:
        return Ending("collision", True)
    if rules.collision_ticks and so_far.colliding >= rules.collision_ticks:
        return Ending("collision", True)
    if rules.off_road and not tick.on_road:
        return Ending("off_road", True)
    if not tick.road_ahead:
        return Ending("end_of_road", True)
    if rules.stuck and so_far.ticks % STUCK_EVERY == 0 and tick.speed < STUCK_SPEED:
        return Ending("stuck", True)
    if rules.horizon_unit == "ticks" and so_far.ticks >= rules.horizon:
        return Ending("horizon", rules.terminal_horizon)
    return None


def after_decision(so_far: Count, rules: Rules) -> Ending | None:
    """The horizon, where it is counted in decisions."""
    if rules.horizon_unit == "decisions" and so_far.decisions >= rules.horizon:
        return Ending("horizon", rules.terminal_horizon)
    return None
