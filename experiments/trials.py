"""The trials of a sweep: every combination of task, base, method and seed, each one a plain training command."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from covr_jax.config import Config
from experiments import configuration
from experiments.json_lines import number, read_lines
from experiments.launchers.outcome import Job
from experiments.run_directory import read_config


@dataclass(frozen=True)
class Sweep:
    """What all trials share, and what they range over. Empty or None: the preset's own."""

    out: Path
    tasks: tuple[str, ...]
    bases: tuple[str, ...]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    preset: str = ""
    steps: int | None = None
    prior: str | None = None
    settings: tuple[str, ...] = ()

    def trials(self) -> list[Trial]:
        """In an order that finishes one seed of everything before the next."""
        grid = itertools.product(self.seeds, self.tasks or (None,), self.bases or (None,), self.methods or (None,))
        return [Trial(self, task, base, method, seed) for seed, task, base, method in grid]


@dataclass(frozen=True)
class Trial:
    sweep: Sweep
    task: str | None
    base: str | None
    method: str | None
    seed: int

    @property
    def name(self) -> str:
        """<task>/<base and method>/seed_<seed>, as far as the sweep ranges over them."""
        learner = "_".join(part for part in (self.base, self.method) if part)
        parts = [(self.task or "").replace("/", "_"), learner, f"seed_{self.seed}"]
        return "/".join(part for part in parts if part)

    @property
    def out(self) -> Path:
        return self.sweep.out / self.name

    @property
    def log(self) -> Path:
        return self.out.with_name(self.out.name + ".log")

    @property
    def command(self) -> list[str]:
        """The command line that makes this trial, and makes it again."""
        flags = {"preset": self.sweep.preset or None, "env": self.task, "base": self.base, "method": self.method,
                 "seed": self.seed, "steps": self.sweep.steps, "prior": self.sweep.prior}  # fmt: skip
        chosen = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        settings = [f"--set={setting}" for setting in self.sweep.settings]
        return [sys.executable, "-m", "experiments.train", *chosen, *settings, f"--out={self.out}", "--resume"]

    @property
    def job(self) -> Job:
        return Job(self.name, self.command, self.log, self.share)

    @functools.cached_property
    def config(self) -> Config:
        """The configuration that the command makes. Raises ValueError, in one line, for a value that is not allowed."""
        flags = {"env.name": self.task, "learner.base": self.base, "learner.method": self.method, "run.seed": self.seed,
                 "run.steps": self.sweep.steps, "prior.source": self.sweep.prior}  # fmt: skip
        return configuration.resolve(configuration.build(self.sweep.preset, flags, self.sweep.settings).config)

    def finished(self) -> bool:
        """Whether its run is done. Raises ValueError as ``config`` does, and for a run of another configuration."""
        wanted = self.config
        if not (self.out / "config.json").is_file():
            return False
        if read_config(self.out) != wanted:
            raise ValueError(f"{self.out} holds a run of another configuration; name another --out")
        return _state(self.out) == "done" and self.share() >= 1

    def share(self) -> float:
        """How much of its budget the run has behind it, in [0, 1], by its evaluations and timings."""
        run = self.config.run
        try:
            lines = [*read_lines(self.out / "evaluations.jsonl")[-1:], *read_lines(self.out / "timings.jsonl")[-1:]]
        except ValueError:
            return 0.0
        return min(1.0, max((number(line[run.step_unit]) for line in lines), default=0.0) / run.steps)


def _state(run: Path) -> str:
    try:
        return json.loads((run / "STATUS.json").read_text(encoding="utf-8"))["state"]
    except (OSError, ValueError, KeyError):
        return "unknown"


def pending(trials: Sequence[Trial], only_missing: bool) -> list[Trial]:
    """The trials to run. Raises ValueError for a value that is not allowed, and if finished runs would be replaced."""
    if len({trial.name for trial in trials}) < len(trials):
        raise ValueError("a task, base or method is named twice")
    done = [trial for trial in trials if trial.finished()]
    if done and not only_missing:
        raise ValueError(
            f"{len(done)} of {len(trials)} trials are finished in {trials[0].sweep.out}: keep them by --only_missing, "
            "or name another --out"
        )
    return [trial for trial in trials if trial not in done]


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0..4`` (both ends included), ``1,3,5``, or both mixed; ValueError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise ValueError(f"--seeds={text}: must look like 0..4 or 1,3,5")
        seeds += range(int(first), int(last) + 1) if dots else [int(first)]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"--seeds={text}: must name at least one seed, and none twice")
    return tuple(seeds)
