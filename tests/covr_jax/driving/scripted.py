"""A world that plays back given ticks, for tests of what lies above worlds."""

from __future__ import annotations

import numpy as np

from covr_jax.config import DrivingConfig, EnvConfig
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.env import DrivingEnv
from covr_jax.envs.driving.world import Tick, WorldLost


class ScriptedWorld:
    """Gives the ticks in order, the last one for ever; a WorldLost among them is raised."""

    repeatable = True

    def __init__(self, *ticks: Tick | WorldLost):
        self._ticks = ticks
        self.controls = []

    def begin(self, rng):
        self.controls = []

    def tick(self, control):
        self.controls.append(control)
        now = self._ticks[min(len(self.controls), len(self._ticks)) - 1]
        if isinstance(now, WorldLost):
            raise now
        return now

    def frame(self):
        return np.full((8, 8, 3), len(self.controls) % 256, np.uint8)

    def state(self):
        return {"speed": float(len(self.controls)), "yaw": 0.0}

    def close(self):
        pass


def driving_env(*ticks, scenario: str = "highway", repeat: int | None = None, **switches) -> DrivingEnv:
    """An environment over a scripted world, already reset."""
    driving = DrivingConfig(**switches)
    config = EnvConfig(name=f"toy/{scenario}", render_size=8, action_repeat=repeat, driving=driving)
    env = DrivingEnv(config, scenarios.scenario(scenario, driving), ScriptedWorld(*ticks))
    env.reset(seed=0)
    return env
