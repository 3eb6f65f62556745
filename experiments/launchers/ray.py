"""Ray: the jobs as core tasks on one or several machines that see the same files.

Not Tune: a trial keeps its own checkpoints, and to try it again is to give the same command again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.launchers import node
from experiments.launchers.outcome import LOST, Job, Outcome, Report

POLL_S = 1.0


@dataclass(frozen=True)
class Settings:
    workers: int  # jobs at a time
    address: str = ""  # host:port of a cluster, or "auto"; "": a cluster of this machine, for the time of the sweep
    cpus: float = 1.0  # that a job reserves; it is told to use as many threads
    gpus: float = 0.0  # that a job reserves, and sees


def settings(parameters: Sequence[str], workers: int) -> Settings:
    """From "name=value" texts. Raises ValueError, in one line."""
    chosen: dict[str, Any] = {}
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        try:
            chosen[name] = {"address": str, "cpus": float, "gpus": float}[name](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"--ray={parameter}: must be address=HOST:PORT, cpus=NUMBER or gpus=NUMBER, for example cpus=2"
            ) from None
    if workers < 1:
        raise ValueError(f"--workers={workers}: must be at least 1")
    return Settings(workers, **chosen)


def run(
    jobs: Sequence[Job],
    settings: Settings,
    report: Report = lambda outcomes, share: None,
    poll_s: float = POLL_S,
) -> list[Outcome]:
    """Runs all jobs. Code LOST: the job's node has vanished. KeyboardInterrupt stops what runs, as ``node.call`` does.

    Raises ValueError, in one line, without Ray or where its cluster cannot be reached.
    """
    if not jobs:
        return []
    with _connected(settings) as ray:
        task = ray.remote(node.call).options(
            num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=0, name="covr_trial"
        )
        return _run(ray, task, jobs, settings.workers, report, poll_s)


def _run(ray: Any, task: Any, jobs: Sequence[Job], workers: int, report: Report, poll_s: float) -> list[Outcome]:
    waiting = deque(jobs)
    running: dict[Any, tuple[Job, float]] = {}
    outcomes: list[Outcome] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                result = task.remote(list(job.command), str(job.log.absolute()), os.getcwd())
                running[result] = job, time.monotonic()
            ended, _ = ray.wait(list(running), timeout=poll_s)
            for result in ended:
                job, start = running.pop(result)
                outcomes.append(Outcome(job, _code(ray, result), time.monotonic() - start))
            report(outcomes, (len(outcomes) + sum(job.share() for job, _ in running.values())) / len(jobs))
    except KeyboardInterrupt:
        for result in running:
            ray.cancel(result)
        with contextlib.suppress(KeyboardInterrupt):
            ray.wait(list(running), num_returns=len(running), timeout=node.GRACE_S)
        outcomes += [Outcome(job, None, time.monotonic() - start) for job, start in running.values()]
        outcomes += [Outcome(job, None, 0.0) for job in waiting]
    return outcomes


def _code(ray: Any, result: Any) -> int:
    try:
        return ray.get(result)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError,
            ray.exceptions.LocalRayletDiedError):  # fmt: skip
        return LOST


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ValueError("--launcher=ray needs Ray: pip install 'covr-jax[ray]'") from None
    cluster = {"address": settings.address} if settings.address else {
        "num_cpus": max(1, settings.cpus * settings.workers), "include_dashboard": False
    }  # fmt: skip
    try:
        ray.init(**cluster, log_to_driver=False, configure_logging=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ValueError(f"--launcher=ray: {' '.join(str(error).split())[:300]}") from None
    ray.cloudpickle.register_pickle_by_value(node)  # the nodes need the package for the commands alone
    try:
        yield ray
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node)
        ray.shutdown()
