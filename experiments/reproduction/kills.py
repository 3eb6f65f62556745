"""A run whose learner is killed at random moments and started again, until it is done."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Mapping

from experiments.trials import Trial

POLL_S = 0.2
DELAY_S = 5.0  # between the record that calls for a kill and the kill, at most: it may fall into anything
LAST = 0.95  # share of the budget after which nothing is killed any more


def run(
    trial: Trial, environment: Mapping[str, str], kills: int, tell: Callable[[str], None] = print
) -> tuple[int, int]:
    """The exit code of the trial's command, started again after each of ``kills`` SIGKILLs, and how many there were.

    The moments are drawn evenly over the budget, by the trial's seed. There are fewer kills if the run ends before.
    Its own server is not killed: it notices that its learner is gone.
    """
    draw = random.Random(trial.seed)
    for done, moment in enumerate(sorted(draw.uniform(0, LAST) for _ in range(kills))):
        started = time.time()
        process = subprocess.Popen(trial.command, env=environment, stdout=subprocess.DEVNULL)
        try:
            while process.poll() is None and _share(trial, started) < moment:
                time.sleep(POLL_S)
            try:
                return process.wait(draw.uniform(0, DELAY_S)), done
            except subprocess.TimeoutExpired:
                pass
        finally:
            process.kill()
            process.wait()
        tell(f"killed ({done + 1} of {kills}) after {trial.share():.0%} of its budget")
    return subprocess.run(trial.command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode, kills


def _share(trial: Trial, started: float) -> float:
    """How far a start has come; 0 before it has cut the records of the one before back to its checkpoint."""
    records = trial.out / "timings.jsonl"
    return trial.share() if records.is_file() and records.stat().st_mtime > started else 0.0
