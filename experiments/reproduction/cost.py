"""What a plan costs: one learner is timed, the others are taken to run at its floating-point rate."""

from __future__ import annotations

import math
import time
from collections import Counter, namedtuple
from collections.abc import Mapping
from typing import NamedTuple

import jax

from covr_jax.config import Config
from covr_jax.learner import Learner
from covr_jax.methods import METHODS
from covr_jax.schedule import tuning_steps
from experiments import configuration, update_work
from experiments.random_batch import ACTION_DIM, random_batch
from experiments.reproduction.here import Site
from experiments.reproduction.plan import Plan, critic_frames

MEASURED_S = 3.0
SIZES = ("base", "augmentation", "image_size", "filters", "kernels", "strides", "feature_dim", "hidden_dim",
         "model_hidden_dim", "batch_size", "sequence_batch_size")  # fmt: skip
LearnerKey = namedtuple("LearnerKey", (*SIZES, "render_size", "frame_stack"))


class Load(NamedTuple):
    """What one trial does."""

    decisions: int
    updates: int
    frames: int  # simulated: learning and evaluations
    questions: int  # to the VLM while learning
    rounds: int  # of tuning


def load(config: Config, site: Site) -> Load:
    """Counted from the configuration. ``site`` must have an environment."""
    run, learner, method = config.run, config.learner, METHODS[config.learner.method]
    decisions = run.steps // run.steps_per_decision(site.repeat)
    episodes = run.steps // run.eval_every * run.eval_episodes
    due = tuning_steps(run.steps, config.rounds.psi0, config.rounds.schedule) if method.tunes_prior else []
    asking = run.steps
    if method.tunes_prior and not config.rounds.cold_start_labels:
        cold = config.rounds.cold_start
        asking = run.steps - (due[cold - 1] if 0 < cold <= len(due) else run.steps if cold else 0)
    return Load(
        decisions,
        max(decisions - run.random_decisions, 0) * learner.updates_per_decision,
        (decisions + episodes * site.max_decisions) * site.repeat,
        min(asking // config.prior.period, decisions) if method.asks_prior else 0,
        len(due),
    )


class Cost(NamedTuple):
    """Of a whole plan, one trial after the other. ``rates``: updates a second by learner; the first was measured."""

    loads: Load  # summed over all trials, policies and critics
    rates: dict[LearnerKey, float]
    hours: float
    uncounted: int  # trials whose environment is missing: only their updates are in the hours


def estimate(plan: Plan, sites: Mapping[str, Site]) -> Cost:
    """Times the plan's commonest learner on random pictures, and counts. Takes a compilation, and seconds."""
    critics = plan.critics
    trials = [item.trial for item in plan.items] + plan.policies
    keys = Counter(learner_key(trial.config) for trial in trials)
    configs = {learner_key(trial.config): trial.config for trial in trials}
    first = keys.most_common(1)[0][0]
    rate = updates_per_second(configs[first])
    work = {key: flops(config) for key, config in configs.items()}
    rates = {first: rate} | {key: rate * work[first] / work[key] for key in configs if key != first}

    loads, hours, uncounted = [], 0.0, 0
    for trial in trials:
        site = sites[trial.task]
        uncounted += bool(site.missing)
        one = load(trial.config, site if not site.missing else Site(repeat=1))
        loads.append(one if not site.missing else one._replace(frames=0))
        hours += one.updates / rates[learner_key(trial.config)] / 3600
        hours += 0 if site.missing else one.frames / site.frames_per_second / 3600
    for critic in critics:
        site, config = sites[critic.policy.task], critic.policy.config
        frames = critic_frames(config, lambda config, site=site: site.repeat or 1)
        decisions = frames // (site.repeat or config.env.action_repeat or 1)
        updates = decisions * config.learner.updates_per_decision
        loads.append(Load(decisions, updates, frames, 0, 0))
        hours += updates / rates[learner_key(config)] / 3600
        hours += 0 if site.missing else frames / site.frames_per_second / 3600
    return Cost(Load(*map(sum, zip(*loads, strict=True))), rates, hours, uncounted)


def learner_key(config: Config) -> LearnerKey:
    """What the cost of an update depends on, methods apart: their terms add a few percent."""
    sizes = (getattr(config.learner, name) for name in SIZES)
    return LearnerKey(*sizes, config.env.render_size, config.env.frame_stack)


def _alone(config: Config) -> tuple[Config, Learner]:
    config = configuration.changed(config, ["learner.method=none"])
    return config, Learner(config.learner, ACTION_DIM, config.env.frame_stack)


def updates_per_second(config: Config) -> float:
    """Of the configuration's base on this machine's first device, once compiled."""
    config, learner = _alone(config)
    batch = random_batch(config)
    state, _ = learner.update(learner.init(0, config.env.render_size), batch)
    jax.block_until_ready(state)
    done, start = 0, time.perf_counter()
    while done < 2 or time.perf_counter() - start < MEASURED_S:
        state, _ = learner.update(state, batch)
        jax.block_until_ready(state)
        done += 1
    return done / (time.perf_counter() - start)


def flops(config: Config) -> float:
    """Floating-point work of an update of the configuration's base, as XLA counts it; nothing is compiled."""
    config, learner = _alone(config)
    counted = update_work.flops(learner, learner.shapes(), random_batch(config))
    if math.isnan(counted):
        raise ValueError(f"XLA does not tell the work of base {config.learner.base}")
    return counted
