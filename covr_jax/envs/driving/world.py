"""What a driving world must do: everything else about an episode is the same in all of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

TICK_S = 0.05  # seconds of one simulator tick: 20 Hz


class Control(NamedTuple):
    """One tick's pedals and wheel."""

    throttle: float = 0.0  # [0, 1]
    brake: float = 0.0  # [0, 1]
    steer: float = 0.0  # [-1, 1], positive: right


class Tick(NamedTuple):
    """What one tick of a world tells about the agent's own car."""

    speed: float  # m/s, length of the velocity
    lane_speed: float  # m/s, v_s: the velocity along the lane's direction at the nearest waypoint
    centre_offset: float = 0.0  # m to the right of that lane's centre
    impulse: float = 0.0  # N s, sum over this tick's collisions of the norms of their impulses
    collided: bool = False
    crossed: int = 0  # lane markings crossed in this tick
    on_road: bool = True  # there is a driving lane under the car
    road_ahead: bool = True  # the lane goes on
    height: float = 0.0  # m above the road
    climb: float = 0.0  # m/s, vertical velocity


class WorldLost(ConnectionError):
    """The world cannot go on with this episode; ``reset`` may begin another one. One line that says why."""


class World(Protocol):
    """A road, others on it, the agent's car with a camera. Lengths in m, angles in degrees, clockwise from above."""

    repeatable: bool  # an episode is a function of its seed and the controls

    def begin(self, rng: np.random.Generator) -> None:
        """Makes a new episode's traffic, a function of ``rng`` as far as the world is one. Raises WorldLost."""

    def tick(self, control: Control) -> Tick:
        """Moves on by TICK_S. Raises WorldLost."""

    def frame(self) -> np.ndarray:
        """uint8 [H, W, 3], the front camera's picture after the latest tick."""

    def state(self) -> dict[str, float]:
        """``speed`` (m/s) and ``yaw`` (degrees), and what else this world knows."""

    def close(self) -> None: ...


def control(action: np.ndarray) -> Control:
    """Action float [2], (steer, throttle) in [-1, 1], as pedals and wheel: a throttle below 0 is a brake."""
    steer, throttle = (float(value) for value in np.clip(action, -1.0, 1.0))
    return Control(max(throttle, 0.0), max(-throttle, 0.0), steer)
