"""What this machine has for a table: its environments and how fast they are, CARLA, the VLM."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covr_jax.config import Config
from covr_jax.envs.gl import GlError
from experiments.checks import CARLA, SERVER
from experiments.environment_info import jax_devices, version
from experiments.policy import environment

MEASURED_S = 1.0


class Site(NamedTuple):
    """One task here. Without an environment only ``missing`` is told, in one line."""

    repeat: int = 0  # simulator frames a decision
    max_decisions: int = 0  # of an episode
    frames_per_second: float = 0.0  # simulated; a decision's last one is rendered
    missing: str = ""


def site(config: Config) -> Site:
    """Makes the environment and drives it for a second by random actions."""
    if reason := _no_carla(config.env.name):
        return Site(missing=reason)
    try:
        with environment(config) as env:
            rng, frames = np.random.default_rng(0), 0
            env.reset(seed=0)
            start = time.perf_counter()
            while (seconds := time.perf_counter() - start) < MEASURED_S:
                _, _, terminated, truncated, info = env.step(rng.uniform(-1, 1, env.action_space.shape))
                frames += info["frames"]
                if terminated or truncated:
                    env.reset()
            return Site(env.action_repeat, env.max_decisions, frames / seconds)
    except (ValueError, GlError, ImportError, OSError, RuntimeError) as error:
        return Site(missing=f"{config.env.name}: {(str(error).splitlines() or [type(error).__name__])[0]}")


def _no_carla(task: str) -> str:
    if not task.startswith("carla/"):
        return ""
    if version("carla") is None:
        return f'CARLA: pip install -e ".[carla]", and the simulator {CARLA}; --toy drives the same scenes without'
    return ""


def missing_prior(source: str) -> str:
    """Why ``--prior=source`` does not work here as it is, in one line; empty if nothing is known to be missing."""
    if source.startswith(("teacher:", "grpc://", "grpcs://")):
        return ""
    if absent := [name for name in SERVER if version(name) is None]:
        return f'prior server: {", ".join(absent)} not installed: pip install -e ".[server]"'
    if source == "tiny" or Path(source).is_dir():
        return ""
    told = [] if _downloaded(source) else ["its weights are not on this machine"]
    if all(device.startswith("cpu") for device in jax_devices() or []):
        told.append("no GPU to run it on")
    return f"{source}: {' and '.join(told)} (--prior=tiny is the VLM that ships here)" if told else ""


def _downloaded(repository: str) -> bool:
    """Whether the Hugging Face cache holds a snapshot of it."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    return any((cache / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*"))
