"""Evaluates the policy of a run: the actor's mean action, no VLM, no server. Or what a prior would do alone there.

    python -m experiments.evaluate --run=runs/demo --episodes=10 --video=episode.mp4
    python -m experiments.evaluate --run=runs/highway --env=toy/jaywalk --set env.driving.weather=hard_rain_noon
    python -m experiments.evaluate --run=runs/highway --prior=teacher:random --set prior.period=1

Exit codes: 0 done, 2 a wrong value or a missing requirement, 3 no prior.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium
import numpy as np
from absl import app, flags

from covr_jax import seeds
from covr_jax.config import Config
from covr_jax.envs.gl import GlError
from covr_jax.evaluation import Policy, PriorPolicy, mean_policy, run_episodes
from covr_jax.priors.source import PriorUnavailable
from experiments import configuration
from experiments.command_line import fail, prepare
from experiments.policy import environment, load_policy
from experiments.run import new_namespace, open_prior
from experiments.run_directory import read_config
from experiments.video import write_episode

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes to drive.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the episodes.")
_ENV = flags.DEFINE_string("env", None, "Another environment than the run's, with the same actions: zero-shot.")
_PRIOR = flags.DEFINE_string("prior", None, "Who drives in the policy's place: a prior, as of experiments.train.")
_SET = flags.DEFINE_multi_string("set", [], "Any env.* field, as of experiments.train: --set env.driving.weather=...; "
                                 "with --prior also prior.*")  # fmt: skip
_VIDEO = flags.DEFINE_string("video", None, "Write the first episode to this mp4 file.")


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        evaluate(Path(_RUN.value))
    except PriorUnavailable as error:
        fail(str(error), code=3)
    except (ValueError, GlError, OSError) as error:
        fail(str(error))


def evaluate(run: Path) -> None:
    config = _as_asked(read_config(run))
    chosen = [seeds.integer(_SEED.value, "evaluation", i) for i in range(_EPISODES.value)]
    with environment(config) as env, _driver(run, config, env) as (policy, beginning):
        traced = int(_VIDEO.value is not None)
        episodes = run_episodes([env], policy, config.env.frame_stack, chosen, traced, beginning)
        returns = np.array([episode.episode_return for episode in episodes])
        print("returns: " + " ".join(f"{value:.1f}" for value in returns))
        print(f"mean {returns.mean():.1f}, std {returns.std():.1f} over {len(returns)} episodes")
        if episodes[0].totals is not None:
            means = {name: np.mean([each.totals[name] for each in episodes]) for name in episodes[0].totals}
            print("means: " + ", ".join(f"{name} {mean:.1f}" for name, mean in means.items()))
        if _VIDEO.value is not None:
            frames = np.stack([observation.frame for observation in episodes[0].observations])
            actions = np.stack(episodes[0].actions)
            print(f"video: {write_episode(_VIDEO.value, frames, actions, None, env.action_names, env.decision_rate)}")


@contextmanager
def _driver(run: Path, config: Config, env: gymnasium.Env) -> Iterator[tuple[Policy, Callable[[int], None]]]:
    """The run's policy, or --prior, and what to call when an episode begins. Raises ValueError, PriorUnavailable."""
    action_dim = env.action_space.shape[0]
    if _PRIOR.value is None:
        yield mean_policy(*load_policy(run, action_dim)), lambda i: None
        return
    steps = config.run.steps_per_decision(env.action_repeat)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_prior(config, Path(scratch), env, new_namespace(run)) as prior,
    ):
        policy = PriorPolicy(prior, config.prior.period, steps, action_dim)
        yield policy, policy.restart


def _as_asked(config: Config) -> Config:
    """The run's configuration with the environment and the prior of the command line. Raises ValueError."""
    asked = [] if _ENV.value is None else [f"env.name={_ENV.value}"]
    fields = ("env.",)
    if _PRIOR.value is not None:
        asked.append(f"prior.source={_PRIOR.value}")
        fields += ("prior.",)
    for setting in (*asked, *_SET.value):
        if not setting.startswith(fields) or setting.startswith(("env.render_size", "env.frame_stack")):
            raise ValueError(
                f"--set {setting}: must be a field of {' or '.join(each[:-1] for each in fields)}; the policy fixes "
                "size and stack of its frames"
            )
    return configuration.changed(config, (*asked, *_SET.value))


if __name__ == "__main__":
    app.run(main)
