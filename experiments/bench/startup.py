"""Seconds from the command to the first update, with an empty compilation cache and with a full one.

    python -m experiments.bench.startup --preset=rad --times=3 --out=startup.json

Starts ``experiments.train`` as a user would, with five random decisions before the first update and a line of
metrics.jsonl after each decision; the clock stops when a line tells of an update. On the way: ``config``, the run
directory is there; ``first line``, the first decision is done.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

from experiments import configuration
from experiments.bench.shared import write
from experiments.command_line import fail, prepare

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_TIMES = flags.DEFINE_integer("times", 1, "Pairs of a cold and a warm start.", lower_bound=1)
_LIMIT_S = flags.DEFINE_float("limit_s", 600.0, "Seconds after which a start has failed.", lower_bound=1.0)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
_POLL_S = 0.02
SOON = ["run.random_decisions=5", "run.log_every=1"]  # the first update comes early, and is recorded


def start(out: Path, cache: Path) -> dict[str, float]:
    """Seconds to each mark. Raises RuntimeError if the run ends, or the limit passes, before an update."""
    command = [sys.executable, "-m", "experiments.train", f"--preset={_PRESET.value}", f"--env={_ENV.value}"]
    command += ["--method=none", f"--out={out}", *(f"--set={setting}" for setting in _settings())]
    begun, marks = time.perf_counter(), {}
    with (out.parent / f"{out.name}.log").open("w+") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)}, stdout=log, stderr=log
        )
        try:
            while "first update" not in marks:
                now = time.perf_counter() - begun
                if process.poll() is not None or now > _LIMIT_S.value:
                    log.seek(0)
                    raise RuntimeError(f"no update within {now:.0f} s: {(log.read().strip().splitlines() or [''])[-1]}")
                if (out / "config.json").exists():
                    marks.setdefault("config", now)
                if lines := _lines(out / "metrics.jsonl"):
                    marks.setdefault("first line", now)
                    if lines[-1]["updates"] > 0:
                        marks["first update"] = now
                time.sleep(_POLL_S)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return marks


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
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    try:
        chosen = {"env.name": _ENV.value, "learner.method": "none"}
        config = configuration.resolve(configuration.build(_PRESET.value, chosen, _settings()).config)
        for turn in range(_TIMES.value):
            with tempfile.TemporaryDirectory() as folder:
                for kind, marks in starts.items():
                    marks.append(start(Path(folder) / f"{kind}_{turn}", Path(folder) / "cache"))
    except (ValueError, RuntimeError) as error:
        fail(str(error))
    print(f"{'':>13} {'cold, s':>8} {'warm, s':>8}")
    for mark in starts["cold"][0]:
        cold, warm = (statistics.median(each[mark] for each in starts[kind]) for kind in starts)
        print(f"{mark:>13} {cold:>8.1f} {warm:>8.1f}")
    write(_OUT.value, {"seconds": starts}, config)


if __name__ == "__main__":
    app.run(main)
