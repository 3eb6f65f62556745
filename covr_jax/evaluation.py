"""Episodes driven by a given policy, several environments in lock step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import gymnasium
import numpy as np

from covr_jax.envs.stack import FrameStack
from covr_jax.learner import Learner
from covr_jax.priors.source import PriorSource, PriorUnavailable
from covr_jax.schedule import asks
from covr_jax.types import Before, Observation, Params


class Episode(NamedTuple):
    """One finished episode; observations and actions are empty unless the episode was traced."""

    episode_return: float  # sum of rewards, reward units
    decisions: int
    observations: list[Observation]
    actions: list[np.ndarray]  # float32 [A] each
    totals: dict[str, float] | None = None  # the environment's own accounting of the episode, if it has one


REPEATS = 2  # of an episode that a fault of its simulator has cut; after them it counts as it is

# Observations of all N environments -> actions float32 [N, A]. Called with the same N every time, so that a
# compiled policy compiles once; environments that have finished repeat their last observation.
Policy = Callable[[list[Observation]], np.ndarray]


def mean_policy(learner: Learner, params: Params) -> Policy:
    """The actor's mean action, as at test time: no VLM, no noise."""
    return lambda observations: np.asarray(
        learner.mean_action(params, learner.seen(observations))
    )


class PriorPolicy:
    """The prior drives alone: asked every ``period`` steps, its answer held in between.

    Where a reply is malformed the action before it goes on; before the first valid reply the action is zero.
    One instance drives one set of environments; ``restart`` tells it that one of them begins an episode.
    """

    def __init__(self, prior: PriorSource, period: int, steps_per_decision: int, action_dim: int):
        self._prior, self._period, self._steps = prior, period, steps_per_decision
        self._action_dim = action_dim
        self._decisions: list[int] = []  # of each environment, since its episode began
        self._held: np.ndarray | None = None

    def __call__(self, observations: list[Observation]) -> np.ndarray:
        if self._held is None:
            self._held = np.zeros((len(observations), self._action_dim), np.float32)
            self._decisions = [0] * len(observations)
        asking = [i for i, decision in enumerate(self._decisions) if self._asks(decision)]
        labels = self._prior.predict([observations[i] for i in asking]) if asking else ()
        for i, label in zip(asking, labels, strict=True):
            if label.action is not None:
                self._held[i] = label.action
        self._decisions = [decision + 1 for decision in self._decisions]
        return self._held.copy()

    def restart(self, i: int) -> None:
        """Environment ``i`` begins an episode."""
        if self._held is not None:
            self._held[i], self._decisions[i] = 0.0, 0

    def _asks(self, decision: int) -> bool:
        now = decision * self._steps
        return asks(now - self._steps, now, self._period, first=decision == 0)


def prior_actions(
    prior: PriorSource, episode: Episode, period: int, steps_per_decision: int, action_dim: int, group: int
) -> np.ndarray | None:
    """What the prior, asked as ``PriorPolicy`` does but ``group`` pictures at once, would have done in an episode.

    float32 [T, A], NaN where there was no valid answer; None if it cannot be reached.
    """
    step = steps_per_decision
    asked = [t for t in range(episode.decisions) if asks((t - 1) * step, t * step, period, t == 0)]
    try:
        labels = [
            label
            for i in range(0, len(asked), group)
            for label in prior.predict([episode.observations[t] for t in asked[i : i + group]])
        ]
    except PriorUnavailable:
        return None
    actions = np.full((episode.decisions, action_dim), np.nan, np.float32)
    for t, label in zip(asked, labels, strict=True):
        actions[t:] = np.nan if label.action is None else label.action
    return actions


def run_episodes(
    envs: Sequence[gymnasium.Env],
    policy: Policy,
    frame_stack: int,
    seeds: Sequence[int],
    traced: int = 0,
    beginning: Callable[[int], None] = lambda i: None,
) -> list[Episode]:
    """One episode per seed, in the order of ``seeds``. The first ``traced`` of them keep frames and actions.

    An episode that ends by ``info["fault"]`` is driven again, from the same seed, up to REPEATS times. ``beginning`` is
    called with an environment's index whenever that begins an episode, for policies that remember something of theirs.
    """
    episodes: list[Episode] = []
    for start in range(0, len(seeds), len(envs)):
        chunk = seeds[start : start + len(envs)]
        episodes += _lock_step(envs, policy, frame_stack, chunk, traced - start, beginning)
    return episodes


def _lock_step(envs, policy, frame_stack, seeds, traced, beginning) -> list[Episode]:
    stacks, count = [FrameStack(frame_stack) for _ in envs], len(seeds)

    def begin(i: int) -> Observation:
        beginning(i)
        frame, info = envs[i].reset(seed=seeds[i])
        return Observation(frame, stacks[i].reset(frame), info["state"])

    observations = [begin(i) for i in range(count)]
    observations += [observations[0]] * (len(envs) - count)
    running, returns = [True] * count, np.zeros(count)
    traces = [Episode(0.0, 0, [], []) for _ in range(count)]
    lengths = [0] * count
    totals, repeats = [None] * count, [REPEATS] * count
    while any(running):
        chosen = policy(observations)
        for i in range(count):
            if not running[i]:
                continue
            if i < traced:
                traces[i].observations.append(observations[i])
                traces[i].actions.append(chosen[i])
            frame, reward, terminated, truncated, info = envs[i].step(chosen[i])
            before = Before(observations[i].stack, chosen[i])
            observations[i] = Observation(frame, stacks[i].push(frame), info["state"], before)
            returns[i] += reward
            lengths[i] += 1
            running[i] = not (terminated or truncated)
            totals[i] = info.get("totals")
            if "fault" in info and repeats[i]:
                observations[i] = begin(i)
                traces[i].observations.clear()
                traces[i].actions.clear()
                repeats[i], running[i], returns[i], lengths[i] = repeats[i] - 1, True, 0.0, 0
    return [
        traces[i]._replace(episode_return=float(returns[i]), decisions=lengths[i], totals=totals[i])
        for i in range(count)
    ]
