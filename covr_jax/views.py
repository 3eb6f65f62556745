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
    mask_block: int = 8  # consecutive observations under one mask (MLR)

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


def _stacks(batch: Batch) -> jax.Array:
    """The stacks of the sequences' observations, uint8 [T,C,S,H,W,3]."""
    frames, steps = batch.sequence.frames, batch.sequence.action.shape[1] + 1
    return jnp.stack([frames[:, k : frames.shape[1] - steps + 1 + k] for k in range(steps)])


def _moved(look: Look, key: jax.Array, stacks: jax.Array) -> jax.Array:
    """[N,C,v,v,3S] of [N,C,S,H,W,3]: each stack under a window of its own."""
    seen = augment.random_view(look.augmentation, key, stacks.reshape(-1, *stacks.shape[2:]), look.size)
    return seen.reshape(*stacks.shape[:2], *seen.shape[1:])


def _bright(look: Look, key: jax.Array, number: int, stacks: jax.Array) -> jax.Array:
    """As ``_moved``, each stack under a brightness of its own too; two ``number``s are other draws."""
    window, brightness = (jax.random.fold_in(key, 2 * number + i) for i in (2, 3))  # 0 and 1 are those of o and o'
    seen = _moved(look, window, stacks)
    return augment.intensity(brightness, seen.reshape(-1, *seen.shape[2:])).reshape(seen.shape)


def ahead(look: Look, key: jax.Array, batch: Batch) -> Views:
    """SPR: besides o and o' each observation of the sequences, under a window and a brightness of its own."""
    seen = _bright(look, key, 0, _stacks(batch))
    return look.draw(key, batch)._replace(start=seen[0], later=seen[1:])


def and_back(look: Look, key: jax.Array, batch: Batch, again: int) -> Views:
    """PlayVirtual: as SPR, and ``again`` further views of each first observation."""
    stacks = _stacks(batch)
    first = jnp.broadcast_to(stacks[:1], (again, *stacks.shape[1:]))
    return ahead(look, key, batch)._replace(again=_bright(look, key, 1, first))


def masked(look: Look, key: jax.Array, batch: Batch) -> Views:
    """MLR: each observation of the sequences twice, whole and through a mask that all sequences share.

    The mask lies on the frames, so that the window moves it too.
    """
    stacks = _stacks(batch)
    hidden = augment.cube_mask(jax.random.fold_in(key, 6), stacks.shape[0], stacks.shape[3], look.mask_block)
    covered = jnp.where(hidden[:, None, None, :, :, None], jnp.uint8(0), stacks)
    shown = look.draw(key, batch)
    return shown._replace(masked=_bright(look, key, 0, covered), later=_bright(look, key, 1, stacks))


def first_and_last(look: Look, key: jax.Array, batch: Batch) -> Views:
    """TACO: besides o and o' two views of the first observation of each sequence and one of the last."""
    stacks = _stacks(batch)
    keys = [jax.random.fold_in(key, i) for i in (2, 3, 4)]
    places = (stacks[:1], stacks[:1], stacks[-1:])
    start, again, last = (_moved(look, k, at) for k, at in zip(keys, places, strict=True))
    return look.draw(key, batch)._replace(start=start[0], again=again, later=last)
