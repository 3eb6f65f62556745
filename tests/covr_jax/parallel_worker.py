"""Some updates, on one device, on two, or in one of two processes: ``python parallel_worker.py OUT [PORT PROCESS]``.

With PORT this is process PROCESS of two with a device each, which has one half of every batch. Without, the process
needs two devices, and does everything on one of them and again on both. Writes parameters and losses to the folder OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from covr_jax import parallel
from covr_jax.learner import Learner
from tests.covr_jax import tiny

UPDATES, BATCH = 4, 16


def learner(mesh: Mesh | None) -> Learner:
    return Learner(tiny.config("rad", method="dpl"), tiny.ACTION_DIM, tiny.STACK, mesh=mesh)


def train(mesh: Mesh | None, place=lambda batch: batch) -> dict[str, np.ndarray]:
    """Path of each parameter -> its values after the updates, and ``loss/<i>``."""
    ours = learner(mesh)
    state, losses = ours.init(3, tiny.RENDER["rad"]), {}
    for i in range(UPDATES):
        state, metrics = ours.update(state, place(tiny.batch("rad", seed=i, size=BATCH)))
        losses[f"loss/{i}"] = np.array([metrics[name] for name in ("critic_loss", "actor_loss", "guidance_loss")])
    flat = jax.tree.leaves_with_path(jax.device_get((state.params, state.target)))
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat} | losses


def take_a_loaded_critic(mesh: Mesh) -> None:
    """A second critic comes from a file, which puts it on one device."""
    config = tiny.config("deepmdp", method="erpv")
    critic = Learner(config, tiny.ACTION_DIM, tiny.STACK).init(1, tiny.RENDER["deepmdp"]).target
    critic = jax.device_put(critic, jax.local_devices()[0])
    state = Learner(config, tiny.ACTION_DIM, tiny.STACK, mesh=mesh).init(3, tiny.RENDER["deepmdp"], critic)
    assert all(len(leaf.devices()) == mesh.size for leaf in jax.tree.leaves(state.value_critic))


def main(out: str, port: str = "", process: str = "") -> None:
    if not port:
        np.savez(Path(out) / "one.npz", **train(None))
        np.savez(Path(out) / "two.npz", **train(parallel.local_mesh(2)))
        take_a_loaded_critic(parallel.local_mesh(2))
        return
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    mesh = Mesh(np.asarray(jax.devices()), (parallel.AXIS,))
    half = slice(int(process) * BATCH // 2, (int(process) + 1) * BATCH // 2)
    trained = train(mesh, lambda batch: parallel.from_processes(jax.tree.map(lambda leaf: leaf[half], batch), mesh))
    np.savez(Path(out) / f"process_{process}.npz", **trained)


if __name__ == "__main__":
    main(*sys.argv[1:])
