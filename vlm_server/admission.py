"""How many calls run at a time: of one client, and of all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from vlm_server.interception import wrapped
from vlm_server.limits import Limits
from vlm_server.refusals import exhausted

SPARE_CALLS = 16  # let in beyond the limit: to be refused by name, and for health checks, which are always let in


def client(context: grpc.ServicerContext, run: str = "") -> str:
    """Who asks: one connection. Those of a unix socket look alike; there the run tells them apart."""
    peer = context.peer()
    return f"{peer} {run}" if peer.startswith("unix") else peer


class Admission(grpc.ServerInterceptor):
    """Refuses calls over ``max_concurrent_calls`` and ``max_calls_per_client``; health checks do not count."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None or details.method.startswith("/grpc.health."):
            return handler
        return wrapped(handler, self._admitted)

    @contextmanager
    def _admitted(self, context: grpc.ServicerContext) -> Iterator[None]:
        caller, limits = client(context), self._limits
        with self._lock:
            if self._running.total() >= limits.max_concurrent_calls:
                raise exhausted(f"{limits.max_concurrent_calls} calls may run (max_concurrent_calls); try again later")
            if self._running[caller] >= limits.max_calls_per_client:
                raise exhausted(f"{limits.max_calls_per_client} calls of one client may run (max_calls_per_client)")
            self._running[caller] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[caller] -= 1
                self._running += Counter()  # forgets who runs nothing
