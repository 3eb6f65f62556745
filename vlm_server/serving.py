"""Adapter versions while they serve: which one answers, and which are in memory."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_server import lora
from vlm_server.adapter_errors import AdapterInUse, AdapterNotFound
from vlm_server.adapters import BASE, AdapterRecord, AdapterStore
from vlm_server.batching import Batcher, Closed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pinned:
    """What answers one request: its names, the engine's key and the files (None for the base model)."""

    version: str
    digest: str
    key: str | None = None
    folder: Path | None = None


class ResidentEngine:
    """An engine that reads adapters when they are asked for and keeps the most recently used ones in memory.

    Like the engine it is used on the inference thread only.
    """

    def __init__(self, engine: Any, store: AdapterStore, max_resident: int):
        self._engine, self._store, self._max = engine, store, max_resident
        self._resident: OrderedDict[str, None] = OrderedDict()

    def load(self, key: str, verified: Path | lora.Saved | None = None) -> None:
        """Makes the adapter ``key``, "run/version", resident.

        Args:
            verified: its folder, or what was read from it, if its files are verified already; None: they are
                verified here.

        Raises:
            AdapterNotFound, AdapterCorrupt: as ``AdapterStore.verify``.
            lora.AdapterInvalid: it does not fit the model.
        """
        if key not in self._resident:
            adapter = verified or self._store.verify(*key.split("/")).folder
            while len(self._resident) >= self._max:
                self._engine.remove_adapter(self._resident.popitem(last=False)[0])
            self._engine.add_adapter(key, adapter)
            self._resident[key] = None
        self._resident.move_to_end(key)

    def check(self, key: str) -> None:
        """Asks the adapter ``key`` a canary question.

        Raises:
            AdapterNotFound, AdapterCorrupt, lora.AdapterInvalid: as ``load``, since others may have taken its place.
            lora.AdapterInvalid: it failed its question; it is not resident then.
        """
        self.load(key)
        try:
            self._engine.check(key)
        except Exception:
            self.drop(key)
            raise

    def drop(self, key: str) -> None:
        """Frees the memory of ``key`` if it is resident."""
        if key in self._resident:
            del self._resident[key]
            self._engine.remove_adapter(key)

    def predict(
        self,
        task: Any,
        observations: Sequence,
        adapter: str | None,
        constrained: bool,
        max_new_tokens: int,
        should_stop: Callable[[], bool],
    ) -> tuple[list, Any]:
        """As ``Engine.predict``."""
        if adapter is not None:
            self.load(adapter)
        return self._engine.predict(task, observations, adapter, constrained, max_new_tokens, should_stop)


