"""What the processes of a tuning job tell the server while they run: two kinds of files in the job's folder.

    progress.jsonl       [step, steps, loss] of each step, by process 0
    failed<rank>.json    why a process gave up; the launcher's own is called failed_launcher.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path


class TuningReports:
    """Of one folder, from either side."""

    def __init__(self, folder: Path):
        self._folder, self._progress = folder, folder / "progress.jsonl"
        self._read = 0  # bytes of progress.jsonl

    def step(self, step: int, steps: int, loss: float) -> None:
        """By process 0, after each step."""
        with self._progress.open("a") as file:
            file.write(json.dumps([step, steps, loss]) + "\n")

    def new_steps(self) -> Iterator[tuple[int, int, float]]:
        """Those that came since the last call."""
        if not self._progress.is_file():
            return
        with self._progress.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._read += len(line)
                yield tuple(json.loads(line))

    def fail(self, who: int | str, reason: str) -> None:
        """Tells why a process gives up; ``who`` is its rank or "_launcher"."""
        (self._folder / f"failed{who}.json").write_text(json.dumps(reason))

    def failure(self) -> str:
        """Why they gave up: a process's own words if there are any, else what the launcher saw; "" if nobody tells."""
        for file in sorted(self._folder.glob("failed*.json")):  # digits come before "_"
            try:
                return str(json.loads(file.read_text()))
            except ValueError:  # cut short
                continue
        return ""
