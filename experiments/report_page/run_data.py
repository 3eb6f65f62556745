"""What a run directory holds, read for a report; pieces that are missing are named, never hidden."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from covr_jax.config import Config
from experiments.json_lines import number, read_lines
from experiments.run_directory import STREAMS, read_config

Line = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run. ``missing`` says in words which files could not be read."""

    path: Path
    config: Config
    overrides: str
    environment: dict[str, Any]
    status: dict[str, str]
    lines: dict[str, list[Line]]
    value_critic: dict[str, Any] = field(default_factory=dict)  # how ERPv's second critic was made; {} without one
    missing: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        """Base and method in words, e.g. "rad + covr"."""
        learner = self.config.learner
        return learner.base if learner.method == "none" else f"{learner.base} + {learner.method}"

    @property
    def reached(self) -> tuple[float, float]:
        """(frames, decisions) of the furthest line; NaN if there is no line."""
        last = [lines[-1] for stream, lines in self.lines.items() if lines and stream != "samples"]
        furthest = max(last, key=lambda line: line["frames"], default={})
        return number(furthest.get("frames")), number(furthest.get("decisions"))

    @property
    def decisions_per_frame(self) -> float:
        """From the configuration, or else as observed; NaN if neither tells."""
        if self.config.env.action_repeat:
            return 1 / self.config.env.action_repeat
        frames, decisions = self.reached
        return decisions / frames if frames > 0 else math.nan

    @property
    def budget(self) -> dict[str, float]:
        """Frames and decisions of the configured budget; NaN where the ratio is not known."""
        steps, ratio = self.config.run.steps, self.decisions_per_frame
        if self.config.run.step_unit == "frames":
            return {"frames": steps, "decisions": steps * ratio}
        return {"frames": steps / ratio, "decisions": steps}

    @property
    def seconds(self) -> float:
        """Wall-clock over all sessions: the clock starts anew where ``seconds`` falls."""
        return elapsed(self.column("timings", "seconds"))[-1] if self.lines["timings"] else math.nan

    def column(self, stream: str, key: str) -> list[float]:
        """One number a line; NaN where the key is absent or no number."""
        return [number(line.get(key)) for line in self.lines[stream]]

    def has(self, stream: str, key: str) -> bool:
        return any(math.isfinite(value) for value in self.column(stream, key))


def elapsed(seconds: list[float]) -> list[float]:
    """Seconds since the run began, from a clock that a resumed session starts anew."""
    total, before, out = 0.0, 0.0, []
    for value in seconds:
        if math.isfinite(value):
            total += value - before if value >= before else value
            before = value
        out.append(total)
    return out


def load(path: str | Path) -> RunData:
    """Reads the run in ``path``. Raises ValueError, in one line, if there is no readable configuration."""
    path = Path(path)
    config = read_config(path)
    missing: list[str] = []

    def document(name: str) -> dict[str, Any]:
        try:
            return json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            missing.append(f"{name} is missing or cannot be read")
            return {}

    lines: dict[str, list[Line]] = {}
    for stream in STREAMS:
        try:
            lines[stream] = read_lines(path / f"{stream}.jsonl")
        except ValueError as error:
            lines[stream] = []
            missing.append(str(error))
        if not (path / f"{stream}.jsonl").exists():
            missing.append(f"{stream}.jsonl is missing")
    overrides = path / "overrides.txt"
    if not overrides.exists():
        missing.append("overrides.txt is missing")
    return RunData(
        path=path,
        config=config,
        overrides=overrides.read_text(encoding="utf-8") if overrides.exists() else "",
        environment=document("environment.json"),
        status=document("STATUS.json"),
        lines=lines,
        value_critic=document("value_critic.json") if config.prior.value_critic else {},
        missing=missing,
    )
