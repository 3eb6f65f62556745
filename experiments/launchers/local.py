"""A pool of processes on this machine, each worker on cores of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from experiments.launchers.outcome import Job, Outcome, Report

POLL_S = 0.2
REPORT_S = 2.0
GRACE_S = 60.0  # a decision, a round under way, and the parameters on disk
# Threads of the libraries that do not look at the cores they may use.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker(NamedTuple):
    """What one trial at a time may use."""

    cores: tuple[int, ...]
    gpu: str = ""

    def environment(self) -> dict[str, str]:
        own = dict.fromkeys(THREADS, str(len(self.cores)))
        return os.environ | own | ({"CUDA_VISIBLE_DEVICES": self.gpu} if self.gpu else {})


class _Running(NamedTuple):
    job: Job
    worker: Worker
    process: subprocess.Popen
    start: float


def share_out(workers: int, gpus: Sequence[str] = ()) -> list[Worker]:
    """The cores that this process may use, and the GPUs, dealt out. Raises ValueError if there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= workers <= len(cores):
        raise ValueError(f"--workers={workers}: must be from 1 to {len(cores)}, the cores there are")
    if gpus and workers > len(gpus):
        raise ValueError(f"--workers={workers}: {len(gpus)} GPUs are named by --gpus, one a worker")
    each = len(cores) // workers
    return [Worker(tuple(cores[i * each : (i + 1) * each]), gpus[i] if gpus else "") for i in range(workers)]


def run(
    jobs: Sequence[Job],
    workers: Sequence[Worker],
    report: Report = lambda outcomes, share: None,
    grace_s: float = GRACE_S,
) -> list[Outcome]:
    """Runs all jobs; one that fails stops no other.

    KeyboardInterrupt ends the running ones by SIGTERM (and, ``grace_s`` seconds later or at a second KeyboardInterrupt,
    by SIGKILL); code None then stands for these and for those that never began.

    Args:
        report: called after each job and every REPORT_S seconds.
    """
    waiting, free = deque(jobs), deque(workers)
    running: list[_Running] = []
    outcomes: list[Outcome] = []
    told = (0, time.monotonic())  # outcomes at the latest report, and when that was
    try:
        while waiting or running:
            while waiting and free:
                running.append(_start(waiting.popleft(), free.popleft()))
            time.sleep(POLL_S)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                free.append(one.worker)
                outcomes.append(Outcome(one.job, one.process.returncode, time.monotonic() - one.start))
            if len(outcomes) > told[0] or time.monotonic() > told[1] + REPORT_S:
                told = (len(outcomes), time.monotonic())
                report(outcomes, (len(outcomes) + sum(one.job.share() for one in running)) / len(jobs))
    except KeyboardInterrupt:
        _stop(running, grace_s)
        outcomes += [Outcome(one.job, None, time.monotonic() - one.start) for one in running]
        outcomes += [Outcome(job, None, 0.0) for job in waiting]
    return outcomes


def _start(job: Job, worker: Worker) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=worker.environment(),
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then stops its trials
        )
    with suppress(ProcessLookupError):  # it has ended already
        os.sched_setaffinity(process.pid, worker.cores)
    return _Running(job, worker, process, time.monotonic())


def _stop(running: Sequence[_Running], grace_s: float) -> None:
    for one in running:
        one.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + grace_s
    try:
        for one in running:
            one.process.wait(max(end - time.monotonic(), 0.01))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for one in running:
            if one.process.poll() is None:
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()
