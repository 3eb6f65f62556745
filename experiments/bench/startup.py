"""Seconds from the command to the first update, with an empty compilation cache and with a full one.

    python -m experiments.bench.startup --preset=rad --times=3 --out=startup.json
    python -m experiments.bench.startup --resume=runs/stopped --times=3 --out=resume.json

Starts ``experiments.train`` as a user would, with five random decisions before the first update and a line of
metrics.jsonl after each decision; the clock stops when a line tells of an update. On the way: ``config``, the run
directory is there; ``first line``, the first decision is done.

With --resume a copy of that unfinished run goes on from its newest checkpoint, with its own settings and the
compilation cache of this machine; the clock stops at its first new line of metrics.jsonl, so that up to run.log_every
steps of learning are in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from absl import app, flags

from covr_jax.config import Config
from experiments import configuration
from experiments.bench.shared import write
from experiments.command_line import fail, prepare
from experiments.run_directory import read_config

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_TIMES = flags.DEFINE_integer("times", 1, "Pairs of a cold and a warm start.", lower_bound=1)
_LIMIT_S = flags.DEFINE_float("limit_s", 600.0, "Seconds after which a start has failed.", lower_bound=1.0)
_RESUME = flags.DEFINE_string("resume", "", "Instead: the directory of a run that was stopped; it stays as it is.")
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
_POLL_S = 0.02
SOON = ["run.random_decisions=5", "run.log_every=1"]  # the first update comes early, and is recorded


def start(out: Path, cache: Path) -> dict[str, float]:
    """Seconds to each mark. Raises RuntimeError if the run ends, or the limit passes, before an update."""
    command = [f"--preset={_PRESET.value}", f"--env={_ENV.value}", "--method=none", f"--out={out}"]
    command += [f"--set={setting}" for setting in _settings()]

    def marks() -> Iterator[str]:
        if (out / "config.json").exists():
            yield "config"
        if lines := _lines(out / "metrics.jsonl"):
            yield "first line"
            if lines[-1]["updates"] > 0:
                yield "first update"

    return _watched(command, out, {"JAX_COMPILATION_CACHE_DIR": str(cache)}, marks, "first update")


def resume(run: Path, out: Path) -> dict[str, float]:
    """Seconds to the first new line of a copy of ``run``. Raises RuntimeError as ``start``, OSError, ValueError."""
    saved = sorted((run / "checkpoints").glob("run-*"))
    if not saved:
        raise ValueError(f"{run} has no checkpoint to resume from")
    shutil.copytree(run, out)
    decisions, metrics = int(saved[-1].name.removeprefix("run-")), out / "metrics.jsonl"
    untouched = metrics.stat().st_mtime_ns  # lines later than the checkpoint are cut off first

    def marks() -> Iterator[str]:
        lines = _lines(metrics) if metrics.stat().st_mtime_ns != untouched else []
        if lines and lines[-1]["decisions"] > decisions:
            yield "first new line"

    return _watched(["--resume", f"--out={out}"], out, {}, marks, "first new line")


def _watched(
    arguments: list[str], out: Path, environment: dict[str, str], marks: Callable[[], Iterator[str]], last: str
) -> dict[str, float]:
    """Seconds from the start of ``experiments.train`` to each of its marks; it is killed at the last one."""
    begun, passed = time.perf_counter(), {}
    with (out.parent / f"{out.name}.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", *arguments],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
        try:
            while last not in passed:
                now = time.perf_counter() - begun
                if process.poll() is not None or now > _LIMIT_S.value:
                    log.seek(0)
                    raise RuntimeError(f"no update within {now:.0f} s: {(log.read().strip().splitlines() or [''])[-1]}")
                for mark in marks():
                    passed.setdefault(mark, now)
                time.sleep(_POLL_S)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return passed


def _settings() -> list[str]:
    return [*SOON, *_SET.value]


def _lines(path: Path) -> list[dict]:
    """The lines that have been written whole."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        config, starts = _resumed(Path(_RESUME.value)) if _RESUME.value else _started()
    except (ValueError, RuntimeError, OSError) as error:
        fail(str(error))
    print(f"{'':>14}" + "".join(f"{f'{kind}, s':>12}" for kind in starts))
    for mark in next(iter(starts.values()))[0]:
        print(
            f"{mark:>14}"
            + "".join(f"{statistics.median(each[mark] for each in marks):>12.1f}" for marks in starts.values())
        )
    write(_OUT.value, {"seconds": starts}, config)


def _started() -> tuple[Config, dict[str, list[dict[str, float]]]]:
    chosen = {"env.name": _ENV.value, "learner.method": "none"}
    config = configuration.resolve(configuration.build(_PRESET.value, chosen, _settings()).config)
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for turn in range(_TIMES.value):
        with tempfile.TemporaryDirectory() as folder:
            for kind, marks in starts.items():
                marks.append(start(Path(folder) / f"{kind}_{turn}", Path(folder) / "cache"))
    return config, starts


def _resumed(run: Path) -> tuple[Config, dict[str, list[dict[str, float]]]]:
    config = read_config(run)
    with tempfile.TemporaryDirectory() as folder:
        return config, {"resumed": [resume(run, Path(folder) / f"run_{turn}") for turn in range(_TIMES.value)]}


if __name__ == "__main__":
    app.run(main)
