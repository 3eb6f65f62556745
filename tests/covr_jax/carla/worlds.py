"""Environments over the scripted simulator, in this process."""

from __future__ import annotations

from covr_jax.config import CarlaConfig, DrivingConfig, EnvConfig
from covr_jax.envs.carla.client_world import ClientWorld
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.env import DrivingEnv
from tests.covr_jax.carla.simulator import Library, Simulator

SIZE = 16


def carla_env(
    sim: Simulator, scenario: str = "highway", carla: CarlaConfig | None = None, size: int = SIZE, **switches
) -> DrivingEnv:
    driving = DrivingConfig(**switches)
    config = EnvConfig(name=f"carla/{scenario}", render_size=size, driving=driving, carla=carla or CarlaConfig())
    scene = scenarios.scenario(scenario, driving)
    return DrivingEnv(config, scene, ClientWorld(Library(sim), scene, config.carla, size, 2000))


def drive(env: DrivingEnv, action, seed: int = 0, decisions: int = 10**6) -> dict:
    """Drives an episode, or so many decisions of it; the last info."""
    env.reset(seed=seed)
    info: dict = {}
    for _ in range(decisions):
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return info
