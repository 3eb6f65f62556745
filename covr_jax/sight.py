"""What an agent looks at, learning and acting: its stack (``NOW``), or also the decision before (``CHANGE``).

A base names one of these and how many views of a batch it takes (``covr_jax.views``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import augment
from covr_jax.augment import Views, stacked
from covr_jax.types import Array, Batch, Observation


class Remembered(NamedTuple):
    """N observations and the decisions before them, zeros at the start of an episode."""

    stack: Array  # uint8 [N, H, W, 3S]
    previous_stack: Array  # uint8 [N, H, W, 3S]
    previous_action: Array  # float32 [N, A]


Seen = Array | Remembered  # what ``Sight.seen`` makes: the stacks alone, or more


@dataclass(frozen=True)
class Sight:
    """Names of augmentations and sizes as in ``augment``; channels: pictures of S frames that a view holds."""

    seen: Callable[[Sequence[Observation], int], Seen]  # observations, A; on the host
    acting: Callable[[str, Seen, int], tuple[jax.Array, jax.Array | None]]  # centre view, previous action
    views: Callable[[str, jax.Array, Batch, int], Views]  # random views of o and o'
    pictures: int = 1  # stacks side by side in a view's channels
    remembers: bool = False  # needs the decision before


def _stacks(observations: Sequence[Observation], action_dim: int) -> np.ndarray:
    del action_dim
    return np.stack([observation.stack for observation in observations])


def _stacks_and_before(observations: Sequence[Observation], action_dim: int) -> Remembered:
    befores = [observation.before for observation in observations]
    stack = np.stack([observation.stack for observation in observations])
    return Remembered(
        stack,
        np.stack([np.zeros_like(stack[0]) if before is None else before.stack for before in befores]),
        np.stack([np.zeros(action_dim, np.float32) if before is None else before.action for before in befores]),
    )


def _acting_now(name: str, seen: Array, size: int) -> tuple[jax.Array, None]:
    return augment.centre_view(name, seen, size), None


def _acting_on_change(name: str, seen: Remembered, size: int) -> tuple[jax.Array, jax.Array]:
    now, before = (augment.centre_view(name, stack, size) for stack in (seen.stack, seen.previous_stack))
    return jnp.concatenate([now, before], axis=-1), seen.previous_action


def _views_now(name: str, key: jax.Array, batch: Batch, size: int) -> Views:
    return augment.random_views(name, key, batch.frames, size)


def _views_of_change(name: str, key: jax.Array, batch: Batch, size: int) -> Views:
    """Three stacks a transition under one offset: o before o, o, o'. At an episode's start the first one is black."""
    frames = augment.shared_view(name, key, batch.frames, size)
    before, now, later = (stacked(frames[:, i : frames.shape[1] - 2 + i]) for i in range(3))
    before = jnp.where(batch.previous_ok[:, None, None, None] > 0, before, 0)
    return Views(jnp.concatenate([now, before], axis=-1), jnp.concatenate([later, now], axis=-1))


NOW = Sight(_stacks, _acting_now, _views_now)
CHANGE = Sight(_stacks_and_before, _acting_on_change, _views_of_change, pictures=2, remembers=True)
