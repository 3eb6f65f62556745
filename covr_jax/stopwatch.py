"""Where the wall-clock of a run goes."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager


class Stopwatch:
    """Seconds since construction, and seconds spent in each named part. Parts must not nest."""

    def __init__(self):
        self._start = time.perf_counter()
        self.parts: dict[str, float] = defaultdict(float)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @contextmanager
    def part(self, name: str):
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] += time.perf_counter() - start
