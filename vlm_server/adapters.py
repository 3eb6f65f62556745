"""Adapter versions on disk: immutable, numbered per run, with a digest of every byte.

    root/<run>/v<n>/adapter_model.safetensors   peft's layout
                    adapter_config.json
                    manifest.json               lineage, and the sha256 of every file, its own included
    root/<run>/run.json                         the active version, those before it, and the newest number ever given

A version appears by one rename and never changes after. One store at a time owns a root.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError, safe_open

from vlm_server import sealed_files
from vlm_server.adapter_errors import (
    AdapterCorrupt,
    AdapterInUse,
    AdapterInvalid,
    AdapterMismatch,
    AdapterNotFound,
    NoRoom,
)
from vlm_server.lora import WEIGHTS

BASE = "base"  # the model without an adapter: always exists, never on disk
JOBS = ".jobs"  # folder of what is still to be tuned (``orders``); no run's name begins with a dot
MAX_HISTORY = 64  # versions that were active before, per run
_RUN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class AdapterRecord:
    """One version of one run."""

    run: str
    version: str
    digest: str  # sha256 of the weights file, hex
    parent: str  # the version that it went on from, or "base"
    manifest: dict[str, Any]
    folder: Path


class AdapterStore:
    """All versions under one root. Safe to call from several threads; no file is read whole under its lock."""

    def __init__(self, root: Path | str, model_digest: str, wait_s: float = 0.0, max_bytes: int = 2**60):
        """
        Args:
            model_digest: sha256 of the base model whose adapters are made and served here, hex.
            wait_s: how long another store may take to leave the root, seconds.
            max_bytes: of all versions, and of the samples of open jobs (``orders``), on disk.

        Raises:
            ValueError: another store owns the root.
        """
        self._root, self._model_digest, self._max_bytes = Path(root), model_digest, max_bytes
        self._root.mkdir(parents=True, exist_ok=True)
        self._owned = (self._root / ".lock").open("w")
        end = time.monotonic() + wait_s
        while not _locked(self._owned):
            if time.monotonic() >= end:
                self._owned.close()
                raise ValueError(f"adapters: another server uses {self._root}; give each a folder of its own")
            time.sleep(0.1)
        self._lock = threading.RLock()
        self._holds: Counter[tuple[str, str]] = Counter()
        for leftover in self._root.glob("*/.new-*"):  # of a process that died while it wrote
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Leaves the root to the next store."""
        self._owned.close()

    def create(self, run: str, write: Callable[[Path], dict[str, Any]]) -> AdapterRecord:
        """Adds the next version of ``run``.

        Args:
            write: writes the adapter's files into the empty folder that it is given and returns its manifest,
                JSON values only; ``parent`` names the version that it went on from, "base" if it is absent.

        Raises:
            ValueError: bad run name, or a manifest that is not JSON.
            AdapterCorrupt: the weights that were written are not finite. Nothing is added.
            NoRoom: the disk, or the share of it that versions may have, is full. Nothing is added.
        """
        with sealed_files.full_disk_is_no_room():
            return self._create(run, write)

    def _create(self, run: str, write: Callable[[Path], dict[str, Any]]) -> AdapterRecord:
        runs = self._run_folder(run)
        runs.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".new-", dir=runs))
        try:
            manifest = dict(write(folder))
            manifest.setdefault("parent", BASE)
            _check_finite(folder)
            files = sorted(folder.iterdir())
            digests = {file.name: sealed_files.sha256(file) for file in files}
            for file in files:
                sealed_files.sync(file)
            with self._lock:
                state = self._state(run)
                newest = max([state["newest"], *(_number(v) for v in self._versions(run))]) + 1
                manifest |= {"run": run, "version": f"v{newest}", "model_digest": self._model_digest}
                manifest["created"] = datetime.now(UTC).isoformat(timespec="seconds")
                manifest["files"] = digests
                sealed_files.write_durably(folder / "manifest.json", sealed_files.seal(manifest))
                self.check_room(_size(folder))
                sealed_files.sync(folder)
                os.rename(folder, runs / f"v{newest}")
                self._set_state(run, state | {"newest": newest})
                return self.get(run, f"v{newest}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def made_by(self, run: str, request_id: str) -> AdapterRecord | None:
        """The version of ``run`` whose manifest names this request, if there is one and it is whole."""
        with self._lock:
            versions = self._versions(run)
        for version in reversed(versions):
            try:
                if self.get(run, version).manifest.get("request_id") == request_id:
                    return self.verify(run, version)
            except (AdapterNotFound, AdapterInvalid):
                continue
        return None

    def list(self, run: str) -> list[AdapterRecord]:
        """All versions of ``run``, oldest first; none for a run that is not known."""
        with self._lock:
            return [self.get(run, version) for version in self._versions(run)]

    def get(self, run: str, version: str) -> AdapterRecord:
        """The record of a version, its weights unread.

        Raises:
            AdapterNotFound: no such version.
            AdapterCorrupt: its manifest is not what was written.
        """
        folder = self._version_folder(run, version)
        manifest = _read(folder / "manifest.json")
        if (manifest.get("run"), manifest.get("version")) != (run, version) or WEIGHTS not in manifest[
            "files"
        ]:
            raise AdapterCorrupt(f"adapter {run}/{version}: its manifest describes something else")
        return AdapterRecord(run, version, manifest["files"][WEIGHTS], manifest["parent"], manifest, folder)

    def verify(self, run: str, version: str) -> AdapterRecord:
        """The record of a version, after a check of every byte of its files and of its values.

        Raises:
            AdapterNotFound: no such version.
            AdapterCorrupt: a file is missing, was added or changed, or a value is not finite.
            AdapterMismatch: it was tuned on another base model.
        """
        record = self.get(run, version)
        if record.manifest["model_digest"] != self._model_digest:
            raise AdapterMismatch(f"adapter {run}/{version} was tuned on another base model")
        present = {p.name for p in record.folder.iterdir()} - {"manifest.json"}
        if present != set(record.manifest["files"]):
            raise AdapterCorrupt(f"adapter {run}/{version}: files are missing or were added")
        for name, digest in record.manifest["files"].items():
            if sealed_files.sha256(record.folder / name) != digest:
                raise AdapterCorrupt(f"adapter {run}/{version}: {name} has changed since it was written")
        _check_finite(record.folder)
        return record

    def active(self, run: str) -> str:
        """The version that answers when a request names none; "base" until one is activated."""
        with self._lock:
            return self._state(run)["active"]

    def previous(self, run: str) -> str | None:
        """The version that was active before the one that is, of those that still exist; None: there is none."""
        with self._lock:
            state = self._state(run)
            known = {BASE, *self._versions(run)} - {state["active"]}
            return next((v for v in reversed(state.get("history", [])) if v in known), None)

    def activate(
        self,
        run: str,
        version: str,
        prepare: Callable[[AdapterRecord], None] = lambda record: None,
        back: bool = False,
    ) -> None:
        """Makes a version, or "base", the active one.

        Args:
            prepare: called with the verified version before it becomes the active one.
            back: whether it is ``previous(run)``, and the active one is forgotten instead of remembered.

        Raises:
            AdapterNotFound, AdapterCorrupt, AdapterMismatch: as ``verify``; the active version stays, as it does
                whatever ``prepare`` raises.
        """
        with self.hold(run, version) as record:
            if record is not None:
                prepare(self.verify(run, version))
            with self._lock:
                if record is not None or self._run_folder(run).is_dir():  # else base is active already
                    state = self._state(run)
                    history = state.get("history", [])
                    if back and version in history:
                        history = history[: len(history) - 1 - history[::-1].index(version)]
                    elif version != state["active"]:
                        history = [*history, state["active"]][-MAX_HISTORY:]
                    self._set_state(run, state | {"active": version, "history": history})

    def delete(self, run: str, version: str) -> None:
        """Removes a version for good; its number is never given again.

        Raises:
            AdapterNotFound: no such version.
            AdapterInUse: it is active or held.
        """
        with self._lock:
            grave = self._bury(run, version)
        shutil.rmtree(grave, ignore_errors=True)

    def prune(self, run: str, keep: int) -> list[str]:
        """Deletes all but the newest ``keep`` versions, sparing the active one and those in use; their names."""
        gone = []
        for version in [record.version for record in self.list(run)][:-keep]:
            try:
                self.delete(run, version)
                gone.append(version)
            except (AdapterInUse, AdapterNotFound):
                continue
        return gone

    def withdraw(self, run: str, version: str) -> None:
        """Removes the newest version before anybody was told of it: its number is given to the next one.

        Raises:
            AdapterNotFound, AdapterInUse: as ``delete``.
        """
        with self._lock:
            grave = self._bury(run, version)
            self._set_state(run, self._state(run) | {"newest": _number(version) - 1})
        shutil.rmtree(grave, ignore_errors=True)

    def _bury(self, run: str, version: str) -> Path:
        folder = self._version_folder(run, version)
        if self._state(run)["active"] == version:
            raise AdapterInUse(f"adapter {run}/{version} is the active one; activate another first")
        if self._holds[run, version]:
            raise AdapterInUse(f"adapter {run}/{version} is in use")
        grave = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        os.rename(folder, grave / version)
        return grave

    @contextmanager
    def hold(self, run: str, version: str) -> Iterator[AdapterRecord | None]:
        """Keeps a version from being deleted while its holder works with it. None is "base".

        Args:
            version: "" means the one that is active now.

        Raises:
            AdapterNotFound, AdapterCorrupt: as ``get``.
        """
        with self._lock:
            version = version or self._state(run)["active"]
            record = None if version == BASE else self.get(run, version)
            self._holds[run, version] += 1
        try:
            yield record
        finally:
            with self._lock:
                self._holds[run, version] -= 1
                self._holds += Counter()  # forgets what nobody holds: names come from clients

    def check_room(self, nbytes: int) -> None:
        """Whether so many bytes more may be written below the root.

        Raises:
            NoRoom: they may not.
        """
        folders = [self._root / JOBS, *self._root.glob("*/v*")]
        if sum(_size(folder) for folder in folders if folder.is_dir()) + nbytes > self._max_bytes:
            most = self._max_bytes
            raise NoRoom(
                f"adapter versions and samples of open jobs may have {most} bytes (max_adapter_bytes); delete versions"
            )

    def _run_folder(self, run: str) -> Path:
        if not _RUN.fullmatch(run):
            raise ValueError(f"run must match [a-z0-9][a-z0-9_-]{{0,63}}, not {run[:80]!r}")
        return self._root / run

    def _version_folder(self, run: str, version: str) -> Path:
        folder = self._run_folder(run) / version
        if not _VERSION.fullmatch(version) or not folder.is_dir():
            raise AdapterNotFound(f"run {run!r} has no adapter {version[:80]!r}")
        return folder

    def _versions(self, run: str) -> list[str]:
        folder = self._run_folder(run)
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return sorted((name for name in names if _VERSION.fullmatch(name)), key=_number)

    def _state(self, run: str) -> dict[str, Any]:
        file = self._run_folder(run) / "run.json"
        if not file.is_file():
            return {"active": BASE, "newest": 0}
        return _read(file)

    def _set_state(self, run: str, state: dict[str, Any]) -> None:
        file = self._run_folder(run) / "run.json"
        sealed_files.write_durably(file.with_suffix(".new"), sealed_files.seal(state))
        os.replace(file.with_suffix(".new"), file)
        sealed_files.sync(file.parent)


def _size(folder: Path) -> int:
    """Bytes of its files; those that leave meanwhile count nothing."""
    total = 0
    with suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _number(version: str) -> int:
    return int(_VERSION.fullmatch(version)[1])


def _read(file: Path) -> dict[str, Any]:
    try:
        return sealed_files.unseal(file)
    except ValueError as error:
        raise AdapterCorrupt(str(error)) from None


def _check_finite(folder: Path) -> None:
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            bad = [key for key in file.keys() if not bool(file.get_tensor(key).isfinite().all())]
    except (OSError, SafetensorError):
        raise AdapterCorrupt(f"{WEIGHTS} is missing or unreadable") from None
    if bad:
        raise AdapterCorrupt(f"{WEIGHTS}: {bad[0]} holds values that are not finite")
