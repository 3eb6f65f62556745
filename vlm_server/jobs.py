"""Tuning jobs: one worker, first come first served, each watched by any number of callers."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

_log = logging.getLogger(__name__)

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ENDED = (DONE, FAILED, CANCELLED)
MAX_ENDED = 256  # ended jobs that are remembered


class QueueFull(Exception):
    """Too many jobs are waiting."""


class Closed(Exception):
    """The worker takes no more jobs; those that are open are put off."""


class JobFailed(Exception):
    """A job failed for a reason that its caller may read."""


@dataclass(frozen=True)
class Progress:
    """Where a job stands."""

    state: str = QUEUED
    step: int = 0
    steps: int = 0
    loss: float = 0.0
    result: Any = None  # when done
    error: str = ""  # when failed


@dataclass(eq=False)
class Job:
    """One piece of work and where it stands."""

    run: str
    work: Callable[[Job], Any] | None  # None once the job has ended
    finally_do: Callable[[], None] | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    progress: Progress = Progress()
    cancelled: threading.Event = field(default_factory=threading.Event)
    put_off: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def stopping(self) -> bool:
        """Whether the work should end early, with ``JobFailed``."""
        return self.cancelled.is_set() or self.put_off.is_set()

    def report(self, step: int, steps: int, loss: float) -> None:
        """Called by the work after each step."""
        self._set(step=step, steps=steps, loss=loss)

    def _set(self, **changes: Any) -> None:
        with self.changed:
            self.progress = replace(self.progress, **changes)
            self.changed.notify_all()


class Jobs:
    """Runs jobs one at a time on a thread of its own."""

    def __init__(self, max_queued: int, on_end: Callable[[Job, str], None] = lambda job, state: None):
        """
        Args:
            on_end: called with each job that has ended and its state, before others see that state.
        """
        self._max_queued, self._on_end = max_queued, on_end
        self._jobs: dict[str, Job] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._queue: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._current: Job | None = None
        self._thread = threading.Thread(target=self._work, name="tuning", daemon=True)
        self._thread.start()

    def find(self, run: str, request_id: str) -> Job | None:
        """The job that this run started under this request id, if any; one that was cancelled may be tried again."""
        with self._wake:
            job = self._jobs.get(self._requests.get((run, request_id), ""))
            return None if job is None or job.cancelled.is_set() else job

    def check_room(self) -> None:
        """Whether one more job may wait.

        Raises:
            QueueFull: as many jobs wait as may.
            Closed: after ``close``.
        """
        with self._wake:
            if self._closed:
                raise Closed
            if len(self._queue) >= self._max_queued:
                raise QueueFull

    def start(
        self,
        run: str,
        request_id: str,
        work: Callable[[Job], Any],
        finally_do: Callable[[], None],
        job_id: str = "",
        beyond_the_limit: bool = False,
    ) -> Job:
        """Queues ``work(job)``, whose value becomes the job's result. The same request id gives the same job.

        Args:
            finally_do: called once when the job has ended in any way or is put off; or at once if it is not queued.
            job_id: of a job that gets a new one; "": any.
            beyond_the_limit: whether it is queued however many wait.

        Raises:
            QueueFull, Closed: as ``check_room``.
        """
        job = Job(run, work, finally_do, *([job_id] if job_id else []))
        refusal: Exception | None = None
        with self._wake:
            known = self.find(run, request_id) if request_id else None
            if known is None:
                try:
                    if self._closed or not beyond_the_limit:
                        self.check_room()
                except (QueueFull, Closed) as error:
                    refusal = error
            if known is None and refusal is None:
                self._forget_old()
                self._jobs[job.id] = job
                if request_id:
                    self._requests[run, request_id] = job.id
                self._queue.append(job)
                self._wake.notify()
                return job
        finally_do()
        if refusal is not None:
            raise refusal
        return known

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        with self._wake:
            return len(self._queue)

    @property
    def running(self) -> Progress:
        """Where the job stands that runs now; a fresh progress if none does."""
        job = self._current
        return Progress() if job is None else job.progress

    def get(self, job_id: str) -> Job | None:
        with self._wake:
            return self._jobs.get(job_id)

    def cancel(self, job: Job) -> Progress:
        """Ends a job as soon as it notices; one that waits ends at once. What has ended stays as it is."""
        job.cancelled.set()
        with self._wake:
            waiting = job in self._queue
            if waiting:
                self._queue.remove(job)
        if waiting:
            self._end(job, CANCELLED)
        return job.progress

    def watch(self, job: Job, alive: Callable[[], bool], poll_s: float = 0.5) -> Iterator[Progress]:
        """Yields the progress now and after each change (the newest only) until the job has ended.

        Raises:
            Closed: the job is put off.
        """
        seen = None
        while alive():
            if job.put_off.is_set() and job.progress.state not in ENDED:
                raise Closed
            with job.changed:
                if job.progress is seen:
                    job.changed.wait(poll_s)
                if job.progress is seen:
                    continue
                seen = job.progress
            yield seen
            if seen.state in ENDED:
                return

    def close(self, timeout_s: float | None = None) -> None:
        """Puts all open jobs off and ends the worker (waiting at most ``timeout_s``): none of them ends any more."""
        with self._wake:
            self._closed = True
            waiting, running = list(self._queue), self._current
            self._queue.clear()
            for job in (*waiting, *([running] if running else [])):
                job.put_off.set()
            self._wake.notify()
        for job in waiting:
            job.finally_do()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._queue or self._closed):
                    self._wake.wait()
                if not self._queue:
                    return
                job = self._current = self._queue.popleft()
            self._run(job)
            with self._wake:
                self._current = None

    def _run(self, job: Job) -> None:
        job._set(state=RUNNING)
        try:
            result = job.work(job)
        except JobFailed as error:
            if job.cancelled.is_set():
                self._end(job, CANCELLED)
            elif job.put_off.is_set():
                job.finally_do()
            else:
                self._end(job, FAILED, error=str(error))
        except Exception:  # a job fails alone
            code = uuid.uuid4().hex[:12]
            _log.exception("tuning job %s failed (error %s)", job.id, code)
            self._end(job, FAILED, error=f"internal error {code}; the server's log has the details")
        else:
            if job.put_off.is_set():  # its watchers know; whoever takes it up again finds what it made
                job.finally_do()
            else:
                self._end(job, DONE, result=result)

    def _end(self, job: Job, state: str, **changes: Any) -> None:
        job.finally_do()
        # Both hold on to the samples; what is remembered of a job must not.
        job.work = job.finally_do = None
        try:
            self._on_end(job, state)
        except Exception:  # the worker must outlive it
            _log.exception("the end of tuning job %s could not be noted", job.id)
        job._set(state=state, **changes)

    def _forget_old(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.progress.state in ENDED]
        for job_id in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self._jobs[job_id]
        self._requests = {key: job_id for key, job_id in self._requests.items() if job_id in self._jobs}
