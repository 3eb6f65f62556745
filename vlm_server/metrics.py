"""What a server counts and times, as Prometheus text on a port of its own.

Labels hold nothing that a client chose freely: no run, no task, no address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from covr.prior.v1 import prior_pb2 as pb
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from vlm_server.batching import Answer
from vlm_server.interception import wrapped

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_FRAMES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_METHODS = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)


class Metrics(grpc.ServerInterceptor):
    """Counters of one server. As an interceptor it counts and times calls by method and status code."""

    def __init__(self):
        self.registry = registry = CollectorRegistry()

        def make(kind, name, words, labels=(), **settings):
            return kind(f"covr_prior_{name}", words, labels, registry=registry, **settings)

        self._calls = make(Counter, "calls", "Calls that have ended.", ("method", "code"))
        self._seconds = make(Histogram, "call_seconds", "Whole calls.", ("method",), buckets=_SECONDS)
        self._stages = make(Histogram, "stage_seconds", "Stages of answers.", ("stage",), buckets=_SECONDS)
        self._batches = make(Histogram, "batch_frames", "Frames answered together, a call.", buckets=_FRAMES)
        self._replies = make(Counter, "replies", "Replies by status.", ("status",))
        self._malformed = make(Counter, "malformed_replies", "Replies that do not parse.", ("reason",))
        self._tokens = make(Counter, "new_tokens", "Tokens that the model has written.")
        self._activations = make(Counter, "activations", "Adapter activations.", ("outcome",))
        self._pauses = make(
            Histogram, "activation_pause_seconds", "How long activations kept questions waiting.", buckets=_SECONDS
        )
        self._jobs = make(Counter, "tuning_jobs", "Tuning jobs that have ended.", ("state",))

    def watch(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is read when it is asked for."""
        Gauge(f"covr_prior_{name}", words, registry=self.registry).set_function(value)

    def answered(self, answer: Answer) -> None:
        """Notes where one call's time went, and its batch."""
        for stage in ("queue", "encode", "generate"):
            self._stages.labels(stage).observe(getattr(answer, f"{stage}_ms") / 1e3)
        self._batches.observe(answer.batch_size)

    def replied(self, status: str, new_tokens: int, reason: str) -> None:
        """Notes one reply; ``reason`` only counts for malformed ones."""
        self._replies.labels(status).inc()
        self._tokens.inc(new_tokens)
        if status == "malformed":
            self._malformed.labels(reason).inc()

    def activated(self, outcome: str) -> None:
        self._activations.labels(outcome).inc()

    def paused(self, seconds: float) -> None:
        self._pauses.observe(seconds)

    def job_ended(self, state: str) -> None:
        self._jobs.labels(state).inc()

    def serve(self, port: int) -> int:
        """Answers http://127.0.0.1:<port>/metrics from a thread; returns the port, also where it was 0.

        Raises:
            ValueError: the port is taken.
        """
        try:
            server, _ = start_http_server(port, "127.0.0.1", self.registry)
        except OSError as error:
            raise ValueError(f"metrics_port: cannot listen on {port}: {error.strerror}") from None
        return server.server_port

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or details.method not in _METHODS:
            return handler
        method = details.method.rpartition(".")[2]
        return wrapped(handler, lambda context: self._timed(method, context))

    @contextmanager
    def _timed(self, method: str, context: grpc.ServicerContext) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            code = context.code() or grpc.StatusCode.OK
            self._calls.labels(method, code.name).inc()
            self._seconds.labels(method).observe(time.perf_counter() - started)
