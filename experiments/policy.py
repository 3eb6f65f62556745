"""The policy of a finished run and the environment it acts in."""

from __future__ import annotations

from contextlib import AbstractContextManager, closing
from pathlib import Path

import gymnasium

from covr_jax import envs
from covr_jax.checkpoint import load_params
from covr_jax.config import Config
from covr_jax.envs.vector import Workers
from covr_jax.learner import Learner
from covr_jax.types import Params
from experiments.run_directory import read_config

PARAMS = "params"  # folder of the newest parameters under checkpoints/


def params_path(run: Path) -> Path:
    return run / "checkpoints" / PARAMS


def load_policy(run: Path, action_dim: int) -> tuple[Learner, Params]:
    """Learner and parameters of the run in that directory. Raises ValueError, in one line, if there are none."""
    config = read_config(run)
    learner = Learner(config.learner, action_dim, config.env.frame_stack)
    try:
        return learner, load_params(params_path(run), learner.shapes().params)
    except FileNotFoundError as error:
        raise ValueError(f"{error}; train one with python -m experiments.train --out={run}") from None


def environment(config: Config) -> AbstractContextManager[gymnasium.Env]:
    """The run's environment, closed at the end of the block. Raises ValueError, GlError."""
    return closing(envs.make(config.env))


def training_environments(config: Config) -> AbstractContextManager[gymnasium.Env | Workers]:
    """What the run trains in: ``environment``, or run.num_envs of them in processes of their own.

    Raises WorkerFailed and WorkerDied besides.
    """
    return environment(config) if config.run.num_envs == 1 else closing(Workers(config.env, config.run.num_envs))
