"""Environments: pixels in, actions in [-1, 1] out, Gymnasium's interface."""

from __future__ import annotations

import gymnasium

from covr_jax.config import EnvConfig


def make(config: EnvConfig) -> gymnasium.Env:
    """The environment that ``config.name`` names. Raises ValueError for an unknown name, GlError without
    OpenGL.

    Besides Gymnasium's interface it has ``action_repeat`` (simulator frames a decision), ``max_decisions``
    (of an episode), ``action_names`` and ``decision_rate`` (decisions a second of simulated time).
    Observations are the newest frame, uint8 [H, W, 3]; ``info`` holds ``state`` (named physical quantities)
    and ``frames`` (simulator frames of this step).
    """
    suite, _, task = config.name.partition("/")
    if suite != "dmc":
        example = "dmc/<domain>/<task>, as dmc/cartpole/swingup"
        raise ValueError(f"unknown environment {config.name!r}; allowed: {example}")
    from covr_jax.envs import dmc  # imports the simulator

    return dmc.DmcEnv(config, task)
