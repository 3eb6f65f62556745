"""Slurm through submitit: the jobs as one array, each with its own log."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.launchers import node
from experiments.launchers.outcome import LOST, Job, Outcome, Report

POLL_S = 2.0


def executor(folder: Path, workers: int, parameters: Sequence[str], cluster: str = "slurm") -> Any:
    """A submitit.AutoExecutor that runs ``workers`` jobs at a time.

    Args:
        folder: submitit's own files.
        parameters: "name=value" of its ``update_parameters``; whole numbers are numbers.

    Raises ValueError, in one line, without submitit, without Slurm, or for a parameter that it does not know.
    """
    try:
        import submitit
    except ImportError:
        raise ValueError("--launcher=slurm needs submitit: pip install 'covr-jax[slurm]'") from None
    chosen: dict[str, Any] = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals:
            raise ValueError(f"--slurm={parameter}: must look like name=value, for example timeout_min=600")
        chosen[name] = int(value) if value.isdecimal() else value
    try:
        made = submitit.AutoExecutor(folder=folder, cluster=cluster)
        made.update_parameters(name="covr", slurm_array_parallelism=workers, **chosen)
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"--launcher=slurm: {' '.join(str(error).split())}") from None
    return made


def run(
    jobs: Sequence[Job],
    executor: Any,
    report: Report = lambda outcomes, share: None,
    poll_s: float = POLL_S,
) -> list[Outcome]:
    """Submits all jobs and waits. Code LOST: the cluster ended that job. KeyboardInterrupt cancels what is left."""
    if not jobs:
        return []
    start = time.monotonic()
    columns = zip(*((list(job.command), str(job.log.absolute()), os.getcwd()) for job in jobs), strict=True)
    submitted = executor.map_array(node.call, *columns)
    left = dict(zip(range(len(jobs)), submitted, strict=True))
    outcomes: list[Outcome] = []
    try:
        while left:
            for index in [index for index, job in left.items() if job.done()]:
                outcomes.append(Outcome(jobs[index], _code(left.pop(index)), time.monotonic() - start))
            report(outcomes, (len(outcomes) + sum(jobs[index].share() for index in left)) / len(jobs))
            if left:
                time.sleep(poll_s)
    except KeyboardInterrupt:
        for job in left.values():
            job.cancel()
        outcomes += [Outcome(jobs[index], None, time.monotonic() - start) for index in left]
    return outcomes


def _code(job: Any) -> int:
    return job.result() if job.exception() is None else LOST
