"""Where the replay's frames lie: in the host's memory, or on the device that learns. Both give the same batches.

Rows are slots of the ring, flat frames uint8 [slots, H*W*3].
"""

from __future__ import annotations

import math
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.types import Array

STORAGES = ("auto", "device", "host")
DEVICE_SHARE = 0.5  # of the device's free memory that the ring may take; networks and batches need the rest
_ROWS = 256  # written or read at once, so that every transfer runs one compiled program


class Frames(Protocol):
    nbytes: int

    def write(self, slots: np.ndarray, frames: np.ndarray) -> None:
        """Frames uint8 [N, H, W, 3] into slots int [N]."""

    def read(self, slots: np.ndarray) -> np.ndarray:
        """uint8 [*slots.shape, H, W, 3], on the host."""

    def batch(self, slots: np.ndarray) -> Array:
        """The same, where a learner wants it; a copy."""


class HostFrames:
    """NumPy rows; memory is taken as it is used."""

    def __init__(self, slots: int, shape: tuple[int, ...]):
        self._shape = tuple(shape)
        # Flat, for NumPy gathers long rows with one copy each; zeros, for their pages are taken when written.
        self._rows = np.zeros((slots, math.prod(shape)), np.uint8)
        self.nbytes = self._rows.nbytes

    def write(self, slots: np.ndarray, frames: np.ndarray) -> None:
        self._rows[slots] = frames.reshape(len(slots), -1)

    def read(self, slots: np.ndarray) -> np.ndarray:
        return self._rows[slots].reshape(*slots.shape, *self._shape)

    def batch(self, slots: np.ndarray) -> np.ndarray:
        return self.read(slots)


class DeviceFrames:
    """A JAX array, written in place and gathered from by jitted programs; all of its memory is taken at once.

    A batch then costs its indices on the way to the device, not its pictures.
    """

    def __init__(self, slots: int, shape: tuple[int, ...]):
        self._shape, self._slots = tuple(shape), slots
        self._rows = jnp.zeros((slots, math.prod(shape)), jnp.uint8)
        self.nbytes = self._rows.nbytes

    def write(self, slots: np.ndarray, frames: np.ndarray) -> None:
        frames = frames.reshape(len(slots), -1)
        if len(slots) == 1:
            self._rows = _write_one(self._rows, np.int32(slots[0]), frames[0])
            return
        for start in range(0, len(slots), _ROWS):
            at, rows = slots[start : start + _ROWS], frames[start : start + _ROWS]
            missing = _ROWS - len(at)
            at = np.pad(at, (0, missing), constant_values=self._slots)  # no slot: dropped
            self._rows = _write_many(self._rows, at.astype(np.int32), np.pad(rows, ((0, missing), (0, 0))))

    def read(self, slots: np.ndarray) -> np.ndarray:
        flat = slots.reshape(-1)
        parts = [np.empty((0, *self._shape), np.uint8)]
        for start in range(0, len(flat), _ROWS):
            at = flat[start : start + _ROWS]
            padded = np.pad(at, (0, _ROWS - len(at)), mode="edge")
            parts.append(np.asarray(self.batch(padded))[: len(at)])
        return np.concatenate(parts).reshape(*slots.shape, *self._shape)

    def batch(self, slots: np.ndarray) -> jax.Array:
        return _gather(self._rows, slots.astype(np.int32), self._shape)


@partial(jax.jit, donate_argnums=0)
def _write_one(rows: jax.Array, slot: jax.Array, frame: jax.Array) -> jax.Array:
    return rows.at[slot].set(frame)


@partial(jax.jit, donate_argnums=0)
def _write_many(rows: jax.Array, slots: jax.Array, frames: jax.Array) -> jax.Array:
    return rows.at[slots].set(frames, mode="drop")


@partial(jax.jit, static_argnums=2)
def _gather(rows: jax.Array, slots: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return rows.at[slots].get(mode="promise_in_bounds").reshape(*slots.shape, *shape)


def free_device_memory() -> int | None:
    """Bytes that the default device can still hand out; None where it does not tell, as the CPU, whose memory is the
    host's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if not {"bytes_limit", "bytes_in_use"} <= stats.keys():
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def choose(storage: str, nbytes: int) -> str:
    """``device`` or ``host``, for a ring of so many bytes.

    ``auto``: on the device, if that tells its free memory and the ring takes at most ``DEVICE_SHARE`` of it. Raises
    ValueError for another name.
    """
    if storage not in STORAGES:
        raise ValueError(f"replay.storage={storage} is unknown; allowed: {', '.join(STORAGES)}")
    if storage != "auto":
        return storage
    free = free_device_memory()
    return "device" if free is not None and nbytes <= DEVICE_SHARE * free else "host"


def make(storage: str, slots: int, shape: tuple[int, ...]) -> Frames:
    """Frames of zeros in one of the places that ``choose`` names."""
    return {"device": DeviceFrames, "host": HostFrames}[storage](slots, shape)
