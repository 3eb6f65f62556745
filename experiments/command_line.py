"""What the programs of this folder share at their edge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import logging

COMPILED = Path.home() / ".cache" / "covr_jax" / "xla"


def prepare() -> None:
    """Keeps libraries' informational lines off the screen, and compiled programs for the next start.

    The cache is code that will run: its folder belongs to the user alone.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        COMPILED.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to costs a minute of compilation, no more
    jax.config.update("jax_compilation_cache_dir", str(COMPILED))


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with one line on standard error."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)
