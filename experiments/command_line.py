"""What the programs of this folder share at their edge."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging

KEPT_S = 0.1  # programs that take longer to compile are kept; JAX's own limit of a second leaves out acting
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def prepare() -> None:
    """Keeps libraries' informational lines off the screen, freed memory, and compiled programs for the next start."""
    logging.set_verbosity(logging.WARNING)
    _keep_freed_memory()
    if not jax.config.jax_compilation_cache_dir and (folder := _compiled()):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_S)


def _keep_freed_memory() -> None:
    """Makes glibc keep what is freed: an update's arrays of megabytes would else be given back to the kernel and
    zeroed page by page at each use, a tenth to a quarter of an update on the CPU. Other C libraries: nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


def _compiled() -> Path | None:
    """Where compiled programs are kept; None where that would not be safe. They are code that will run: the folder must
    be the user's and closed to others."""
    try:
        folder = Path.home() / ".cache" / "covr_jax" / "xla"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):
        return None
    return folder if status.st_uid == os.getuid() and not status.st_mode & 0o022 else None


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with one line on standard error."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)
