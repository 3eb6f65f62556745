"""Tuning jobs from order to version. An order is on disk before its job exists, so that a restart loses none."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_server import batching, jobs, tasks, tuning
from vlm_server.adapter_errors import AdapterInUse, AdapterInvalid, AdapterNotFound, NoRoom
from vlm_server.datasets import DataSet, DataSets
from vlm_server.models import Vlm
from vlm_server.orders import Order, OrderBook
from vlm_server.serving import Pinned, ServedAdapters
from vlm_server.tasks import Task
from vlm_server.tuning import Sample, TuningOutcome

MAX_ATTEMPTS = 3  # of a job during which the server dies
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Made:
    """What a job made, and whether it answers now."""

    version: str
    digest: str
    activated: bool
    not_activated: str  # why it was not, although that was asked for; "" otherwise
    statistics: Mapping[str, Any]  # fields of ``tuning.Statistics``; None is NaN, as a manifest writes it


class Tuner:
    """Does orders one after the other. Thread-safe."""

    def __init__(
        self,
        vlm: Vlm,
        adapters: ServedAdapters,
        sets: DataSets,
        book: OrderBook,
        max_queued: int,
        on_end: Callable[[str], None] = lambda state: None,
        train: Callable[..., TuningOutcome] | None = None,
    ):
        """
        Args:
            max_queued: jobs that may wait.
            on_end: called with the state of each job that has ended.
            train: takes the place of ``tuning.train``.
        """
        self._vlm, self._adapters, self._sets, self._book = vlm, adapters, sets, book
        self._on_end, self._train = on_end, train
        self._begun: Order | None = None
        self._requests = threading.Lock()  # one request is looked up, written and queued at a time
        self.jobs = jobs.Jobs(max_queued, self._ended)

    def resume(self) -> int:
        """Queues the orders that a server before this one left open, in their order; how many."""
        orders = self._book.open()
        for order in orders:
            job = self._queue(order, lambda order=order: self._read(order), beyond_the_limit=True)
            if job.id != order.job:  # the server died while it found out that this request was known
                self._book.remove(order.job)
        if orders:
            _log.info("%d tuning jobs go on", len(orders))
        return len(orders)

    def submit(self, order: Order, data: DataSet) -> jobs.Job:
        """Queues an order; the job that its run ordered under this request id before, if there is one.

        Args:
            data: its samples; the job holds it, too, until it has ended.

        Raises:
            AdapterNotFound, AdapterCorrupt: the parent; as ``AdapterStore.hold``.
            NoRoom: the order cannot be written.
            jobs.QueueFull, jobs.Closed: as ``jobs.Jobs.start``.
        """
        with self._requests:
            known = self.jobs.find(order.run, order.request_id)
            if known is not None:
                return known
            self.jobs.check_room()  # before samples are written in vain
            order = self._book.add(order, data.task, data.samples)
            job = None
            try:
                held = ExitStack()
                self._sets.take(data.id, data.run)
                held.callback(self._sets.release, data.id)
                job = self._queue(order, lambda: (data.task, data.samples), held)
                return job
            finally:
                if job is None:
                    self._book.remove(order.job)

    def cancel(self, job: jobs.Job) -> jobs.Progress:
        """As ``jobs.Jobs.cancel``; a restart does not bring the job back."""
        with self._requests:  # the same request again comes before or after both
            progress = self.jobs.cancel(job)
            self._book.remove(job.id)  # nothing, if it had ended
        return progress

    def close(self, timeout_s: float | None = None) -> None:
        """Puts all open jobs off until ``resume``; waits ``timeout_s`` at most for the one that runs."""
        begun = self._begun
        try:
            if begun is not None:
                self._book.update(begun)  # an orderly end is no failed attempt, also if it comes too late for the job
        except (OSError, NoRoom):
            _log.warning("tuning job %s: its end is not noted and counts as a failed attempt", begun.job)
        self.jobs.close(timeout_s)

    def _queue(
        self,
        order: Order,
        samples: Callable[[], tuple[Task, Sequence[Sample]]],
        held: ExitStack | None = None,
        beyond_the_limit: bool = False,
    ) -> jobs.Job:
        held = held or ExitStack()
        try:
            parent, trouble = held.enter_context(self._adapters.pinned(order.run, order.parent)), ""
        except (AdapterNotFound, AdapterInvalid) as error:
            if not beyond_the_limit:
                held.close()
                raise
            parent, trouble = None, f"parent: {error}"

        def work(job: jobs.Job) -> Made:
            if trouble:
                raise jobs.JobFailed(trouble)
            return self._attempt(job, order, samples, parent)

        return self.jobs.start(order.run, order.request_id, work, held.close, order.job, beyond_the_limit)

    def _read(self, order: Order) -> tuple[Task, Sequence[Sample]]:
        """The samples of an order of a server before this one, when it is their turn."""
        try:
            task = tasks.get(order.task)
            return task, self._book.read(order, task)
        except ValueError as error:
            raise jobs.JobFailed(str(error)) from None

    def _attempt(self, job: jobs.Job, order: Order, samples, parent: Pinned) -> Made:
        if order.base_digest != self._vlm.digest:
            raise jobs.JobFailed("it was ordered for another base model")
        made = self._adapters.made_by(order.run, order.request_id)
        # The server may have died just after it made the version: it gets one attempt to activate it.
        if order.attempts >= MAX_ATTEMPTS + (made is not None):
            raise jobs.JobFailed(f"the server ended {order.attempts} times while it ran; it is not begun again")
        try:
            self._begun = order
            self._book.update(dataclasses.replace(order, attempts=order.attempts + 1))
            return self._tune(job, order, parent, *samples()) if made is None else self._found(job, order, made)
        except batching.Closed:
            raise jobs.JobFailed("the server is shutting down") from None
        except (tuning.TuningFailed, AdapterInvalid, AdapterInUse, AdapterNotFound, NoRoom) as error:
            raise jobs.JobFailed(str(error)) from None
        finally:
            self._begun = None

    def _found(self, job: jobs.Job, order: Order, made) -> Made:
        """The version that this request had made before its caller, or the server, was gone."""
        statistics = made.manifest["statistics"]
        refusal = order.refusal(statistics)
        if order.activate and not refusal:
            self._adapters.activate(order.run, made.version, lambda: _ask(job))
        self._adapters.prune(order.run, order.keep_latest)
        return Made(made.version, made.digest, order.activate and not refusal, refusal, statistics)

    def _tune(self, job: jobs.Job, order: Order, parent: Pinned, task: Task, samples: Sequence[Sample]) -> Made:
        self._adapters.verify(parent)
        train = self._train or tuning.train
        outcome = train(self._vlm, task, samples, parent.folder, order.config, job.report, job.stopping)
        statistics = dataclasses.asdict(outcome.statistics)
        refusal = order.refusal(statistics)
        activate = order.activate and not refusal
        _refuse_cancelled(job)

        def write(folder: Path) -> dict[str, Any]:
            return outcome.write(folder) | {
                "parent": parent.version,
                "base": {"model": self._vlm.name, "digest": self._vlm.digest},
                "data": {"task": task.name, "samples": len(samples), "digest": order.samples},
                "selection": order.selection,
                "request_id": order.request_id,
            }

        pinned = self._adapters.publish(order.run, write, activate, lambda: _ask(job), order.keep_latest)
        return Made(pinned.version, pinned.digest, activate, refusal, statistics)

    def _ended(self, job: jobs.Job, state: str) -> None:
        self._book.remove(job.id)
        self._on_end(state)


def _refuse_cancelled(job: jobs.Job) -> None:
    if job.cancelled.is_set():
        raise jobs.JobFailed("cancelled")


def _ask(job: jobs.Job) -> None:
    """Whether a version that is made may be activated."""
    _refuse_cancelled(job)
    if job.put_off.is_set():
        raise batching.Closed
