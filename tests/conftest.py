"""Compiled programs are kept between tests and runs: most of the suite's time is compilation."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

# One thread each: tests share their machine with the servers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"


def pytest_configure(config):
    if importlib.util.find_spec("jax") is None:
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Tests that may be skipped, by the reason they print. CI fails on any other: a missing library must not pass for green.
ALLOWED_SKIPS = ("needs an accelerator", "needs Ray")


def pytest_sessionfinish(session, exitstatus):
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    unexpected = sorted({report.nodeid for report in skipped if not _allowed(report)})
    if unexpected and os.environ.get("CI"):
        reporter.write_line(f"unexpected skips: {', '.join(unexpected)}", red=True)
        session.exitstatus = 1


def _allowed(report) -> bool:
    return isinstance(report.longrepr, tuple) and any(reason in report.longrepr[2] for reason in ALLOWED_SKIPS)
