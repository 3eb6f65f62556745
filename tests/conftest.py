"""Most of the suite's time is compilation: programs are kept, and those of the default suite compiled less hard."""

from __future__ import annotations

import os
import signal
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
# Of the environment, which the programs that tests start inherit; it is read when JAX is imported and first compiles.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# One thread each: tests share their machine with the servers that they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Without LLVM's optimisation, half of a program's compile time. Slow tests, and tests that are selected otherwise than
# by ``make test``, run programs as users do.
QUICK = "--xla_backend_optimization_level=0"


def pytest_configure(config):
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()


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
