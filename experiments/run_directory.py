"""The directory of a run: its files, and what their lines hold. JSONL is the truth, all else is a view.

config.json        the resolved configuration (``experiments.configuration``)
overrides.txt      what the user changed, one ``key=value`` a line
environment.json   versions, devices, GL, git (``experiments.environment_info``)
value_critic.json  how ERPv's second critic was made, its frames included; in runs that use one
STATUS.json        {"state": running | done | failed | interrupted, "reason": one line}
metrics.jsonl      every ``run.log_every`` steps: scalars of the learner and of replay; ``episode_return`` is
                   that of the latest finished episode, ``labels_*`` count replies since the run began
evaluations.jsonl  one line an evaluation: returns (one an episode), return_mean, return_std, length_mean,
                   video
rounds.jsonl       one line a COVR round
samples.jsonl      a few of the prior's replies beside the frame that was shown (frames/*.png)
timings.jsonl      all wall-clock figures: ``seconds`` and ``part_seconds`` (part -> seconds) since the
                   session began (a resumed run is a new session), ``programs`` compiled since, and
                   ``replay_storage``: host | device
checkpoints/       params/, the policy of the latest evaluation; what --resume needs (``covr_jax.snapshots``)
videos/ frames/ tensorboard/ report.html

Every line carries ``frames`` (simulator) and ``decisions`` (agent). Two equal runs write equal bytes
everywhere but in timings.jsonl, environment.json and the views.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from covr_jax.config import Config
from experiments import configuration
from experiments.json_lines import encode, plain, read_lines
from experiments.tensorboard_view import TensorBoardView

__all__ = ["STATES", "STREAMS", "RunDirectory", "read_lines"]

STREAMS = ("metrics", "evaluations", "rounds", "samples", "timings")
MIRRORED = ("metrics", "evaluations", "rounds")
STATES = ("running", "done", "failed", "interrupted")
FIRST_FILES = ("overrides.txt", "environment.json", "environment.json.part", "config.json.part", ".lock")
FOLDERS = ("checkpoints", "videos", "frames", "tensorboard")


class RunDirectory:
    """An open run directory. As a context manager it ends with the state done, interrupted or failed.

    Make one with ``create`` or ``resume``. Raises ValueError if another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = (path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise ValueError(f"{path} is in use: another process trains there") from None
        self.checkpoints = path / "checkpoints"
        self.videos = path / "videos"
        for folder in FOLDERS:
            (path / folder).mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        for stream in STREAMS:
            self._files[stream] = self._lines(stream).open("ab")
        self._samples = 0
        self._view = TensorBoardView(path / "tensorboard")
        self.set_status("running", "")

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Config,
        overrides: Sequence[str],
        environment: Mapping[str, Any],
        overwrite: bool = False,
    ) -> RunDirectory:
        """A new run in ``path``; with ``overwrite`` it replaces a run. Raises ValueError if anything else is there."""
        path = Path(path)
        if overwrite and (path / "config.json").is_file():
            shutil.rmtree(path)
        # A process that died before config.json was there has left no run.
        if path.exists() and (not path.is_dir() or any(entry.name not in FIRST_FILES for entry in path.iterdir())):
            raise ValueError(
                f"{path} is not empty: go on with a run by --resume, replace it by --overwrite, or name another "
                "directory by --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        (path / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides), encoding="utf-8")
        write_json(path / "environment.json", environment)
        _replace(path / "config.json", configuration.to_json(config))
        return cls(path)

    @classmethod
    def resume(cls, path: str | Path, lengths: Mapping[str, int]) -> RunDirectory:
        """The run in ``path``, its records cut back to ``lengths`` (bytes by stream, as of ``lengths()``).

        Raises ValueError if a record is shorter than that.
        """
        run = cls(Path(path))
        for stream in STREAMS:
            file, length = run._lines(stream), lengths.get(stream, 0)
            if file.stat().st_size < length:
                run.close()
                raise ValueError(f"{file} has lost lines that were written before the checkpoint")
            os.truncate(file, length)
        run._samples = len(read_lines(run._lines("samples")))
        run._view.close()
        shutil.rmtree(run.path / "tensorboard")  # it may hold points of a future that is about to change
        run._view = TensorBoardView(run.path / "tensorboard")
        for stream in MIRRORED:
            for record in read_lines(run._lines(stream)):
                run._view.add(stream, record)
        return run

    def lengths(self) -> dict[str, int]:
        """Bytes of each stream so far, all on the disk."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {stream: self._lines(stream).stat().st_size for stream in STREAMS}

    def config(self) -> Config:
        return read_config(self.path)

    def write(self, stream: str, record: Mapping[str, Any]) -> None:
        """Appends one line to ``<stream>.jsonl`` and flushes it.

        Raises ValueError for an unknown stream, a line without whole ``frames`` and ``decisions``, or a
        wall-clock key outside of timings.
        """
        if stream not in STREAMS:
            raise ValueError(f"unknown stream {stream!r}: must be one of {', '.join(STREAMS)}")
        record = plain(record)
        for key in ("frames", "decisions"):
            if type(record.get(key)) is not int or record[key] < 0:
                raise ValueError(
                    f"{stream}.jsonl: {key}={record.get(key)!r}: must be a whole number >= 0 in every line"
                )
        clock = [key for key in record if key.endswith(("seconds", "per_second"))]
        if clock and stream != "timings":
            raise ValueError(f"{stream}.jsonl: {clock[0]} is wall-clock time, which belongs in timings.jsonl")
        self._files[stream].write(encode(record))
        self._files[stream].flush()
        if stream in MIRRORED:
            self._view.add(stream, record)

    def write_sample(self, frame: np.ndarray, record: Mapping[str, Any]) -> None:
        """Appends one of the prior's replies to samples.jsonl and stores its frame (uint8 [H, W, 3]).

        ``record``: frames, decisions, prompt, text, status, action, policy_action, version.
        """
        name = f"frames/{self._samples:06d}.png"
        self._samples += 1
        Image.fromarray(np.asarray(frame)).save(self.path / name)
        self.write("samples", {**record, "frame_png": name})

    def set_status(self, state: str, reason: str) -> None:
        """Replaces STATUS.json in one step, so that a reader never sees half of it."""
        if state not in STATES:
            raise ValueError(f"unknown state {state!r}: must be one of {', '.join(STATES)}")
        write_json(self.path / "STATUS.json", {"state": state, "reason": reason})

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._view.close()
        self._lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with closing(self):
                if kind is None:
                    self.set_status("done", "")
                elif issubclass(kind, KeyboardInterrupt):
                    self.set_status("interrupted", str(error) or "stopped by the user")
                else:
                    first = (str(error).splitlines() or [""])[0]
                    self.set_status("failed", f"{kind.__name__}: {first}")
        except OSError:
            if kind is None:  # otherwise what ended the run is what to tell: a full disk, likely
                raise

    def _lines(self, stream: str) -> Path:
        return self.path / f"{stream}.jsonl"


def read_config(path: Path) -> Config:
    """The configuration of the run in ``path``. Raises ValueError, naming the file, if it cannot be read."""
    file = path / "config.json"
    try:
        return configuration.from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} holds no run (no config.json)") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_environment(path: Path) -> dict[str, Any]:
    """environment.json of the run in ``path``; {} if it cannot be read."""
    try:
        return json.loads((path / "environment.json").read_bytes())
    except (OSError, ValueError):
        return {}


def is_done(path: Path) -> bool:
    """Whether the run in ``path`` has reached its end."""
    try:
        return json.loads((path / "STATUS.json").read_bytes())["state"] == "done"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes ``value`` as indented JSON with sorted keys, by an atomic replace."""
    _replace(path, json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n")


def _replace(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
