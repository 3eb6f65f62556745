"""Trees of arrays on disk, through Orbax: the one module that knows its interface."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeVar

import jax
import orbax.checkpoint as ocp

from covr_jax.types import Params

Tree = TypeVar("Tree")


def save_tree(path: Path, tree: Tree) -> None:
    """Writes a tree of arrays to the folder ``path``, which does not exist yet.

    Raises OSError, in one line, if it cannot be written; then a part of it may be there.
    """
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(Path(path).absolute(), jax.device_get(tree), force=True)
    except Exception as error:  # Orbax and TensorStore have no type of their own for a full disk
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise OSError(f"cannot write {path}: {reason}") from error


def load_tree(path: Path, like: Tree) -> Tree:
    """Reads a tree that ``save_tree`` wrote. ``like`` gives its structure, shapes and dtypes.

    Raises ValueError if it does not fit ``like``.
    """
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(Path(path).absolute(), target)


def save_params(path: Path, params: Params) -> None:
    """Writes a parameter tree (float32 leaves) to the folder ``path``; whole on return. Raises OSError.

    What was there is kept as ``<path>.old`` until the new one is whole.
    """
    path = Path(path).absolute()
    new, old = path.with_name(path.name + ".new"), _old(path)
    save_tree(new, params)
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
    return load_tree(path, like)


def _old(path: Path) -> Path:
    return path.with_name(path.name + ".old")
