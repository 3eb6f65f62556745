"""Environments: pixels in, actions in [-1, 1] out, Gymnasium's interface."""

from __future__ import annotations

import gymnasium

from covr_jax.config import EnvConfig

ALLOWED = (
    "dmc/<domain>/<task>, as dmc/cartpole/swingup; toy/highway, toy/ghost_pedestrian (or toy/jaywalk); carla/ with "
    "the same scenes; car_racing (or car_racing/one_pedal); gym/<id>, any of Gymnasium with continuous actions, as "
    "gym/Pendulum-v1"
)


def make(config: EnvConfig) -> gymnasium.Env:
    """The environment that ``config.name`` names. Raises ValueError for an unknown name, GlError without
    OpenGL.

    Besides Gymnasium's interface it has ``action_repeat`` (simulator frames a decision), ``max_decisions``
    (of an episode), ``action_names`` and ``decision_rate`` (decisions a second of simulated time).
    Observations are the newest frame, uint8 [H, W, 3]; ``info`` holds ``state`` (named physical quantities)
    and ``frames`` (simulator frames of this step), and may hold ``totals`` (the episode's own accounting) and ``fault``
    (why the episode was cut). An environment that does not repeat an episode from its seed and actions says
    ``repeatable = False``, and may count ``faults``.
    """
    suite, _, task = config.name.partition("/")
    if suite == "dmc":
        from covr_jax.envs import dmc  # imports the simulator

        return dmc.DmcEnv(config, task)
    if suite == "toy":
        from covr_jax.envs.driving import scenarios
        from covr_jax.envs.driving.env import DrivingEnv
        from covr_jax.envs.toy.world import ToyWorld

        scene = scenarios.scenario(task, config.driving)
        return DrivingEnv(config, scene, ToyWorld(scene, config.render_size))
    if suite == "carla":
        from covr_jax.envs.carla.world import CarlaWorld
        from covr_jax.envs.driving.env import DrivingEnv

        world = CarlaWorld(task, config)
        return DrivingEnv(config, world.scene, world)
    if suite == "car_racing":
        from covr_jax.envs.car_racing import CarRacing

        return CarRacing(config, task or "two_pedals")
    if suite == "gym" and task:
        from covr_jax.envs import pixels

        return pixels.make(config, task)
    raise ValueError(f"unknown environment {config.name!r}; allowed: {ALLOWED}")
