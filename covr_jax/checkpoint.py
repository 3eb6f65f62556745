"""Parameters on disk, through Orbax: the one module that knows its interface."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from covr_jax.types import Params


def save_params(path: Path, params: Params) -> None:
    """Writes a parameter tree (float32 leaves) to the folder ``path``; durable on return.

    What was there is kept as ``<path>.old`` until the new one is whole: Orbax itself removes it first.
    """
    path = Path(path).absolute()
    new, old = path.with_name(path.name + ".new"), _old(path)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new, jax.device_get(params), force=True)
    if path.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def load_params(path: Path, like: Params) -> Params:
    """Reads a tree that ``save_params`` wrote. ``like`` gives its structure, shapes and dtypes.

    Raises FileNotFoundError if there is none, ValueError if it does not fit ``like``.
    """
    path = Path(path).absolute()
    if not path.is_dir() and _old(path).is_dir():
        path = _old(path)  # a save was cut off between its two renames
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, target)


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")
