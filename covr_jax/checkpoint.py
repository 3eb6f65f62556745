"""Parameters on disk, through Orbax: the one module that knows its interface."""

from __future__ import annotations

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from covr_jax.types import Params


def save_params(path: Path, params: Params) -> None:
    """Writes a parameter tree (float32 leaves) to the folder ``path``, replacing what is there; durable on return."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(path).absolute(), jax.device_get(params), force=True)


def load_params(path: Path, like: Params) -> Params:
    """Reads a tree that ``save_params`` wrote. ``like`` gives its structure, shapes and dtypes.

    Raises FileNotFoundError if there is none, ValueError if it does not fit ``like``.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, target)
