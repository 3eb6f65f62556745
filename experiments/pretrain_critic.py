"""Pre-trains ERPv's second critic: collects data in which a trained policy and the prior take turns, then fits it.

    python -m experiments.train --preset=cpu,erpv_intended --method=none --out=runs/base
    python -m experiments.pretrain_critic --policy=runs/base --prior=tiny --out=runs/critic
    python -m experiments.train --preset=cpu,erpv_intended --value_critic=runs/critic --prior=tiny --out=runs/erpv

Task, sizes and learning rates are those of the policy's run. Exit codes: 0 done, 2 a wrong value or a missing
requirement, 3 no prior, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np
from absl import app, flags
from tqdm import tqdm

from covr_jax import seeds
from covr_jax.alternating import SOURCES, Act, AlternatingExploration
from covr_jax.config import Config
from covr_jax.envs.gl import GlError
from covr_jax.envs.stack import FrameStack
from covr_jax.evaluation import PriorPolicy
from covr_jax.learner import Learner
from covr_jax.methods import BASES
from covr_jax.priors.source import PriorUnavailable
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.types import Before, Observation, Params
from covr_jax.value_critic import TARGETS, ValueCriticFit
from experiments import configuration, value_critic_artefact
from experiments.command_line import fail, prepare
from experiments.json_lines import read_lines
from experiments.policy import environment, load_policy
from experiments.run import new_namespace, open_prior
from experiments.run_directory import read_config

_POLICY = flags.DEFINE_string("policy", None, "Run directory of the trained policy.", required=True)
_PRIOR = flags.DEFINE_string("prior", "tiny", "The prior, as of experiments.train.")
_SET = flags.DEFINE_multi_string("set", [], "Any prior.* field, on top of the policy's run: --set prior.period=8")
_FRAMES = flags.DEFINE_integer("frames", 50_000, "Simulator frames to collect.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("updates", None, "Updates of the critic; default: as many as a run would make on them.",
                               lower_bound=1)  # fmt: skip
_DATA = flags.DEFINE_enum("data", "rae", SOURCES, "Who acts: policy and prior in turns, the prior, or the policy.")
_TARGET = flags.DEFINE_enum("target", "sarsa", TARGETS, "Bootstrap by the next action taken, or by the policy's.")
_DISCOUNT = flags.DEFINE_float("discount", None, "The critic's own; default: the learner's. A smaller one tells "
                               "actions better apart, for --set learner.vpg.gate=advantage.", 0.0, 1.0)  # fmt: skip
_SEED = flags.DEFINE_integer("seed", 1, "Seed of everything random.", lower_bound=0)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)


class Collected(NamedTuple):
    replay: ReplayBuffer  # each transition is labelled with the action that was taken next
    frames: int
    decisions: int
    prior_decisions: int
    returns: list[float]  # of whole episodes


def collect(config: Config, env: gymnasium.Env, explore: AlternatingExploration, frames: int, seed: int) -> Collected:
    """Drives whole decisions until ``frames`` simulator frames have passed."""
    size, action_dim = config.env.render_size, env.action_space.shape[0]
    capacity = frames // env.action_repeat + 1 + frames // 100  # and room for the last frames of episodes
    remembers = BASES[config.learner.base].sight.remembers
    replay = ReplayBuffer(capacity, (size, size, 3), action_dim, config.env.frame_stack, remembers=remembers)
    stack = FrameStack(config.env.frame_stack)
    done, decisions, by_prior, returns = 0, 0, 0, []
    with tqdm(total=frames, unit="frame", desc="collect") as bar:
        while done < frames:
            episode = len(returns)
            explore.begin(seeds.generator(seed, "alternation", episode))
            frame, info = env.reset(seed=seeds.integer(seed, "episode", episode))
            observation = Observation(frame, stack.reset(frame), info["state"])
            replay.begin(frame)
            total, over, previous = 0.0, False, None
            while not over and done < frames:
                by_prior += explore.prior_acts()
                action = explore(observation)
                frame, reward, terminated, truncated, info = env.step(action)
                over = terminated or truncated
                transition = replay.add(action, reward, float(not terminated), frame, over)
                if previous is not None:
                    replay.label(previous, action, ok=True, version=0, age=0)
                previous = transition
                before = Before(observation.stack, action)
                observation = Observation(frame, stack.push(frame), info["state"], before)
                total, decisions, done = total + reward, decisions + 1, done + info["frames"]
                bar.update(info["frames"])
            if over:
                returns.append(total)
    return Collected(replay, done, decisions, by_prior, returns)


def fit(fitting: ValueCriticFit, replay: ReplayBuffer, batch_size: int, updates: int, seed: int) -> tuple[Params, dict]:
    """C_V's parameters after ``updates`` TD updates, and the last update's metrics."""
    state, metrics = fitting.init(seed), {}
    with tqdm(total=updates, unit="update", desc="fit") as bar:
        for i in range(updates):
            state, metrics = fitting.update(state, replay.sample(batch_size, seeds.generator(seed, "replay", i)))
            if i % 100 == 99:
                bar.set_postfix({name: f"{float(value):.3g}" for name, value in metrics.items()})
            bar.update(1)
    return jax.device_get(state.params), {name: float(value) for name, value in metrics.items()}


def pretrain(out: Path) -> dict[str, Any]:
    """Does it all; returns what the manifest says of how it was made. Raises ValueError, GlError, PriorUnavailable."""
    if (out / "manifest.json").exists():
        raise ValueError(f"{out} already holds a value critic; name another folder by --out")
    run = Path(_POLICY.value)
    config = _as_asked(read_config(run))
    with environment(config) as env, tempfile.TemporaryDirectory() as scratch:
        action_dim, repeat = env.action_space.shape[0], env.action_repeat
        learner, params = load_policy(run, action_dim)
        steps = config.run.steps_per_decision(repeat)
        with open_prior(config, Path(scratch), env, new_namespace(out)) as prior:
            policy = _sampling(learner, params, _SEED.value)
            phase = functools.partial(PriorPolicy, prior, config.prior.period, steps, action_dim)
            explore = AlternatingExploration(_DATA.value, policy, phase, steps)
            data = collect(config, env, explore, _FRAMES.value, _SEED.value)
        updates = data.decisions * config.learner.updates_per_decision if _UPDATES.value is None else _UPDATES.value
        discount = config.learner.discount if _DISCOUNT.value is None else _DISCOUNT.value
        learning = dataclasses.replace(config.learner, discount=discount)
        fitting = ValueCriticFit(learning, action_dim, config.env.frame_stack, _TARGET.value, params)
        critic, metrics = fit(fitting, data.replay, config.learner.batch_size, updates, _SEED.value)
        made = {
            "data": _DATA.value,
            "target": _TARGET.value,
            "discount": discount,
            "prior": _PRIOR.value,
            "settings": _SET.value,
            "policy": str(run),
            "policy_frames": _frames_of(run),
            "seed": _SEED.value,
            "frames": data.frames,
            "decisions": data.decisions,
            "prior_share": data.prior_decisions / data.decisions,
            "episode_returns": data.returns,
            "updates": updates,
            **metrics,
        }
        value_critic_artefact.save(out, critic, value_critic_artefact.fits(config, action_dim, repeat), made)
    return made


def _as_asked(config: Config) -> Config:
    """The policy's configuration with the prior of the command line. Raises ValueError."""
    for setting in _SET.value:
        if not setting.startswith("prior."):
            raise ValueError(f"--set {setting}: must be a field of prior; the policy's run fixes the rest")
    return configuration.changed(config, (f"prior.source={_PRIOR.value}", *_SET.value))


def _frames_of(run: Path) -> int:
    """Simulator frames that the policy was trained for: they come before C_V's own (E19)."""
    lines = read_lines(run / "evaluations.jsonl")
    return lines[-1]["frames"] if lines else 0


def _sampling(learner: Learner, params: Params, seed: int) -> Act:
    """The policy as it explores: a new draw in every decision."""
    draws = itertools.count()
    root = jax.random.key(seeds.integer(seed, "action"))
    return lambda observation: np.asarray(
        learner.sample_action(params, learner.seen([observation]), jax.random.fold_in(root, next(draws)))
    )[0]


def main(argv: list[str]) -> int:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    out = Path(_OUT.value)
    try:
        made = pretrain(out)
    except PriorUnavailable as error:
        fail(str(error), code=3)
    except (ValueError, GlError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    print(
        f"value critic: {out} ({made['frames']} frames, {made['prior_share']:.0%} of them the prior's, "
        f"TD loss {made['td_loss']:.3g})\n"
        f"next:   python -m experiments.train --method=erpv --base=deepmdp --value_critic={out} ..."
    )
    return 0


if __name__ == "__main__":
    app.run(main)
