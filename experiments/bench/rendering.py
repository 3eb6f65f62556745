"""Which OpenGL library renders faster here: a decision with each that works, at each render quality.

    python -m experiments.bench.rendering --env=dmc/cartpole/swingup --turns=3 --out=rendering.json

Each library runs in processes of its own (it is chosen once a process), which take turns. The fastest is for
``export MUJOCO_GL=...``: runs do not choose by the clock, for a run's pictures must not depend on it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from covr_jax.envs import gl
from experiments.bench.shared import endless, write
from experiments.command_line import fail, prepare
from experiments.configuration_values import CHOICES
from experiments.policy import environment

_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "A task of DeepMind Control.")
_TURNS = flags.DEFINE_integer("turns", 3, "Processes of each library.", lower_bound=1)
_DECISIONS = flags.DEFINE_integer("decisions", 100, "Measured decisions in each.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
QUALITIES = CHOICES["env.render_quality"]
_HERE = flags.DEFINE_bool("here", False, "For the processes that this one starts: measure MUJOCO_GL's library.")


def measure() -> dict[str, float]:
    """Milliseconds a decision (physics and one picture) at each quality."""
    config, took = endless("", {"env.name": _ENV.value, "learner.method": "none"}, _SET.value), {}
    for quality in QUALITIES:
        with environment(config := _with(config, quality)) as env:
            env.reset(seed=0)
            action = np.zeros(env.action_space.shape, np.float32)
            env.step(action)
            start = time.perf_counter()
            for _ in range(_DECISIONS.value):
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset(seed=0)
            took[quality] = 1e3 * (time.perf_counter() - start) / _DECISIONS.value
    return took


def _with(config, quality: str):
    return dataclasses.replace(config, env=dataclasses.replace(config.env, render_quality=quality))


def measured(backend: str) -> dict[str, float]:
    """``measure`` in a process of its own. Raises RuntimeError."""
    command = [sys.executable, "-m", "experiments.bench.rendering", "--here", f"--env={_ENV.value}"]
    command += [f"--decisions={_DECISIONS.value}", *(f"--set={setting}" for setting in _SET.value)]
    env = os.environ | {"MUJOCO_GL": backend}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{backend}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        config = endless("", {"env.name": _ENV.value, "learner.method": "none"}, _SET.value)
        if _HERE.value:
            print(json.dumps(measure()))
            return
        if not config.env.name.startswith("dmc/"):
            raise ValueError(f"--env={config.env.name} does not render with OpenGL; give a dmc/<domain>/<task>")
        names = {backend: gl.renderer(backend) for backend in gl.CANDIDATES}
        turns = [{backend: measured(backend) for backend, name in names.items() if name} for _ in range(_TURNS.value)]
    except (ValueError, RuntimeError, gl.GlError) as error:
        fail(str(error))
    milliseconds = {
        backend: {quality: [turn[backend][quality] for turn in turns] for quality in QUALITIES} for backend in turns[0]
    }
    print(f"{'library':>8} {'quality':>8} {'ms a decision':>14}")
    for backend, qualities in milliseconds.items():
        for quality, times in qualities.items():
            print(f"{backend:>8} {quality:>8} {statistics.median(times):>14.2f}   {names[backend]}")
    for backend in names.keys() - milliseconds.keys():
        print(f"{backend:>8} renders nothing here")
    write(_OUT.value, {"milliseconds": milliseconds, "renderers": names}, config)


if __name__ == "__main__":
    app.run(main)
