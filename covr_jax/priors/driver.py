"""A hand-written driver for the toy world. It sees what no camera shows: distances, speeds, who waits behind a car."""

from __future__ import annotations

import math

import numpy as np

from covr_jax.envs.toy.bodies import LOCK, WHEELBASE
from covr_jax.types import Observation

LANE = 3.5  # m
CRUISE = 28.0  # m/s
BRAKE = 6.0  # m/s^2 that is planned with; the car can do more
CORRIDOR = 2.2  # m: half the width that must be free of pedestrians
CREEP = 0.4  # m/s while waiting: a car that stands still ends the episode


def highway(observation: Observation) -> np.ndarray:
    """float64 [2]: keeps to its lane at cruise speed, follows what is ahead, changes lanes where that helps."""
    s = observation.state
    target, gap, lead = 0.0, s["gap_here"], s["lead_speed_here"]
    if gap < 60 and lead < CRUISE - 2:
        for side, shift in (("left", -LANE), ("right", LANE)):
            free = s[f"gap_{side}"] > max(gap + 10, 25) and s[f"gap_behind_{side}"] > 8
            if free and s[f"gap_{side}"] > gap + 10 * (target != 0.0):
                target, gap, lead = shift, s[f"gap_{side}"], s[f"lead_speed_{side}"]
    # While it moves over, the car ahead in the lane that it leaves still counts where that is near.
    if target and s["gap_here"] < 15:
        gap, lead = s["gap_here"], s["lead_speed_here"]
    wanted = min(CRUISE, math.sqrt(max(lead * lead + 2 * BRAKE * 0.5 * (gap - 8), 0.0)))
    return np.array([steer(s, target), pedal(s["speed"], wanted)])


def ghost_pedestrian(observation: Observation) -> np.ndarray:
    """float64 [2]: drives on in its lane, and stops short of pedestrians who are on their way across its path."""
    s = observation.state
    wanted, ahead, right, walks = CRUISE, s["walker_ahead"], s["walker_right"], s["walker_speed"]
    approaching = walks * right < 0 and abs(right) > CORRIDOR
    if walks and (abs(right) <= CORRIDOR or approaching):
        wanted = max(math.sqrt(max(2 * BRAKE * (ahead - 3.0), 0.0)), CREEP if ahead > 1.5 else 0.0)
    return np.array([steer(s, 0.0), pedal(s["speed"], wanted)])


def steer(s: dict[str, float], target: float) -> float:
    """Pure pursuit of the line ``target`` m right of the lane's centre, on top of the road's own bend."""
    distance = max(8.0, 1.2 * s["speed"])
    aside = s["lane_offset"] - target
    turn = s["bend"] - 2 * aside / distance**2 - 2 * math.radians(s["heading_error"]) / distance
    return math.atan(WHEELBASE * turn) / LOCK


def pedal(speed: float, wanted: float) -> float:
    """Throttle above 0, brake below."""
    return min(max(0.5 * (wanted - speed), -1.0), 1.0)
