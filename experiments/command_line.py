"""What the programs of this folder share at their edge."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging


def prepare() -> None:
    """Keeps libraries' informational lines off the screen, and compiled programs for the next start."""
    logging.set_verbosity(logging.WARNING)
    if not jax.config.jax_compilation_cache_dir and (folder := _compiled()):
        jax.config.update("jax_compilation_cache_dir", str(folder))


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
