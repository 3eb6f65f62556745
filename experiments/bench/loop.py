"""What the loop costs: wall-clock of training against rendering and physics alone, and updates alone.

    python -m experiments.bench.loop --preset=rad --episodes=5 --out=loop.json

Four things take turns in one process, as many decisions each as an episode has: training (act, learn, step, store), the
environment with the actions that training took, updates on one batch, and acting. On a CPU, where all compete for the
same cores, training can at best take the sum of environment and updates; with an accelerator, the larger of the two.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

import jax
import numpy as np
from absl import app, flags

from covr_jax.loop import Trainer
from covr_jax.methods import BASES
from covr_jax.types import Observation
from experiments.bench.shared import Silent, endless, timed, write
from experiments.command_line import fail, prepare
from experiments.policy import environment

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_EPISODES = flags.DEFINE_integer("episodes", 3, "Measured episodes.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
PARTS = ("training", "environment", "updates", "acting")


class Alone:
    """The parts of a trainer's episode, each by itself."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer
        self.actions = np.zeros((0, trainer.env.action_space.shape[0]))

    def training(self) -> jax.Array:
        """One whole episode, whose actions are kept."""
        trainer = self._trainer
        before = trainer.counters.decisions
        trainer.episode()
        count = trainer.counters.decisions - before
        newest = trainer.replay.held.stop - 1  # the episode's last frame, at which nothing was done
        self.actions = trainer.replay.actions(np.arange(newest - count, newest))
        return trainer.state.updates

    def environment(self) -> None:
        env = self._trainer.env
        env.reset(seed=0)
        for action in self.actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset(seed=0)

    def updates(self) -> jax.Array:
        trainer, config = self._trainer, self._trainer.config.learner
        several = config.updates_per_decision
        batch = jax.device_put(trainer.replay.sample_many(several, config.batch_size, np.random.default_rng(0)))
        for _ in self.actions:
            trainer.state, _ = trainer.learner.update_many(trainer.state, batch)
        return trainer.state.updates

    def acting(self) -> None:
        trainer = self._trainer
        size, stack = trainer.config.env.render_size, trainer.config.env.frame_stack
        frames = np.zeros((size, size, 3 * stack), np.uint8)
        seen = trainer.learner.seen([Observation(frames[..., :3], frames, {})])
        for _ in self.actions:
            np.asarray(trainer.learner.sample_action(trainer.state.params, seen, jax.random.key(0)))


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    with ExitStack() as stack:
        try:
            config = endless(_PRESET.value, {"env.name": _ENV.value, "learner.method": "none"}, _SET.value)
            env = stack.enter_context(environment(config))
            trainer = stack.enter_context(Trainer(config, env, [], Silent()))
        except ValueError as error:
            fail(str(error))
        if BASES[config.learner.base].sampler.wants_errors:
            fail(f"base {config.learner.base} wants errors after each update: its updates are not measured alone")
        alone = Alone(trainer)
        for turn in range(_EPISODES.value + 1):
            for part in PARTS:
                took = timed(getattr(alone, part))
                if turn:  # the first compiles
                    seconds[part].append(took)
        storage, decisions = trainer.replay.storage, len(alone.actions)
    both = list(zip(seconds["environment"], seconds["updates"], strict=True))
    ratios = {
        "sum": statistics.median(t / sum(pair) for t, pair in zip(seconds["training"], both, strict=True)),
        "larger": statistics.median(t / max(pair) for t, pair in zip(seconds["training"], both, strict=True)),
    }
    print(f"{'part':>12} {'s an episode':>13} {'ms a decision':>14}")
    for part, times in seconds.items():
        middle = statistics.median(times)
        print(f"{part:>12} {middle:>13.2f} {1e3 * middle / decisions:>14.2f}")
    print(f"training over environment + updates: {ratios['sum']:.3f}; over the larger: {ratios['larger']:.3f}")
    figures = {"seconds": seconds, "ratios": ratios, "decisions": decisions, "replay_storage": storage}
    write(_OUT.value, figures, config)


if __name__ == "__main__":
    app.run(main)
