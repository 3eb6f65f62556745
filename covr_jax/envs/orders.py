"""What environments are told to do and what they answer, in this process or from another."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np


class Begin(NamedTuple):
    """An order: the episode of that seed, driven on by actions float32 [T, A]. Every other order is an action [A]."""

    seed: int
    actions: np.ndarray | tuple = ()


Order = Begin | np.ndarray


class Begun(NamedTuple):
    """The answer to ``Begin``."""

    frames: np.ndarray  # uint8 [T+1, H, W, 3]
    total: float  # reward so far
    info: dict[str, Any]  # of the last frame


class Moved(NamedTuple):
    """The answer to an action: what ``gymnasium.Env.step`` gave."""

    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class Failed(NamedTuple):
    """A worker's last answer: an exception in one line. ``refused``: its type, if the environment cannot be made."""

    line: str
    refused: type[Exception] | None = None


class Description(NamedTuple):
    """What ``covr_jax.envs.make`` says of an environment: a worker's first answer."""

    action_space: gymnasium.Space
    observation_space: gymnasium.Space
    action_repeat: int
    max_decisions: int
    action_names: tuple[str, ...]
    decision_rate: float
    repeatable: bool


def follow(env: gymnasium.Env, order: Order) -> Begun | Moved:
    """Does what it is told."""
    if not isinstance(order, Begin):
        return Moved(*env.step(order))
    frame, info = env.reset(seed=order.seed)
    frames, total = [frame], 0.0
    for action in order.actions:
        frame, reward, _, _, info = env.step(action)
        frames.append(frame)
        total += reward
    return Begun(np.stack(frames), total, info)


def describe(env: gymnasium.Env) -> Description:
    told = {name: getattr(env, name) for name in Description._fields if name != "repeatable"}
    return Description(**told, repeatable=getattr(env, "repeatable", True))
