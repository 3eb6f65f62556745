"""What a launcher gets and gives back, and how a trial that failed is tried again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

LOST = os.EX_TEMPFAIL  # the node or the cluster ended the job; also a trial's own wish to be started again
HOPELESS = (0, 2, None)  # exit codes after which a trial is not tried again: done, a wrong value, stopped by the user


class Job(NamedTuple):
    """One command with a log of its own. ``share``: how much of it is done, in [0, 1]."""

    name: str
    command: Sequence[str]
    log: Path
    share: Callable[[], float]


class Outcome(NamedTuple):
    job: Job
    code: int | None  # exit code, negative for a signal, LOST if its node has vanished; None: stopped by the user
    seconds: float  # from its start, as the launcher saw it


# Told the outcomes so far and the share of all work that is done, in [0, 1].
Report = Callable[[list[Outcome], float], None]
Launcher = Callable[[Sequence[Job], Report], list[Outcome]]


def with_retries(run: Launcher, jobs: Sequence[Job], retries: int, report: Report) -> list[Outcome]:
    """Runs all jobs and then, up to ``retries`` times, those again that failed; each job's latest outcome, in order.

    The same command goes on where the trial's newest checkpoint is. ``report`` is told of every attempt.
    """
    latest: dict[str, Outcome] = {}
    attempts: list[Outcome] = []
    for _ in range(retries + 1):
        left = [job for job in jobs if job.name not in latest or latest[job.name].code not in HOPELESS]
        if not left:
            break

        def told(now: list[Outcome], share: float, before=tuple(attempts), left=tuple(left)) -> None:
            report([*before, *now], 1 - len(left) / len(jobs) * (1 - share))

        ended = run(left, told)
        attempts += ended
        latest |= {outcome.job.name: outcome for outcome in ended}
        if any(outcome.code is None for outcome in ended):
            break
    return [latest[job.name] for job in jobs]


def failures(outcomes: Sequence[Outcome]) -> str:
    """A table of what failed: name, exit code, last line of the log, and the command that repeats it."""
    lines = []
    for outcome in outcomes:
        if outcome.code != 0:
            code = "stopped" if outcome.code is None else f"exit {outcome.code}"
            lines += [f"{outcome.job.name:<44} {code:<9} {last_line(outcome.job.log)}",
                      f"    log:    {outcome.job.log}",
                      f"    repeat: {shlex.join(outcome.job.command)}"]  # fmt: skip
    return "\n".join(lines)


def last_line(log: Path) -> str:
    try:
        written = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return "(no log)"
    return next((line.strip()[:160] for line in reversed(written) if line.strip()), "(empty log)")
