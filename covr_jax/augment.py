"""Views: which part of the stored frames the encoder sees. Inside jit; uint8 in, uint8 out.

A view of size v is made from frames of size r. ``none``: v = r. ``crop``: a v-window of the frame. ``translate``: the
frame somewhere on a black canvas of size v. Letters as in ``covr_jax.types``.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Views(NamedTuple):
    """What the networks see of one batch."""

    o: jax.Array  # uint8 [B,v,v,3S]
    next_o: jax.Array  # uint8 [B,v,v,3S]


def stacked(frames: jax.Array) -> jax.Array:
    """Frames [B,S,H,W,3] -> stack [B,H,W,3S], oldest frame first, RGB within a frame."""
    batch, stack, height, width, channels = frames.shape
    return jnp.moveaxis(frames, 1, 3).reshape(batch, height, width, stack * channels)


def _window(frames: jax.Array, offset: jax.Array, size: int) -> jax.Array:
    """Cuts [B,S,size,size,3] out of [B,S,H,W,3] at offset int32 [B,2] (row, column), one offset a sample."""

    def cut(sample: jax.Array, at: jax.Array) -> jax.Array:
        stack, _, _, channels = sample.shape
        return jax.lax.dynamic_slice(sample, (0, at[0], at[1], 0), (stack, size, size, channels))

    return jax.vmap(cut)(frames, offset)


def _on_canvas(frames: jax.Array, size: int) -> jax.Array:
    """Pads H and W by size - H black pixels on every side: each size-window then holds the whole frame."""
    margin = (size - frames.shape[-3],) * 2
    return jnp.pad(frames, [(0, 0)] * (frames.ndim - 3) + [margin, margin, (0, 0)])


def _offsets(key: jax.Array, batch: int, slack: int) -> jax.Array:
    return jax.random.randint(key, (batch, 2), 0, slack + 1)


def _no_views(key: jax.Array, frames: jax.Array, size: int) -> Views:
    del key, size
    return Views(stacked(frames[:, :-1]), stacked(frames[:, 1:]))


def _crop_views(key: jax.Array, frames: jax.Array, size: int) -> Views:
    """Independent offsets for o and o'; all frames of a stack share theirs."""
    slack = frames.shape[2] - size
    now, later = (_offsets(k, frames.shape[0], slack) for k in jax.random.split(key))
    return Views(stacked(_window(frames[:, :-1], now, size)), stacked(_window(frames[:, 1:], later, size)))


def _translate_views(key: jax.Array, frames: jax.Array, size: int) -> Views:
    """One offset for o and o'."""
    offset = _offsets(key, frames.shape[0], size - frames.shape[2])
    moved = _window(_on_canvas(frames, size), offset, size)
    return Views(stacked(moved[:, :-1]), stacked(moved[:, 1:]))


def _centre(pictures: jax.Array, size: int) -> jax.Array:
    at = (pictures.shape[-3] - size) // 2
    return pictures[..., at : at + size, at : at + size, :]


_VIEWS = {"none": _no_views, "crop": _crop_views, "translate": _translate_views}
NAMES = tuple(_VIEWS)
VIEW_SHARE = {"none": 1.0, "crop": 0.84, "translate": 1.08}  # of the frame's side; RAD's 84 and 108 of 100


def check(name: str, render_size: int, image_size: int) -> None:
    """ValueError unless the view of this size can be made from frames of that size."""
    if name not in _VIEWS:
        raise ValueError(f"augmentation {name!r} is unknown; allowed: {', '.join(NAMES)}")
    fits = {
        "none": render_size == image_size,
        "crop": render_size >= image_size,
        "translate": render_size <= image_size,
    }
    relation = {"none": "equal to", "crop": "at least", "translate": "at most"}
    if not fits[name]:
        raise ValueError(
            f"render_size {render_size} does not fit: augmentation {name!r} needs it {relation[name]} "
            f"image_size {image_size}"
        )


def random_views(name: str, key: jax.Array, frames: jax.Array, size: int) -> Views:
    """Random training views of frames uint8 [B,S+1,H,W,3] (RAD, Laskin et al. 2020)."""
    return _VIEWS[name](key, frames, size)


def centre_view(name: str, stack: jax.Array, size: int) -> jax.Array:
    """The view that acts: stack uint8 [N,H,W,3S] -> uint8 [N,size,size,3S], crop or placement at the centre."""
    if name == "translate":
        # The frame's top left corner lies at (size - H) // 2, as in RAD.
        before = (size - stack.shape[1]) // 2
        after = size - stack.shape[1] - before
        return jnp.pad(stack, [(0, 0), (before, after), (before, after), (0, 0)])
    return _centre(stack, size)
