"""Which views of a batch a base takes. Each function draws them from (look, key, batch)."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from covr_jax import augment
from covr_jax.augment import Views
from covr_jax.sight import Sight
from covr_jax.types import Batch


class Look(NamedTuple):
    """How a learner takes one pair of random views of o and o'."""

    sight: Sight
    augmentation: str
    size: int  # pixels of a view

    def draw(self, key: jax.Array, batch: Batch) -> Views:
        return self.sight.views(self.augmentation, key, batch, self.size)


def once(look: Look, key: jax.Array, batch: Batch) -> Views:
    return look.draw(key, batch)


def twice(look: Look, key: jax.Array, batch: Batch) -> Views:
    """DrQ: two independent pairs."""
    first, second = look.draw(key, batch), look.draw(jax.random.fold_in(key, 1), batch)
    return first._replace(copies=(second.o,), next_copies=(second.next_o,))


def with_strong(look: Look, key: jax.Array, batch: Batch) -> Views:
    """SVEA: the view of o once more, through a random convolution."""
    views = look.draw(key, batch)
    return views._replace(copies=(augment.random_conv(jax.random.fold_in(key, 1), views.o),))


def with_positive(look: Look, key: jax.Array, batch: Batch) -> Views:
    """CURL: a second view of o."""
    return look.draw(key, batch)._replace(positive=look.draw(jax.random.fold_in(key, 1), batch).o)


def ahead(look: Look, key: jax.Array, batch: Batch) -> Views:
    """SPR: besides o and o' each observation of the sequences, under a window and a brightness of its own."""
    frames = batch.sequence.frames
    steps, count = batch.sequence.action.shape[1] + 1, frames.shape[0]
    stacks = jnp.concatenate([frames[:, k : frames.shape[1] - steps + 1 + k] for k in range(steps)])
    window, brightness = (jax.random.fold_in(key, i) for i in (1, 2))
    seen = augment.intensity(brightness, augment.random_view(look.augmentation, window, stacks, look.size))
    seen = seen.reshape(steps, count, *seen.shape[1:])
    return look.draw(key, batch)._replace(start=seen[0], later=seen[1:])
