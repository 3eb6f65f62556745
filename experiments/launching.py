"""Flags that say where trials run, and what the screen shows while they do, for the programs that run many."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from experiments.launchers import local, ray, slurm
from experiments.launchers.outcome import Job, Launcher, Outcome, failures, with_retries
from experiments.report_page.numbers import duration

_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm", "ray"], "Where the trials run.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Trials at a time; on this machine they share out the cores.")
_RETRIES = flags.DEFINE_integer(
    "retries", 1, "How often a trial that crashed, was killed or lost its node is tried again, after the others.", 0
)
_GPUS = flags.DEFINE_list("gpus", [], "local: CUDA devices by number, one a worker; empty: what JAX finds.")
_SLURM = flags.DEFINE_multi_string(
    "slurm", [], "slurm: a parameter of submitit's AutoExecutor, as --slurm=timeout_min=600; repeatable."
)
_RAY = flags.DEFINE_multi_string(
    "ray", [], "ray: address=HOST:PORT of a cluster (else one is started here), cpus=N, gpus=N a trial; repeatable."
)


class Progress:
    """Tells how far the sweep is: a line that moves on a terminal, a line a minute in a log file."""

    def __init__(self, total: int):
        self._total, self._told, self._last = total, 0, 0.0
        self._start = time.monotonic()
        self._moves = sys.stderr.isatty()

    def __call__(self, outcomes: list[Outcome], share: float) -> None:
        for outcome in outcomes[self._told :]:
            what = "done" if outcome.code == 0 else f"FAILED (exit {outcome.code})"
            self._line(f"{what} {outcome.job.name}, {duration(outcome.seconds)}")
        now = time.monotonic()
        if len(outcomes) > self._told or now - self._last > (2 if self._moves else 60):
            self._last = now
            spent = now - self._start
            left = duration(spent / share - spent) if share > 0.001 else "?"
            done = sum(outcome.code == 0 for outcome in outcomes)
            text = f"{done}/{self._total} trials done, {len(outcomes) - done} failures, "
            text += f"{100 * share:.1f} %, about {left} left"
            sys.stderr.write(f"\r\x1b[K{text}" if self._moves else f"{text}\n")
            sys.stderr.flush()
        self._told = len(outcomes)

    def _line(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}\n" if self._moves else f"{text}\n")


def launch(jobs: Sequence[Job], out: Path) -> list[Outcome]:
    """Runs all jobs where the flags say. Raises ValueError, in one line, if that cannot be done."""
    signal.signal(signal.SIGTERM, _interrupt)
    return with_retries(_launcher(out), jobs, _RETRIES.value, Progress(len(jobs)))


def _launcher(out: Path) -> Launcher:
    if _LAUNCHER.value == "slurm":
        executor = slurm.executor(out / "slurm", _WORKERS.value, _SLURM.value)
        return lambda jobs, report: slurm.run(jobs, executor, report)
    if _LAUNCHER.value == "ray":
        chosen = ray.settings(_RAY.value, _WORKERS.value)
        return lambda jobs, report: ray.run(jobs, chosen, report)
    workers = local.share_out(_WORKERS.value, _GPUS.value)
    return lambda jobs, report: local.run(jobs, workers, report)


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def conclude(outcomes: Sequence[Outcome], out: Path, go_on: str) -> int:
    """Prints what failed and the next command; the exit code of the program. ``go_on``: how to do the rest."""
    failed = [outcome for outcome in outcomes if outcome.code != 0]
    sys.stderr.write("\n")
    if failed:
        stopped = sum(outcome.code is None for outcome in failed)
        words = f"{len(failed)} of {len(outcomes)} trials are not done" + (f", {stopped} stopped" if stopped else "")
        print(f"{words}:\n{failures(failed)}", file=sys.stderr)
        print(f"go on:  {go_on}", file=sys.stderr)
    print(f"report: python -m experiments.report {out}")
    if any(outcome.code is None for outcome in failed):
        return 130
    return 1 if failed else 0
