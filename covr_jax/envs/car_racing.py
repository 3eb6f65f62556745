"""Gymnasium's CarRacing-v3 (the papers' V1 and V0 are gone) at the run's picture size."""

from __future__ import annotations

from typing import Any

import numpy as np

from covr_jax.config import EnvConfig
from covr_jax.envs.pixels import PixelEnv, registered

PEDALS = {"two_pedals": ("steer", "gas", "brake"), "one_pedal": ("steer", "throttle")}


class CarRacing(PixelEnv):
    """``two_pedals``: gas and brake = (a + 1) / 2 each. ``one_pedal``: gas = a above 0, brake = -a below.

    Episodes end after 1,000 frames, on the completed lap and off the playfield (-100). Neither paper says whether an
    action is repeated: 4 frames, rewards summed. ``info["state"]`` holds ``speed`` (m/s) and ``steering`` (rad, the
    front wheels', left > 0).

    Raises ValueError for other pedals, or without Box2D.
    """

    default_repeat = 4

    def __init__(self, config: EnvConfig, pedals: str):
        if pedals not in PEDALS:
            allowed = ", ".join(f"car_racing/{name}" for name in PEDALS)
            raise ValueError(f"unknown environment {config.name!r}; allowed: car_racing, {allowed}")
        self._one_pedal = pedals == "one_pedal"
        try:
            import Box2D  # noqa: F401
        except ImportError:
            raise ValueError(f'{config.name} needs Box2D: pip install "gymnasium[box2d]"') from None
        inner = registered(config.name, "CarRacing-v3", domain_randomize=False, lap_complete_percent=0.95)
        super().__init__(config, inner)
        self.action_names = PEDALS[pedals]

    def agent_shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        return (2,) if self._one_pedal else native

    def native(self, action: np.ndarray) -> np.ndarray:
        if self._one_pedal:
            steer, throttle = action
            return np.array([steer, max(throttle, 0.0), max(-throttle, 0.0)])
        return np.array([action[0], (action[1] + 1) / 2, (action[2] + 1) / 2])

    def state(self, info: dict[str, Any]) -> dict[str, float]:
        car = self._inner.unwrapped.car
        return {"speed": float(car.hull.linearVelocity.length), "steering": float(car.wheels[0].joint.angle)}
