"""Tiny pixel tasks whose values and best actions are known, as endless random transitions; no environment loop.

Pictures are half white: which half tells the state. One action dimension, one frame a stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from covr_jax.methods import Base
from covr_jax.replay import ReplayBuffer
from covr_jax.types import Batch, Sequence

LEFT, RIGHT, TOP, BOTTOM = range(4)


def pictures(states: np.ndarray, side: int) -> np.ndarray:
    """Frames uint8 [..., side, side, 3] of the states [...]."""
    table = np.zeros((4, side, side, 3), np.uint8)
    half = side // 2
    table[LEFT, :, :half] = table[RIGHT, :, half:] = table[TOP, :half] = table[BOTTOM, half:] = 255
    return table[states]


class Transitions(NamedTuple):
    """Arrays [N] of states, rewards, whether the return goes on, and next states."""

    state: np.ndarray
    reward: np.ndarray
    not_done: np.ndarray
    next_state: np.ndarray


def fill(task: Callable, rng: np.random.Generator, shape: tuple[int, ...], side: int, base: Base) -> Batch:
    """Transitions of random states and uniform actions, as replay would hand them over to that base.

    What came before a state, and what follows in sequences, is random and tells nothing.
    """
    action = rng.uniform(-1, 1, shape).astype(np.float32)
    t = task(rng, action)
    frames = np.stack([pictures(t.state, side), pictures(t.next_state, side)], axis=len(shape))
    zeros = np.zeros(shape, np.float32)
    reward, not_done = (np.broadcast_to(np.float32(x), shape).astype(np.float32) for x in (t.reward, t.not_done))
    batch = Batch(frames, action[..., None], reward, not_done, zeros[..., None], zeros)
    if base.sight.remembers:
        before = pictures(rng.integers(0, 4, shape), side)[..., None, :, :, :]
        came = rng.integers(0, 2, shape).astype(np.float32)
        previous = (came * rng.uniform(-1, 1, shape)).astype(np.float32)[..., None]
        batch = batch._replace(
            frames=np.concatenate([before, frames], axis=len(shape)), previous_action=previous, previous_ok=came
        )
    if base.sequence:
        runs = (*shape[:-1], shape[-1] // 4)
        shown = pictures(rng.integers(0, 4, (*runs, base.sequence)), side)
        steps = rng.uniform(-1, 1, (*runs, base.sequence - 1, 1)).astype(np.float32)
        batch = batch._replace(sequence=Sequence(shown, steps, np.zeros(steps.shape[:-1], np.float32)))
    return batch


def replayed(task: Callable, rng: np.random.Generator, replay: ReplayBuffer, count: int, side: int) -> None:
    """Puts ``count`` transitions into a replay, each an episode of its own."""
    action = rng.uniform(-1, 1, count).astype(np.float32)
    t = task(rng, action)
    before, after = pictures(t.state, side), pictures(t.next_state, side)
    reward, not_done = (np.broadcast_to(np.float32(x), (count,)) for x in (t.reward, t.not_done))
    for i in range(count):
        replay.begin(before[i])
        replay.add(action[i : i + 1], float(reward[i]), float(not_done[i]), after[i], True)


def time_limit_or_terminal(rng: np.random.Generator, action: np.ndarray) -> Transitions:
    """Reward 1 always. LEFT never ends but is cut by a time limit: value 1/(1-discount). RIGHT ends at once: 1."""
    state = rng.choice([LEFT, RIGHT], action.shape)
    return Transitions(state, np.float32(1), state == LEFT, state)


def reward_by_action(rng: np.random.Generator, action: np.ndarray) -> Transitions:
    """One step, reward 1 - (a - 0.5)^2: best action 0.5."""
    state = np.full(action.shape, LEFT)
    return Transitions(state, 1 - (action - 0.5) ** 2, np.float32(0), state)


def reward_by_picture(rng: np.random.Generator, action: np.ndarray) -> Transitions:
    """One step, reward -(a - b)^2 with b = 0.6 in TOP and -0.6 in BOTTOM."""
    state = rng.choice([TOP, BOTTOM], action.shape)
    return Transitions(state, -((action - np.where(state == TOP, 0.6, -0.6)) ** 2), np.float32(0), state)


def two_steps(rng: np.random.Generator, action: np.ndarray) -> Transitions:
    """LEFT goes without reward to TOP for a > 0 and to BOTTOM otherwise; TOP ends with reward 1, BOTTOM with -1."""
    state = rng.choice([LEFT, TOP, BOTTOM], action.shape)
    next_state = np.where(state == LEFT, np.where(action > 0, TOP, BOTTOM), state)
    reward = np.select([state == TOP, state == BOTTOM], [1.0, -1.0], 0.0)
    return Transitions(state, reward, state == LEFT, next_state)
