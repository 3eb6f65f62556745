"""Compiled programs are kept between tests and runs: most of the suite's time is compilation."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# One thread each: tests share their machine with the servers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"


def pytest_configure(config):
    if importlib.util.find_spec("jax") is None:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
