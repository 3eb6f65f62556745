"""How long one action of an exported policy takes on one core, at RAD's full setting: a 9x84x84 view of a 100 px stack.

    python -m experiments.bench.export_latency --out=latency.json

The weights are those of a new agent: what they are does not matter to the time. Needs onnx and onnxruntime.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import numpy as np
import onnxruntime
from absl import app, flags

from covr_jax.config import LearnerConfig
from covr_jax.learner import Learner
from experiments import environment_info, policy_onnx, policy_stablehlo
from experiments.command_line import fail, prepare

_ACTIONS = flags.DEFINE_integer("actions", 500, "Measured actions.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
RENDER_SIZE, ACTION_DIM = 100, 6
PERCENTILES = (50, 90, 99)


def milliseconds(policy: Callable[[np.ndarray], np.ndarray], actions: int) -> list[float]:
    """PERCENTILES of one action's time, after ten that are not counted."""
    rng = np.random.default_rng(0)
    stacks = rng.integers(0, 256, (actions + 10, 1, RENDER_SIZE, RENDER_SIZE, 9), dtype=np.uint8)
    seconds = []
    for stack in stacks:
        start = time.perf_counter()
        np.asarray(policy(stack))
        seconds.append(time.perf_counter() - start)
    return (1e3 * np.percentile(seconds[10:], PERCENTILES)).tolist()


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    jax.config.update("jax_platforms", "cpu")
    learner = Learner(LearnerConfig(method="none", augmentation="crop", image_size=84), ACTION_DIM, 3)
    params = learner.init(0, RENDER_SIZE).params
    files = {module.__name__.rpartition("_")[2]: module.serialise(learner, params, RENDER_SIZE)
             for module in (policy_onnx, policy_stablehlo)}  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(files["onnx"], options)
    call = jax.jit(jax.export.deserialize(bytearray(files["stablehlo"])).call)
    policies = {"onnx": lambda stack: session.run(["action"], {"stacks": stack})[0], "stablehlo": call}
    figures = {}
    print(f"{'format':>10} {'MB':>6} " + " ".join(f"p{percentile} ms".rjust(8) for percentile in PERCENTILES))
    for name, policy in policies.items():
        times = milliseconds(policy, _ACTIONS.value)
        figures[name] = {"megabytes": len(files[name]) / 1e6, "percentiles": PERCENTILES, "milliseconds": times}
        print(f"{name:>10} {len(files[name]) / 1e6:>6.2f} " + " ".join(f"{each:>8.2f}" for each in times))
    if _OUT.value:
        document = {"figures": figures, "environment": environment_info.describe()}
        Path(_OUT.value).write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
