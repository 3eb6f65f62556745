"""Samples that clients have uploaded, kept in memory until newer ones need the room."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from vlm_server.tasks import Task
from vlm_server.tuning import Sample

_OVERHEAD = 1024  # bytes of a sample's Python objects, so that tiny pictures count, too


@dataclass(frozen=True)
class DataSet:
    """Samples of one task, for the adapters of one run."""

    id: str
    run: str
    task: Task
    samples: Sequence[Sample]
    digest: str
    nbytes: int  # of the pictures, and what Python adds


class NoRoom(Exception):
    """Data sets in use, and those being uploaded, fill the quota."""


class DataSets:
    """Data sets by id. The oldest ones that no job holds make room for new ones."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._sets: OrderedDict[str, DataSet] = OrderedDict()
        self._holders: dict[str, int] = {}
        self._arriving = 0  # bytes of unfinished uploads
        self._lock = threading.Lock()

    @contextmanager
    def upload(self, run: str, task: Task) -> Iterator[Upload]:
        """Room for one data set while its samples arrive; what is not finished leaves no trace."""
        upload = Upload(self, run, task)
        try:
            yield upload
        finally:
            with self._lock:
                self._arriving -= upload.nbytes

    def _reserve(self, nbytes: int) -> None:
        with self._lock:
            self._arriving += nbytes
            excess = self._arriving + sum(each.nbytes for each in self._sets.values()) - self._max_bytes
            for name in [name for name in self._sets if name not in self._holders]:
                if excess > 0:
                    excess -= self._sets.pop(name).nbytes
            if excess > 0:
                raise NoRoom

    def _add(self, data: DataSet) -> DataSet:
        with self._lock:
            self._sets.setdefault(data.id, data)
            self._sets.move_to_end(data.id)
            return self._sets[data.id]

    def take(self, name: str, run: str) -> DataSet | None:
        """The data set, held until ``release``; None if this run has none of this name."""
        with self._lock:
            data = self._sets.get(name)
            if data is None or data.run != run:
                return None
            self._holders[name] = self._holders.get(name, 0) + 1
            return data

    def release(self, name: str) -> None:
        with self._lock:
            self._holders[name] -= 1
            if not self._holders[name]:
                del self._holders[name]


class Upload:
    """Samples of one data set on their way in."""

    def __init__(self, sets: DataSets, run: str, task: Task):
        self.run, self.task, self.samples, self.nbytes = run, task, [], 0
        self._sets = sets

    def append(self, sample: Sample) -> None:
        """Adds a sample.

        Raises:
            NoRoom: the quota is full of data sets that are in use.
        """
        nbytes = sample.observation.frame.nbytes + _OVERHEAD
        self.nbytes += nbytes
        self._sets._reserve(nbytes)
        self.samples.append(sample)

    def finish(self) -> DataSet:
        """The stored data set; equal uploads of one run get the same id."""
        value = digest(self.task, self.samples)
        name = hashlib.sha256(f"{self.run} {value}".encode()).hexdigest()[:32]
        return self._sets._add(DataSet(name, self.run, self.task, tuple(self.samples), value, self.nbytes))


def digest(task: Task, samples: Sequence[Sample]) -> str:
    """sha256 over the task's name and the samples in their order, hex; protos/README.md has the layout."""
    total = hashlib.sha256(task.name.encode() + b"\n")
    for sample in samples:
        height, width, _ = sample.observation.frame.shape
        total.update(struct.pack("<2I", height, width) + sample.observation.frame.tobytes())
        for name, value in sorted(sample.observation.state.items()):
            total.update(name.encode() + b"\n" + struct.pack("<d", value))
        total.update(struct.pack(f"<{len(sample.action)}fd", *sample.action, sample.return_to_go))
    return total.hexdigest()
