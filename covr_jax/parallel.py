"""Data-parallel updates: a batch is split over devices, the state is on all of them, one program runs everywhere.

The learner's update is the same pure function as on one device. XLA derives from the shardings of its arguments where
sums over the batch cross devices, so the numbers agree with those of one device but for the order of these sums.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from covr_jax.types import Batch

AXIS = "data"


def local_mesh(devices: int) -> Mesh | None:
    """The first ``devices`` of this process; None for a single one. Raises ValueError, in one line, if it has fewer."""
    there = jax.local_devices()
    if devices > len(there):
        raise ValueError(f"learner.devices={devices}: this process has {len(there)} ({there[0].device_kind})")
    return None if devices == 1 else Mesh(np.asarray(there[:devices]), (AXIS,))


def check(devices: int, **sizes: int) -> None:
    """Raises ValueError, in one line, if a batch does not divide by the devices. ``sizes``: field -> rows."""
    for name, rows in sizes.items():
        if rows % devices:
            raise ValueError(f"learner.{name}={rows} does not divide by learner.devices={devices}")


def jit_init(function: Callable, mesh: Mesh | None) -> Callable:
    """``function`` -> state, on all devices of the mesh, wherever its arguments are."""
    if mesh is None:
        return jax.jit(function)
    compiled = jax.jit(function, out_shardings=NamedSharding(mesh, PartitionSpec()))
    return lambda *arguments: compiled(*jax.device_get(arguments))


def jit_update(function: Callable, mesh: Mesh | None, batch_axis: int) -> Callable:
    """``function(state, batch) -> (state, metrics)``, compiled; donates the state.

    With a mesh the batch's leaves are split along ``batch_axis``; state and metrics are on all devices.
    """
    if mesh is None:
        return jax.jit(function, donate_argnums=0)
    everywhere = NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(*[None] * batch_axis, AXIS))
    return jax.jit(function, donate_argnums=0, in_shardings=(everywhere, rows), out_shardings=everywhere)


def from_processes(batch: Batch, mesh: Mesh) -> Batch:
    """One batch out of the rows that each process has, in the order of the processes: what a mesh over all of
    ``jax.devices()`` wants after ``jax.distributed.initialize``. Leaves [b, ...] here, [processes * b, ...] there."""
    rows = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(rows, np.asarray(leaf)), batch)
