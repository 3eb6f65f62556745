"""Whole runs on disk, so that one that was killed goes on as if it never had been.

    <folder>/run-000000001500/   the run after so many decisions
                 learner/        learner state (Orbax)
                 arrays.npz      arrays of all else, the replay's frames excepted
                 state.json      the rest, with the names of those arrays
                 manifest.json   format, identity, the sha256 of every file and block, its own included
    <folder>/frames/             blocks of the replay's frames, each written once and shared by the snapshots
    <folder>/quarantine/         what was found damaged

A snapshot appears by one rename and never changes after: what the run does later cannot reach it. Nothing of it can
carry code. The newest two are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from covr_jax.checkpoint import load_tree, save_tree
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.types import LearnerState

FORMAT = 1  # to be raised whenever what is written changes its meaning
KEPT = 2
BLOCK_FRAMES = 512
_ARRAY = "$array"  # the key of an object in state.json that stands for an array
_log = logging.getLogger(__name__)


class Block(NamedTuple):
    """A file of frames with ids from ``first`` to before ``end``."""

    first: int
    end: int
    digest: str  # sha256, hex

    @property
    def name(self) -> str:
        return f"{self.first:012d}-{self.end:012d}.npy"


class Damaged(Exception):
    """A file is not what was written."""


class Saved:
    """One snapshot whose every byte has been checked. ``state``: what was given to ``Snapshots.save``."""

    def __init__(self, path: Path, frames: Path, blocks: list[Block]):
        self.path, self._frames, self._blocks = path, frames, blocks
        with np.load(path / "arrays.npz", allow_pickle=False) as arrays:
            self.state: dict[str, Any] = _joined(json.loads((path / "state.json").read_bytes()), arrays)

    def learner(self, like: LearnerState) -> LearnerState:
        """Raises ValueError if it does not fit ``like``."""
        return load_tree(self.path / "learner", like)

    def frames(self) -> Iterator[tuple[int, np.ndarray]]:
        """The replay's frames: the id of the first one, and uint8 [N, H, W, 3]."""
        for block in self._blocks:
            yield block.first, np.load(self._frames / block.name, allow_pickle=False)


