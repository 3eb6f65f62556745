"""What labelling costs: wall-clock of learning with the tiny VLM's labels over that of the base, paired in one run.

    python -m experiments.bench.label_overhead --preset=cpu,tiny --episodes=6 --out=overhead.json

The base and the guided run take turns, an episode each, in one process. The VLM is frozen (``dpl``): no tuning rounds.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import jax
from absl import app, flags

from covr_jax.loop import Trainer
from experiments import configuration
from experiments.bench.shared import Silent, write
from experiments.command_line import prepare
from experiments.policy import environment
from experiments.run import open_prior

_PRESET = flags.DEFINE_string("preset", "cpu,tiny", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_EPISODES = flags.DEFINE_integer("episodes", 6, "Measured episodes of each.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")


def main(_) -> None:
    prepare()
    settings = ["run.random_decisions=0", "run.video=false", "run.eval_every=1000000000"]
    built = configuration.build(_PRESET.value, {"env.name": _ENV.value}, settings)
    config = configuration.resolve(built.config)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        trainers = {}
        for method in ("none", "dpl"):
            chosen = dataclasses.replace(
                config,
                learner=dataclasses.replace(config.learner, method=method),
                run=dataclasses.replace(config.run, steps=10**9),
            )
            env = stack.enter_context(environment(chosen))
            prior = stack.enter_context(open_prior(chosen, folder, env, "bench")) if method == "dpl" else None
            trainers[method] = stack.enter_context(Trainer(chosen, env, [], Silent(), prior))
        seconds = {method: [] for method in trainers}
        for turn in range(_EPISODES.value + 1):
            for method, trainer in trainers.items():
                start = time.perf_counter()
                trainer.episode()
                jax.block_until_ready(trainer.state)
                if turn:  # the first compiles and fills the label pipeline
                    seconds[method].append(time.perf_counter() - start)
        asked = sum(trainers["dpl"].labels.counts.values())
    figures = {
        "ratio": sum(seconds["dpl"]) / sum(seconds["none"]),
        "ratio_median_episode": statistics.median(a / b for a, b in zip(seconds["dpl"], seconds["none"], strict=True)),
        "seconds": seconds,
        "labels": asked,
        "decisions": trainers["dpl"].counters.decisions,
    }
    print(f"{'episode':>8} {'base s':>8} {'labelled s':>11}")
    for i, (base, labelled) in enumerate(zip(seconds["none"], seconds["dpl"], strict=True)):
        print(f"{i:>8} {base:>8.2f} {labelled:>11.2f}")
    print(f"ratio of the sums {figures['ratio']:.3f}, median of the episodes' {figures['ratio_median_episode']:.3f}")
    write(_OUT.value, figures, config)


if __name__ == "__main__":
    app.run(main)