class ServedAdapters:
    """The versions of all runs. Thread-safe; what touches the model goes to the inference thread."""

    def __init__(
        self,
        store: AdapterStore,
        engine: ResidentEngine,
        batcher: Batcher,
        base_digest: str,
        on_activation: Callable[[str], None] = lambda outcome: None,
        on_pause: Callable[[float], None] = lambda seconds: None,
    ):
        """
        Args:
            on_activation: called with "activated" or "refused".
            on_pause: called with how long an activation kept questions from being answered at a time, seconds.
        """
        self._store, self._engine, self._batcher, self._on_activation = store, engine, batcher, on_activation
        self._on_pause = on_pause
        self._base = Pinned(BASE, base_digest)
        self._activating = threading.Lock()  # each has a whole adapter in memory beside the resident ones

    @contextmanager
    def pinned(self, run: str, version: str) -> Iterator[Pinned]:
        """What answers for ``run``; the version cannot be deleted meanwhile.

        Args:
            run: "" means the base model.
            version: "" means the active one.

        Raises:
            AdapterNotFound, AdapterCorrupt: as ``AdapterStore.hold``.
        """
        if not run:
            yield self._base
            return
        with self._store.hold(run, version) as record:
            yield self._base if record is None else _pinned(record)

    def verify(self, pinned: Pinned) -> None:
        """Checks every byte of the files behind ``pinned``.

        Raises:
            AdapterNotFound, AdapterCorrupt, AdapterMismatch: as ``AdapterStore.verify``.
        """
        if pinned.key is not None:
            self._store.verify(*pinned.key.split("/"))

    def list(self, run: str) -> list[AdapterRecord]:
        return self._store.list(run)

    def made_by(self, run: str, request_id: str) -> AdapterRecord | None:
        return self._store.made_by(run, request_id)

    def get(self, run: str, version: str) -> AdapterRecord:
        return self._store.get(run, version)

    def active(self, run: str) -> str:
        return self._store.active(run)

    def publish(
        self,
        run: str,
        write: Callable[[Path], dict[str, Any]],
        activate: bool,
        ask: Callable[[], None] = lambda: None,
        keep_latest: int = 0,
    ) -> Pinned:
        """Adds a version (``write`` as for ``AdapterStore.create``) and activates it if asked.

        Args:
            ask: called when the version is there, before it is activated. Whatever it or the activation raises leaves
                no new version, unless somebody uses it already; after ``batching.Closed`` it stays, for ``made_by``.
            keep_latest: of the older versions only so many stay, the new one counted; 0: all.
        """
        record = self._store.create(run, write)
        try:
            if activate:
                self.activate(run, record.version, ask)
            else:
                ask()
        except Closed:
            raise
        except BaseException:
            self._withdraw(run, record.version)
            raise
        self.prune(run, keep_latest)
        return _pinned(record)

    def prune(self, run: str, keep_latest: int) -> None:
        """Deletes all but the newest ``keep_latest`` versions, as ``AdapterStore.prune``; 0: none."""
        for version in self._store.prune(run, keep_latest) if keep_latest else ():
            self._drop(run, version)

    def roll_back(self, run: str) -> Pinned | None:
        """Activates the version that was active before the one that is; None: there is none.

        Raises:
            AdapterNotFound, AdapterCorrupt, lora.AdapterInvalid: as ``activate``; nothing changes.
        """
        version = self._store.previous(run)
        return None if version is None else self.activate(run, version, back=True)

    def _withdraw(self, run: str, version: str) -> None:
        try:
            self._store.withdraw(run, version)
        except (AdapterInUse, AdapterNotFound) as error:  # it could be asked for, activated and deleted by its name
            _log.warning("a new version is not withdrawn: %s", error)
        else:
            self._drop(run, version)

    def _drop(self, run: str, version: str) -> None:
        self._batcher.call(lambda: self._engine.drop(f"{run}/{version}")).result()

    def activate(
        self, run: str, version: str, ask: Callable[[], None] = lambda: None, back: bool = False
    ) -> Pinned:
        """Makes a version, or "base", the one that answers when a request names none.

        It is in memory, and has answered a canary question, before it becomes the active one, so that no question
        waits for it or finds it unfit.

        Args:
            ask: called just before; what it raises leaves the active version.
            back: as for ``AdapterStore.activate``.

        Raises:
            AdapterNotFound, AdapterCorrupt, lora.AdapterInvalid: as ``ResidentEngine.load``; nothing changes.
        """

        def timed(chore: Callable[[], None]) -> None:
            started = time.perf_counter()
            try:
                chore()
            finally:
                self._on_pause(time.perf_counter() - started)

        def prepare(record: AdapterRecord) -> None:
            with self._activating:
                key, saved = f"{run}/{version}", lora.read(record.folder)
                # Two chores, so that questions are answered between them.
                for chore in (lambda: self._engine.load(key, saved), lambda: self._engine.check(key)):
                    self._batcher.call(lambda chore=chore: timed(chore)).result()
            ask()

        try:
            with self.pinned(run, version) as pinned:
                self._store.activate(run, version, prepare, back)
        except Exception:
            self._on_activation("refused")
            raise
        self._on_activation("activated")
        return pinned

    def delete(self, run: str, version: str) -> None:
        """Removes a version for good.

        Raises:
            AdapterNotFound: no such version.
            AdapterInUse: it is active, or answers a request, or is the parent of a tuning job.
        """
        self._store.delete(run, version)
        self._drop(run, version)


def _pinned(record: AdapterRecord) -> Pinned:
    return Pinned(record.version, record.digest, f"{record.run}/{record.version}", record.folder)