class Snapshots:
    """The snapshots of one run.

    Args:
        folder: made when the first one is saved.
        identity: what must not change between two sessions of a run: name -> JSON value.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self._folder, self._frames, self._graves = folder, folder / "frames", folder / "quarantine"
        self._identity = json.loads(json.dumps(dict(identity)))
        self._blocks: list[Block] = []  # of the newest snapshot
        self._kept: dict[str, list[Block]] = {}  # snapshot -> its blocks, oldest first

    def save(self, decisions: int, learner: LearnerState, state: dict[str, Any], replay: ReplayBuffer) -> None:
        """Adds a snapshot and removes those that are too old; durable on return. One of the same age stays as it is.

        Args:
            state: nested dictionaries and lists of JSON values and arrays.

        Raises OSError, in one line, if it cannot be written (a full disk); the snapshots before it are whole.
        """
        name = f"run-{decisions:012d}"
        if name in self._kept:
            return
        part = self._folder / f".new-{name}"
        try:
            self._frames.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            blocks = self._write_frames(replay)
            save_tree(part / "learner", learner)
            arrays: dict[str, np.ndarray] = {}
            document = json.dumps(_split(state, "", arrays)).encode()
            _write(part / "arrays.npz", lambda file: np.savez(file, **arrays))
            _write(part / "state.json", lambda file: file.write(document))
            manifest = {
                "format": FORMAT,
                "identity": self._identity,
                "files": {str(file.relative_to(part)): _sha256(file) for file in _files(part)},
                "blocks": [list(block) for block in blocks],
            }
            _write(part / "manifest.json", lambda file: file.write(_sealed(manifest)))
            for path in [*_files(part), *(path for path in part.rglob("*") if path.is_dir()), part, self._frames]:
                _sync(path)
            part.rename(self._folder / name)
            _sync(self._folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            self._remove_unused_blocks()
            raise OSError(f"checkpoint not written, the one before it is whole: {error}") from error
        self._blocks = self._kept[name] = blocks
        for old in list(self._kept)[:-KEPT]:
            (self._folder / old).rename(self._folder / f".old-{old}")  # half of one would look damaged
            shutil.rmtree(self._folder / f".old-{old}", ignore_errors=True)
            del self._kept[old]
        self._remove_unused_blocks()

    def newest(self) -> Saved | None:
        """The newest whole snapshot; None if the run has none. Damaged ones are moved to ``quarantine``, loudly.

        Raises ValueError, in one line, if none of those that there were is whole, or if the identity differs.
        """
        for leftover in self._folder.glob(".*-run-*"):  # of a process that died while it wrote or removed
            shutil.rmtree(leftover, ignore_errors=True)
        saved = None
        for path in sorted(self._folder.glob("run-*"), reverse=True):
            try:
                blocks = self._verify(path, whole=saved is None)
                if saved is None:
                    saved = Saved(path, self._frames, blocks)
                    self._blocks = blocks
            except Damaged as error:
                self._bury(path)
                _log.error("DAMAGED CHECKPOINT %s: %s; moved to %s", path, error, self._graves)
            else:
                self._kept = {path.name: blocks, **self._kept}
        if saved is None and self._graves.is_dir():
            raise ValueError(f"no checkpoint in {self._folder} is whole ({self._graves} keeps them): start again")
        return saved

    def _verify(self, path: Path, whole: bool) -> list[Block]:
        """Its blocks. With ``whole`` every byte is checked, otherwise the manifest's. Raises Damaged, ValueError."""
        manifest = _unsealed(path / "manifest.json")
        if manifest["format"] != FORMAT:
            raise ValueError(f"{path} has format {manifest['format']}, this version reads {FORMAT}")
        blocks = [Block(*block) for block in manifest["blocks"]]
        if not whole:
            return blocks
        _compare(path, manifest["identity"], self._identity)
        for name, digest in manifest["files"].items():
            _check(path / name, digest)
        for block in blocks:
            _check(self._frames / block.name, block.digest)
        return blocks

    def _write_frames(self, replay: ReplayBuffer) -> list[Block]:
        """Writes the frames that are not on the disk yet; returns the blocks of all that the replay holds."""
        held = replay.held
        blocks = [block for block in self._blocks if block.end > held.start]
        for first in range(blocks[-1].end if blocks else held.start, held.stop, BLOCK_FRAMES):
            end = min(first + BLOCK_FRAMES, held.stop)
            frames = replay.frames(np.arange(first, end))
            block = Block(first, end, "")
            path = self._frames / block.name
            _write(path, lambda file, frames=frames: np.save(file, frames, allow_pickle=False))
            _sync(path)
            blocks.append(block._replace(digest=_sha256(path)))
        return blocks

    def _remove_unused_blocks(self) -> None:
        used = {block.name for blocks in self._kept.values() for block in blocks}
        for path in self._frames.iterdir() if self._frames.is_dir() else ():
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _bury(self, path: Path) -> None:
        self._graves.mkdir(exist_ok=True)
        count = len(list(self._graves.glob(f"{path.name}*")))
        path.rename(self._graves / (f"{path.name}.{count}" if count else path.name))


def _split(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """``value`` with its arrays replaced by their names, under which they are put into ``arrays``."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {_ARRAY: path}
    if isinstance(value, Mapping):
        return {key: _split(item, f"{path}.{key}" if path else key, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}.{index}", arrays) for index, item in enumerate(value)]
    return value


def _joined(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if _ARRAY in value:
            return arrays[value[_ARRAY]]
        return {key: _joined(item, arrays) for key, item in value.items()}
    return [_joined(item, arrays) for item in value] if isinstance(value, list) else value


def _compare(path: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for name in sorted({*saved, *now}):
        if saved.get(name) != now.get(name):
            raise ValueError(f"{name} is {now.get(name)!r} now and was {saved.get(name)!r} in {path}")


def _sealed(manifest: dict[str, Any]) -> bytes:
    text = json.dumps(manifest, sort_keys=True)
    return json.dumps(manifest | {"seal": hashlib.sha256(text.encode()).hexdigest()}, sort_keys=True).encode()


def _unsealed(file: Path) -> dict[str, Any]:
    try:
        data = file.read_bytes()
        manifest = json.loads(data)
        manifest.pop("seal")
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{file.name} is missing or unreadable") from None
    if _sealed(manifest) != data:
        raise Damaged(f"{file.name} has changed since it was written")
    return manifest


def _check(file: Path, digest: str) -> None:
    try:
        whole = _sha256(file) == digest
    except OSError:
        raise Damaged(f"{file.name} is missing or unreadable") from None
    if not whole:
        raise Damaged(f"{file.name} has changed since it was written")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Replaces a file in one step."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        write(file)
    part.replace(path)


def _sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
