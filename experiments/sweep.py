"""Trains every combination of tasks, methods and seeds.

    python -m experiments.sweep --methods=none,dpl,covr --tasks=dmc/cartpole/swingup --seeds=0..4 --preset=cpu,tiny \\
        --workers=2 --out=runs/sweep
    python -m experiments.report runs/sweep

Every trial is a plain ``python -m experiments.train`` with a run directory and a log of its own:
OUT/<task>/<method>/seed_<seed> and ....log. --dry_run prints the commands.

Exit codes: 0 all trials are done, 1 some failed, 2 a wrong value, 130 interrupted.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from covr_jax.methods import BASES
from experiments import configuration
from experiments.command_line import fail
from experiments.launchers import local, slurm
from experiments.launchers.outcome import Job, Outcome, failures
from experiments.report_page.numbers import duration
from experiments.trials import Sweep, Trial, parse_seeds, pending

_TASKS = flags.DEFINE_list("tasks", [], "dmc/<domain>/<task>,...; empty: the preset's.")
_BASES = flags.DEFINE_list("bases", [], f"Base learners, of {', '.join(BASES)}; empty: the preset's.")
_METHODS = flags.DEFINE_list("methods", [], "What a VLM adds: none,dpl,covr; empty: the preset's.")
_SEEDS = flags.DEFINE_string("seeds", "0..4", "0..4 (five seeds), or 1,3,5.")
_PRESET = flags.DEFINE_string("preset", "", f"As of experiments.train: {', '.join(configuration.presets())}.")
_STEPS = flags.DEFINE_integer("steps", None, "Budget of each trial, in run.step_unit.")
_PRIOR = flags.DEFINE_string("prior", None, "As of experiments.train; by default each trial that asks starts its own.")
_SET = flags.DEFINE_multi_string("set", [], "Any field, for all trials: --set=learner.batch_size=64; repeatable.")
_LAUNCHER = flags.DEFINE_enum("launcher", "local", ["local", "slurm"], "Where the trials run.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Trials at a time; on this machine they share out the cores.")
_GPUS = flags.DEFINE_list("gpus", [], "local: CUDA devices by number, one a worker; empty: what JAX finds.")
_SLURM = flags.DEFINE_multi_string(
    "slurm", [], "slurm: a parameter of submitit's AutoExecutor, as --slurm=timeout_min=600; repeatable."
)
_OUT = flags.DEFINE_string("out", None, "Folder of the sweep.", required=True)
_ONLY_MISSING = flags.DEFINE_bool("only_missing", False, "Leave out the trials that are finished.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands and do nothing.")


class Progress:
    """Tells how far the sweep is: a line that moves on a terminal, a line a minute in a log file."""

    def __init__(self, total: int):
        self._total, self._told, self._last = total, 0, 0.0
        self._start = time.monotonic()
        self._moves = sys.stderr.isatty()

    def __call__(self, outcomes: list[Outcome], share: float) -> None:
        for outcome in outcomes[self._told :]:
            what = "done" if outcome.code == 0 else f"FAILED (exit {outcome.code})"
            self._line(f"{what} {outcome.job.name}, {duration(outcome.seconds)}")
        now = time.monotonic()
        if len(outcomes) > self._told or now - self._last > (2 if self._moves else 60):
            self._last = now
            spent = now - self._start
            left = duration(spent / share - spent) if share > 0.001 else "?"
            failed = sum(outcome.code != 0 for outcome in outcomes)
            text = f"{len(outcomes)}/{self._total} trials, {failed} failed, {100 * share:.1f} %, about {left} left"
            sys.stderr.write(f"\r\x1b[K{text}" if self._moves else f"{text}\n")
            sys.stderr.flush()
        self._told = len(outcomes)

    def _line(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}\n" if self._moves else f"{text}\n")


def main(argv: Sequence[str]) -> int:
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        sweep = Sweep(
            out=Path(_OUT.value),
            tasks=tuple(_TASKS.value),
            bases=tuple(_BASES.value),
            methods=tuple(_METHODS.value),
            seeds=parse_seeds(_SEEDS.value),
            preset=_PRESET.value,
            steps=_STEPS.value,
            prior=_PRIOR.value,
            settings=tuple(_SET.value),
        )
        trials = pending(sweep.trials(), _ONLY_MISSING.value)
        if _DRY_RUN.value:
            print("\n".join(shlex.join(trial.command) for trial in trials))
            return 0
        outcomes = _launch(trials)
    except (ValueError, OSError) as error:
        fail(str(error))
    return _conclude(outcomes, sweep.out)


def _launch(trials: Sequence[Trial]) -> list[Outcome]:
    jobs = [Job(trial.name, trial.command, trial.log, trial.share) for trial in trials]
    signal.signal(signal.SIGTERM, _interrupt)
    if _LAUNCHER.value == "slurm":
        executor = slurm.executor(Path(_OUT.value) / "slurm", _WORKERS.value, _SLURM.value)
        return slurm.run(jobs, executor, Progress(len(jobs)))
    return local.run(jobs, local.share_out(_WORKERS.value, _GPUS.value), Progress(len(jobs)))


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _conclude(outcomes: Sequence[Outcome], out: Path) -> int:
    failed = [outcome for outcome in outcomes if outcome.code != 0]
    sys.stderr.write("\n")
    if failed:
        stopped = sum(outcome.code is None for outcome in failed)
        words = f"{len(failed)} of {len(outcomes)} trials are not done" + (f", {stopped} stopped" if stopped else "")
        print(f"{words}:\n{failures(failed)}", file=sys.stderr)
        print("go on:  the same command with --only_missing", file=sys.stderr)
    print(f"report: python -m experiments.report {out}")
    if any(outcome.code is None for outcome in failed):
        return 130
    return 1 if failed else 0


if __name__ == "__main__":
    app.run(main)
