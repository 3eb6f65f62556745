"""What several environments gain: decisions a second of training in one, and in several processes.

    python -m experiments.bench.environments --preset=rad --counts=1,2,4,8 --out=environments.json

For each count a new trainer makes one episode in each environment for warm-up, then --episodes more, timed; there are
no evaluations. ``waited`` is the share of that time in which the loop waited for environments, ``acting`` that in which
it waited for the policy, which waits for the updates before.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

import jax
from absl import app, flags

from covr_jax.config import Config
from covr_jax.loop import Trainer
from experiments.bench.shared import Silent, endless, write
from experiments.command_line import fail, prepare
from experiments.policy import training_environments

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_COUNTS = flags.DEFINE_list("counts", ["1", "2"], "Numbers of environments.")
_EPISODES = flags.DEFINE_integer("episodes", 2, "Measured episodes, in each environment.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")


def measured(config: Config, episodes: int) -> dict[str, float]:
    """Decisions a second of a training, and the shares of what it waited for."""
    count = config.run.num_envs
    with ExitStack() as stack:
        env = stack.enter_context(training_environments(config))
        trainer = stack.enter_context(Trainer(config, env, [], Silent()))
        ends = []
        for until in (count, count * (1 + episodes)):
            while trainer.counters.episodes < until:
                trainer.episode()
            jax.block_until_ready(trainer.state)
            ends.append((time.perf_counter(), trainer.counters.decisions, dict(trainer.watch.parts)))
    (began, before, earlier), (ended, after, later) = ends
    seconds = ended - began
    shares = {word: (later[part] - earlier[part]) / seconds for word, part in (("waited", "env"), ("acting", "act"))}
    return {"decisions_per_second": (after - before) / seconds, **shares}


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    figures = {}
    chosen = {"env.name": _ENV.value, "learner.method": "none"}
    try:
        configs = [endless(_PRESET.value, chosen | {"run.num_envs": count}, _SET.value) for count in _COUNTS.value]
        print(f"{'environments':>12} {'decisions/s':>12} {'waited':>7} {'acting':>7}")
        for config in configs:
            row = figures[config.run.num_envs] = measured(config, _EPISODES.value)
            rate, waited, acting = row.values()
            print(f"{config.run.num_envs:>12} {rate:>12.1f} {waited:>7.0%} {acting:>7.0%}", flush=True)
    except ValueError as error:
        fail(str(error))
    write(_OUT.value, {"by_count": figures}, configs[0])


if __name__ == "__main__":
    app.run(main)
