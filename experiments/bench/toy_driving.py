"""Decisions a second of the toy driving world on one core, pictures included.

    python -m experiments.bench.toy_driving --size=128
"""

from __future__ import annotations

import time

from absl import app, flags

from covr_jax import envs
from covr_jax.config import EnvConfig
from covr_jax.priors import teachers
from covr_jax.types import Observation
from experiments.command_line import fail, prepare

_SIZE = flags.DEFINE_integer("size", 128, "Pixels of a picture's side.", lower_bound=8)
_DECISIONS = flags.DEFINE_integer("decisions", 2000, "Decisions that are measured.", lower_bound=1)


def measure(name: str, size: int, decisions: int) -> tuple[float, float]:
    """Decisions a second of processor time and of the clock, the hand-written driver at the wheel and not counted."""
    env = envs.make(EnvConfig(name=name, render_size=size))
    driver = teachers.CONTROLLERS[name]
    frame, info = env.reset(seed=0)
    worked = passed = 0.0
    for seed in range(decisions):
        action = driver(Observation(frame, frame, info["state"]))
        start = time.process_time(), time.perf_counter()
        frame, _, terminated, truncated, info = env.step(action)
        worked, passed = worked + time.process_time() - start[0], passed + time.perf_counter() - start[1]
        if terminated or truncated:
            frame, info = env.reset(seed=seed)
    return decisions / worked, decisions / passed


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    for name in ("toy/highway", "toy/ghost_pedestrian"):
        worked, passed = measure(name, _SIZE.value, _DECISIONS.value)
        print(f"{name} at {_SIZE.value} pixels: {worked:.0f} decisions a second of one core, {passed:.0f} by the clock")


if __name__ == "__main__":
    app.run(main)
