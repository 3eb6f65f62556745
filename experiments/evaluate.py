"""Evaluates the policy of a run: the actor's mean action, no VLM, no server.

    python -m experiments.evaluate --run=runs/demo --episodes=10 --video=episode.mp4
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from absl import app, flags

from covr_jax import seeds
from covr_jax.envs.gl import GlError
from covr_jax.evaluation import mean_policy, run_episodes
from experiments.command_line import fail, prepare
from experiments.policy import environment, load_policy
from experiments.run_directory import read_config
from experiments.video import write_episode

_RUN = flags.DEFINE_string("run", None, "Run directory.", required=True)
_EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes to drive.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the episodes.")
_VIDEO = flags.DEFINE_string("video", None, "Write the first episode to this mp4 file.")


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        evaluate(Path(_RUN.value))
    except (ValueError, GlError, OSError) as error:
        fail(str(error))


def evaluate(run: Path) -> None:
    config = read_config(run)
    chosen = [seeds.integer(_SEED.value, "evaluation", i) for i in range(_EPISODES.value)]
    with environment(config) as env:
        policy = mean_policy(*load_policy(run, env.action_space.shape[0]))
        traced = int(_VIDEO.value is not None)
        episodes = run_episodes([env], policy, config.env.frame_stack, chosen, traced)
        returns = np.array([episode.episode_return for episode in episodes])
        print("returns: " + " ".join(f"{value:.1f}" for value in returns))
        print(f"mean {returns.mean():.1f}, std {returns.std():.1f} over {len(returns)} episodes")
        if _VIDEO.value is not None:
            frames = np.stack([observation.frame for observation in episodes[0].observations])
            actions = np.stack(episodes[0].actions)
            print(f"video: {write_episode(_VIDEO.value, frames, actions, None, env.action_names, env.decision_rate)}")


if __name__ == "__main__":
    app.run(main)
