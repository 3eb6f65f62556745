"""What a launcher gets and gives back."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Job(NamedTuple):
    """One command with a log of its own. ``share``: how much of it is done, in [0, 1]."""

    name: str
    command: Sequence[str]
    log: Path
    share: Callable[[], float]


class Outcome(NamedTuple):
    job: Job
    code: int | None  # exit code, negative for a signal; None: it never ran to its end
    seconds: float  # from its start, as the launcher saw it


# Told the outcomes so far and the share of all work that is done, in [0, 1].
Report = Callable[[list[Outcome], float], None]


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
