"""Views: which part of the stored frames the encoder sees. Inside jit; uint8 in, uint8 out.

A view of size v is made from frames of size r. ``none``: v = r. ``crop``: a v-window of the frame. ``translate``: the
frame somewhere on a black canvas of size v. ``shift``: v = r, moved by up to 4 pixels, its edge repeated. Letters as in
``covr_jax.types``. What changes colours (``random_conv``, ``intensity``) gives float32 in the range of pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

SHIFT = 4  # pixels, DrQ's


class Views(NamedTuple):
    """What the networks see of one batch: the actor the first view, the critic and auxiliary losses also the others."""

    o: jax.Array  # uint8 [B,v,v,3S]
    next_o: jax.Array  # uint8 [B,v,v,3S]
    copies: tuple[jax.Array, ...] = ()  # further views of o, which the critic is fitted on too
    next_copies: tuple[jax.Array, ...] = ()  # further views of o', over which the target is averaged
    positive: jax.Array | None = None  # a second view of o, for contrast
    start: jax.Array | None = None  # [C,v,v,3S], of the first observations of the batch's sequences
    later: jax.Array | None = None  # [N,C,v,v,3S], of others: what a latent is held against
    again: jax.Array | None = None  # [M,C,v,v,3S], further views of the first observations
    masked: jax.Array | None = None  # [T,C,v,v,3S], of all, through a mask


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


def _still(key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    del key, size
    return frames


def _crop(key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    return _window(frames, _offsets(key, frames.shape[0], frames.shape[2] - size), size)


def _translate(key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    return _window(_on_canvas(frames, size), _offsets(key, frames.shape[0], size - frames.shape[2]), size)


def _shift(key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    """DrQ's (Yarats et al. 2021)."""
    margin = (SHIFT, SHIFT)
    padded = jnp.pad(frames, [(0, 0), (0, 0), margin, margin, (0, 0)], mode="edge")
    return _window(padded, _offsets(key, frames.shape[0], 2 * SHIFT), size)


def _centre(pictures: jax.Array, size: int) -> jax.Array:
    at = (pictures.shape[-3] - size) // 2
    return pictures[..., at : at + size, at : at + size, :]


_MOVES = {"none": _still, "crop": _crop, "translate": _translate, "shift": _shift}
NAMES = tuple(_MOVES)
_TOGETHER = ("none", "translate")  # o and o' share an offset
# Of the frame's side; RAD's 84 and 108 of 100.
VIEW_SHARE = {"none": 1.0, "crop": 0.84, "translate": 1.08, "shift": 1.0}


def check(name: str, render_size: int, image_size: int) -> None:
    """ValueError unless the view of this size can be made from frames of that size."""
    if name not in _MOVES:
        raise ValueError(f"augmentation {name!r} is unknown; allowed: {', '.join(NAMES)}")
    fits = {
        "none": render_size == image_size,
        "crop": render_size >= image_size,
        "translate": render_size <= image_size,
        "shift": render_size == image_size,
    }
    relation = {"none": "equal to", "crop": "at least", "translate": "at most", "shift": "equal to"}
    if not fits[name]:
        raise ValueError(
            f"render_size {render_size} does not fit: augmentation {name!r} needs it {relation[name]} "
            f"image_size {image_size}"
        )


def random_views(name: str, key: jax.Array, frames: jax.Array, size: int) -> Views:
    """Random training views of frames uint8 [B,S+1,H,W,3] (RAD, Laskin et al. 2020)."""
    if name in _TOGETHER:
        moved = shared_view(name, key, frames, size)
        return Views(stacked(moved[:, :-1]), stacked(moved[:, 1:]))
    now, later = jax.random.split(key)
    return Views(random_view(name, now, frames[:, :-1], size), random_view(name, later, frames[:, 1:], size))


def random_view(name: str, key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    """One random view [N,v,v,3S] of each of N stacks, uint8 [N,S,H,W,3]; offsets are independent."""
    return stacked(shared_view(name, key, frames, size))


def shared_view(name: str, key: jax.Array, frames: jax.Array, size: int) -> jax.Array:
    """Frames uint8 [B,n,H,W,3] under one random offset a sample, uint8 [B,n,v,v,3]."""
    return _MOVES[name](key, frames, size)


def random_conv(key: jax.Array, view: jax.Array) -> jax.Array:
    """A random 3x3 colour filter a sample, shared by its frames: [B,v,v,3S] -> float32 [B,v,v,3S] in (0, 255).

    Kernel N(0,1), edges repeated, sigmoid of the sums over pixels in [0,1] (Lee et al. 2020, as SVEA uses it).
    """
    kernels = jax.random.normal(key, (view.shape[0], 3, 3, 3, 3))  # B, row, column, in, out
    return filtered(view, kernels)


def filtered(view: jax.Array, kernels: jax.Array) -> jax.Array:
    """``random_conv`` with given kernels [B,3,3,I=3,O=3]."""
    batch, size = view.shape[:2]
    pixels = view.astype(jnp.float32).reshape(batch, size, size, -1, 3) / 255.0
    padded = jnp.pad(pixels, [(0, 0), (1, 1), (1, 1), (0, 0), (0, 0)], mode="edge")
    total = sum(
        jnp.einsum("bhwsi,bio->bhwso", padded[:, i : i + size, j : j + size], kernels[:, i, j])
        for i in range(3)
        for j in range(3)
    )
    return (255.0 * jax.nn.sigmoid(total)).reshape(view.shape)


def intensity(key: jax.Array, view: jax.Array, scale: float = 0.05) -> jax.Array:
    """Each sample brighter or darker: view [N,...] times 1 + scale clip(N(0,1), -2, 2), float32 (SPR)."""
    noise = jnp.clip(jax.random.normal(key, (view.shape[0],) + (1,) * (view.ndim - 1)), -2.0, 2.0)
    return view.astype(jnp.float32) * (1.0 + scale * noise)


def cube_mask(key: jax.Array, count: int, side: int, block: int, cells: int = 10, share: float = 0.5) -> jax.Array:
    """Which pixels are hidden, bool [count,side,side]: a random share of cells x cells squares (MLR).

    Drawn anew for every ``block`` of consecutive pictures.
    """
    blocks = -(-count // block)
    order = jax.vmap(lambda k: jax.random.permutation(k, cells**2))(jax.random.split(key, blocks))
    hidden = (order < int(share * cells**2)).reshape(blocks, cells, cells)
    cell = jnp.arange(side) * cells // side
    return hidden[:, cell][:, :, cell][jnp.arange(count) // block]


def centre_view(name: str, stack: jax.Array, size: int) -> jax.Array:
    """The view that acts: stack uint8 [N,H,W,3S] -> uint8 [N,size,size,3S], crop or placement at the centre."""
    if name == "translate":
        # The frame's top left corner lies at (size - H) // 2, as in RAD.
        before = (size - stack.shape[1]) // 2
        after = size - stack.shape[1] - before
        return jnp.pad(stack, [(0, 0), (before, after), (before, after), (0, 0)])
    return _centre(stack, size)
