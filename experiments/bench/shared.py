"""What the measurements share: a configuration without evaluations, a recorder that keeps nothing, figures on disk."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covr_jax.config import Config
from covr_jax.replay import ReplayBuffer
from experiments import configuration, environment_info
from experiments.json_lines import plain


class Silent:
    """A recorder that keeps nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def endless(preset: str, chosen: dict[str, Any], settings: list[str]) -> Config:
    """The preset's configuration with updates from the start and neither end nor evaluations. Raises ValueError."""
    quiet = ["run.random_decisions=0", "run.video=false", "run.eval_every=1000000000", "run.steps=1000000000"]
    return configuration.resolve(configuration.build(preset, chosen, [*settings, *quiet]).config)


def timed(work: Callable[[], Any]) -> float:
    """Seconds until what ``work`` returns is there, on the device too."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def fill(replay: ReplayBuffer, transitions: int, action_dim: int, shape: tuple[int, ...], episode: int = 125) -> None:
    """Stores episodes of random pictures, all of them labelled."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, *shape), dtype=np.uint8)
    for i in range(transitions):
        if i % episode == 0:
            replay.begin(frames[i % 64])
        action = rng.uniform(-1, 1, action_dim).astype(np.float32)
        transition = replay.add(action, 1.0, 1.0, frames[(i + 1) % 64], i % episode == episode - 1)
        replay.label(transition, action, True, 0, 0)


def write(out: str, figures: dict[str, Any], config: Config) -> None:
    """Writes the figures, the configuration and what they may depend on, if ``out`` names a file."""
    if out:
        document = figures | {"config": dataclasses.asdict(config), "environment": environment_info.describe()}
        Path(out).write_text(json.dumps(plain(document), indent=2) + "\n")
