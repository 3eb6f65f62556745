"""Which views of a batch a base takes. Each function draws them from (look, key, batch)."""

from __future__ import annotations

from typing import NamedTuple

import jax

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
