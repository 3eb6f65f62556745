"""Tuning jobs on disk: what each is to do, from before its client is told of it until it has ended.

    <adapters>/.jobs/<job>.json            an ``Order``, sealed
                     <digest>.safetensors  the samples of one data set, for every order on them
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_server import sample_files, sealed_files
from vlm_server.adapters import JOBS
from vlm_server.defaults import TuningConfig
from vlm_server.tasks import Task
from vlm_server.tuning import Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What one job is to do. Whoever has it and the samples can do it again, to the same adapter."""

    job: str  # id
    run: str
    request_id: str  # the client's; or the job's id, which nobody else asks for
    task: str
    samples: str  # ``datasets.digest``
    parent: str  # version to go on from, or "base"
    base_digest: str  # of the model
    config: TuningConfig
    activate: bool = False
    gated: bool = False  # activate only if the held-out loss fell
    keep_latest: int = 0  # versions that stay after the job; 0: all
    selection: dict[str, float] = field(default_factory=dict)  # how the samples were chosen
    number: int = 0  # orders are done by number; given by ``OrderBook.add``
    attempts: int = 0  # how often it was begun and neither ended nor was put off

    def refusal(self, statistics: Mapping[str, Any]) -> str:
        """Why a version with these statistics is not activated; "" if it is."""
        before, after = (statistics[f"holdout_loss_{when}"] for when in ("before", "after"))
        if not (self.activate and self.gated):
            return ""
        if before is None or after is None or math.isnan(before):
            return "there were no held-out samples to be better on"
        return "" if after < before else f"the held-out loss did not fall: {before:.4g} before, {after:.4g} after"


class OrderBook:
    """The open orders of one server. Safe to call from several threads."""

    def __init__(self, root: Path | str, check_room: Callable[[int], None] = lambda nbytes: None):
        """
        Args:
            root: the folder of the adapters, which one server at a time owns.
            check_room: raises ``NoRoom`` where so many bytes more may not be written.
        """
        self._folder, self._check_room = Path(root) / JOBS, check_room
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        orders = self.open()
        self._newest = max((order.number for order in orders), default=0)
        self._forget_samples(orders)

    def add(self, order: Order, task: Task, samples: Sequence[Sample]) -> Order:
        """Writes an order and its samples, to stay; the order with its number.

        Raises:
            NoRoom: the disk, or the server's share of it, is full. Nothing is added.
        """
        with self._lock, sealed_files.full_disk_is_no_room():
            file = self._samples(order.samples)
            if not file.is_file():
                self._check_room(sum(sample.observation.frame.nbytes for sample in samples))
                self._replace(file, lambda new: sample_files.write(new, task, samples))
            self._newest += 1
            order = dataclasses.replace(order, number=self._newest)
            try:
                self._write(order)
            except OSError:
                self._forget_samples(self.open())
                raise
            return order

    def update(self, order: Order) -> None:
        """Writes an order anew if it is still open.

        Raises:
            NoRoom: the disk is full. The order stays as it was.
        """
        with self._lock, sealed_files.full_disk_is_no_room():
            if self._file(order.job).is_file():
                self._write(order)

    def remove(self, job: str) -> None:
        """Forgets an order, and its samples unless another one needs them; nothing if there is none."""
        with self._lock:
            self._file(job).unlink(missing_ok=True)
            self._forget_samples(self.open())
            sealed_files.sync(self._folder)

    def open(self) -> list[Order]:
        """All orders, by number. One that has changed since it was written is put aside under another name."""
        orders = []
        for file in self._folder.glob("*.json"):
            data = file.read_bytes()  # an error here says nothing about the order: it is not put aside
            try:
                fields = sealed_files.unsealed(data, f"{JOBS}/{file.name}")
                orders.append(Order(**fields | {"config": TuningConfig(**fields["config"])}))
            except (ValueError, TypeError, KeyError) as error:
                _log.warning("a tuning job is given up: %s", error)
                file.rename(file.with_suffix(".damaged"))
        return sorted(orders, key=lambda order: order.number)

    def read(self, order: Order, task: Task) -> tuple[Sample, ...]:
        """The samples of an order.

        Raises:
            ValueError: they are not what was written.
        """
        return sample_files.read(self._samples(order.samples), task, order.samples)

    def _write(self, order: Order) -> None:
        data = sealed_files.seal(dataclasses.asdict(order))
        self._replace(self._file(order.job), lambda new: new.write_bytes(data))

    def _replace(self, file: Path, write: Callable[[Path], Any]) -> None:
        """A file is there whole or not at all, whatever happens meanwhile."""
        handle, name = tempfile.mkstemp(prefix=".new-", dir=self._folder)
        os.close(handle)
        new = Path(name)
        try:
            write(new)
            sealed_files.sync(new)
            os.replace(new, file)
            sealed_files.sync(self._folder)
        finally:
            new.unlink(missing_ok=True)

    def _forget_samples(self, orders: Sequence[Order]) -> None:
        needed = {self._samples(order.samples) for order in orders}
        for file in [*self._folder.glob("*.safetensors"), *self._folder.glob(".new-*")]:
            if file not in needed:
                file.unlink(missing_ok=True)

    def _file(self, job: str) -> Path:
        return self._folder / f"{job}.json"

    def _samples(self, digest: str) -> Path:
        return self._folder / f"{digest}.safetensors"
