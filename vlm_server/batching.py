"""The one thread that owns the model: it answers questions in micro-batches and does chores between them.

A model tree with LoRA adapters is not safe to use from two threads (peft switches adapters by changing the
modules), so everything that touches it is queued here.
"""

from __future__ import annotations

import bisect
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

RECENT_S = 1.0  # a client that asked within so many seconds may ask again at once
_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """Too many frames are waiting; one line names the limit."""


class Closed(Exception):
    """The batcher takes no more work."""


@dataclass(frozen=True)
class Question:
    """What frames must have in common to be answered in one batch."""

    task: Any  # tasks.Task
    adapter: str | None  # the engine's key of the adapter; None: the base model
    constrained: bool
    max_new_tokens: int
    frame_shape: tuple[int, int, int]  # H, W, 3


@dataclass(frozen=True)
class Answer:
    """Replies in the order of the observations; times in milliseconds."""

    replies: list
    queue_ms: float
    encode_ms: float
    generate_ms: float
    batch_size: int  # frames answered together, the largest batch if there were several


@dataclass(eq=False)
class _Request:
    question: Question
    observations: Sequence
    client: str
    turn: int  # place in the queue: smaller ones go first
    answer: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Queues questions and chores for the thread that owns ``engine``.

    Requests with equal questions that arrive within ``max_delay_ms`` of the first, or of the end of the batch before,
    are answered together, up to ``max_batch`` frames: who came too late for a batch does not go alone ahead of those
    who were in it and ask again at once. Nobody waits for company once every client that asked or was answered in the
    last second has a request in the queue, so that a lone client never waits. A request is never spread over batches
    with others' frames: it fits whole, or waits, or (longer than ``max_batch``) is computed alone in slices. So the
    batches of a lone client that waits for each answer depend on nothing but its own requests.

    Clients share the thread by frames (self-clocked fair queueing): a request's turn is where its client's earlier
    ones end, and never before the end of what is served now. One client's requests keep their order, and a client
    that asks little is not behind one that has filled the queue.
    """

    def __init__(
        self,
        engine: Any,
        max_batch: int = 16,
        max_delay_ms: float = 2.0,
        max_queue: int = 256,
        max_queue_per_client: int = 2**20,
    ):
        self._engine = engine
        self._max_batch, self._max_delay = max_batch, max_delay_ms / 1e3
        self._max_queue, self._max_per_client = max_queue, max_queue_per_client
        self._requests: list[_Request] = []  # by turn
        self._turn = 0  # at which what is served now ends, frames
        self._ends: dict[str, int] = {}  # client -> the turn at which its requests end
        self._freed = 0.0  # when the last batch was answered
        self._asked: dict[str, float] = {}  # client -> when it asked, or was answered, last
        self._chores: deque[tuple[Callable[[], Any], Future]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, question: Question, observations: Sequence, client: str = "") -> Future[Answer]:
        """Queues one request. Cancelling the future drops it, also in the middle of its computation.

        A full queue makes room for a client that has less in it than the greediest one, whose newest request then
        ends in ``QueueFull``.

        Args:
            client: who asks; the thread is shared evenly between clients.

        Raises:
            QueueFull: ``max_queue`` frames, or ``max_queue_per_client`` of this client, would be exceeded.
            Closed: after ``close``.
        """
        frames = len(observations)
        with self._wake:
            if self._closed:
                raise Closed
            self._requests = [r for r in self._requests if not r.answer.cancelled()]
            victims = self._victims(client, frames)
            self._requests = [r for r in self._requests if r not in victims]
            self._asked[client] = time.monotonic()
            turn = max(self._turn, self._ends.get(client, 0))
            self._ends[client] = turn + frames
            request = _Request(question, observations, client, turn)
            bisect.insort(self._requests, request, key=lambda r: r.turn)
            self._wake.notify()
        for victim in victims:
            _settle(victim.answer, None, QueueFull(f"{self._max_queue} frames may wait (max_queue), shared evenly"))
        return request.answer

    def _victims(self, client: str, frames: int) -> list[_Request]:
        """The requests that have to leave the queue for this one."""
        held: Counter[str] = Counter()
        for request in self._requests:
            held[request.client] += len(request.observations)
        if held[client] + frames > self._max_per_client:
            raise QueueFull(
                f"{held[client]} frames of this client wait and {self._max_per_client} may (max_queue_per_client)"
            )
        waiting, victims = sum(held.values()), []
        excess = waiting + frames - self._max_queue
        while excess > 0:
            greediest = max(held, key=held.__getitem__)
            newest = [r for r in self._requests if r.client == greediest and r not in victims][-1:]
            size = sum(len(r.observations) for r in newest)
            if not newest or held[greediest] - size < held[client] + frames:
                raise QueueFull(f"{waiting} frames wait and {self._max_queue} may (max_queue)")
            victims += newest
            held[greediest] -= size
            excess -= size
        return victims

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        with self._wake:
            return sum(len(r.observations) for r in self._requests if not r.answer.cancelled())

    def call(self, chore: Callable[[], Any]) -> Future:
        """Runs ``chore()`` on the inference thread before the next batch, e.g. to publish an adapter.

        Raises:
            Closed: after ``close``.
        """
        done: Future = Future()
        with self._wake:
            if self._closed:
                raise Closed
            self._chores.append((chore, done))
            self._wake.notify()
        return done

    def close(self, timeout_s: float | None = None) -> None:
        """Takes no more work, finishes what is queued and ends the thread; waits ``timeout_s`` at most."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._requests or self._chores or self._closed):
                    self._wake.wait()
                if not (self._requests or self._chores):
                    return
                chore = self._chores.popleft() if self._chores else None
                batch = [] if chore else self._gather()
            if chore:
                _settle(chore[1], *_attempt(chore[0]))
            elif batch:
                self._answer(batch)

    def _gather(self) -> list[_Request]:
        """Takes the next batch off the queue, waiting for company; called with the lock held."""
        while self._requests:
            head = self._requests[0]
            if head.answer.cancelled():
                self._requests.pop(0)
                continue
            batch, frames = [], 0
            for request in self._requests:
                size = len(request.observations)
                if request.question == head.question and not request.answer.cancelled():
                    if batch and frames + size > self._max_batch:
                        break  # not overtaken by a smaller one behind it
                    batch.append(request)
                    frames += size
            since = max(head.arrived, self._freed)
            patience = since + self._max_delay - time.monotonic() if self._company() else 0.0
            if frames >= self._max_batch or patience <= 0 or self._closed or self._chores:
                taken = {id(request) for request in batch}
                self._requests = [r for r in self._requests if id(r) not in taken]
                self._turn = max(self._turn, head.turn + len(head.observations))
                self._ends = {client: end for client, end in self._ends.items() if end > self._turn}
                return batch
            self._wake.wait(min(patience, RECENT_S))
        return []

    def _company(self) -> bool:
        """Whether a client may be about to ask; called with the lock held."""
        recent = time.monotonic() - RECENT_S
        self._asked = {client: asked for client, asked in self._asked.items() if asked > recent}
        return not self._asked.keys() <= {request.client for request in self._requests}

    def _answer(self, batch: list[_Request]) -> None:
        started = time.monotonic()
        result, error = _attempt(lambda: self._compute(batch, started))
        if error is not None and len(batch) > 1:
            # One bad request must not fail its neighbours.
            for request in batch:
                self._answer([request])
            return
        with self._wake:  # who is answered now may ask again at once
            self._freed = time.monotonic()
            self._asked |= {request.client: self._freed for request in batch}
        for request, answer in zip(batch, result or [None] * len(batch), strict=True):
            _settle(request.answer, answer, error)

    def _compute(self, batch: list[_Request], started: float) -> list[Answer]:
        question = batch[0].question
        observations = [o for request in batch for o in request.observations]
        replies, encode_ms, generate_ms = [], 0.0, 0.0

        def abandoned() -> bool:
            return all(request.answer.cancelled() for request in batch)

        for start in range(0, len(observations), self._max_batch):
            if abandoned():
                break
            part, timings = self._engine.predict(
                question.task,
                observations[start : start + self._max_batch],
                question.adapter,
                question.constrained,
                question.max_new_tokens,
                abandoned,
            )
            replies += part
            encode_ms += timings.encode_ms
            generate_ms += timings.generate_ms
        answers, size = [], min(len(observations), self._max_batch)
        for request in batch:
            mine, replies = replies[: len(request.observations)], replies[len(request.observations) :]
            queue_ms = (started - request.arrived) * 1e3
            answers.append(Answer(mine, queue_ms, encode_ms, generate_ms, size))
        return answers


def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # the thread must outlive whatever a model raises
        _log.debug("work on the inference thread failed", exc_info=True)
        return None, error


def _settle(future: Future, result: Any, error: Exception | None) -> None:
    try:
        future.set_exception(error) if error is not None else future.set_result(result)
    except InvalidStateError:
        pass  # cancelled by its caller
