"""One contract for all launchers: a trial crashes, one is killed, a node vanishes; all finish, as a serial run does."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.launchers import local, node, ray, slurm
from experiments.launchers.outcome import LOST, Job, Launcher, Outcome, with_retries

TRIAL = Path(__file__).with_name("fake_trial.py")
MISHAPS = {"plain": "none", "crashes": "crash", "is_killed": "kill", "loses_its_node": "vanish", "last": "none"}
LINKS = 20


def jobs(out: Path) -> list[Job]:
    return [
        Job(name, [sys.executable, str(TRIAL), str(out / name), str(LINKS), mishap], out / f"{name}.log", lambda: 0.0)
        for name, mishap in MISHAPS.items()
    ]


def results(out: Path) -> dict[str, str]:
    return {name: (out / name / "result").read_text() for name in MISHAPS}


@pytest.fixture(scope="module")
def serial(tmp_path_factory) -> dict[str, str]:
    """What the trials give, one after the other and without a mishap."""
    out = tmp_path_factory.mktemp("serial")
    for name in MISHAPS:
        subprocess.run([sys.executable, TRIAL, out / name, str(LINKS), "none"], check=True)
    return results(out)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def check_contract(out: Path, run: Launcher, take_away: Callable[[int], None], serial: dict[str, str]) -> None:
    """``take_away``: makes the node of the process with that id vanish."""

    def when_it_waits() -> None:
        waiting = out / "loses_its_node" / "waiting"
        end = time.monotonic() + 90
        while not waiting.exists() and time.monotonic() < end:
            time.sleep(0.05)
        take_away(int(waiting.read_text()))

    attempts: list[Outcome] = []
    shares: list[float] = []

    def report(outcomes: list[Outcome], share: float) -> None:
        attempts[:] = outcomes
        shares.append(share)

    watcher = threading.Thread(target=when_it_waits)
    watcher.start()
    outcomes = with_retries(run, jobs(out), retries=1, report=report)
    watcher.join()
    assert {one.job.name: one.code for one in outcomes} == dict.fromkeys(MISHAPS, 0)
    assert results(out) == serial
    tries = {name: len((out / name / "attempts").read_text().split()) for name in MISHAPS}
    assert tries == {"plain": 1, "crashes": 2, "is_killed": 2, "loses_its_node": 2, "last": 1}
    first = {one.job.name: one.code for one in reversed(attempts)}
    assert first["crashes"] == 1 and first["is_killed"] == -signal.SIGKILL and first["loses_its_node"] not in (0, None)
    assert "error: crashed" in (out / "crashes.log").read_text()
    assert shares[-1] == 1


def test_the_pool_keeps_the_contract(tmp_path, serial):
    workers = [local.Worker((min(os.sched_getaffinity(0)),))] * 2
    run = lambda jobs, report: local.run(jobs, workers, report)  # noqa: E731
    check_contract(tmp_path, run, lambda process: os.kill(process, signal.SIGKILL), serial)


def test_slurm_keeps_the_contract(tmp_path, serial):
    """On submitit's executor for this machine; a node vanishes with the process that submitit runs there."""
    executor = slurm.executor(tmp_path / "slurm", 2, ["timeout_min=5"], cluster="local")
    run = lambda jobs, report: slurm.run(jobs, executor, report, poll_s=0.1)  # noqa: E731
    check_contract(tmp_path, run, lambda process: os.kill(parent(process), signal.SIGKILL), serial)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install -e '.[ray]'")
def test_ray_keeps_the_contract(tmp_path, serial, monkeypatch):
    """On two nodes of this machine, one of which is removed."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 80_000_000}
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    raylets = {each.all_processes["raylet"][0].process.pid: each for each in nodes}

    def take_away(process: int) -> None:
        while process not in raylets:
            process = parent(process)
        cluster.remove_node(raylets[process], allow_graceful=False)

    chosen = ray.settings([f"address={cluster.address}"], workers=2)
    try:
        check_contract(tmp_path, lambda jobs, report: ray.run(jobs, chosen, report, 0.2), take_away, serial)
    finally:
        cluster.shutdown()


def test_what_cannot_be_mended_is_not_tried_again(tmp_path):
    codes = {"wrong": [2], "always": [1, 1, LOST], "later": [-9, 0]}
    tried: list[list[str]] = []

    def run(jobs, report):
        tried.append([job.name for job in jobs])
        return [Outcome(job, codes[job.name].pop(0), 0.0) for job in jobs]

    made = [Job(name, [], tmp_path / name, lambda: 0.0) for name in codes]
    outcomes = with_retries(run, made, 2, lambda outcomes, share: None)
    assert [(one.job.name, one.code) for one in outcomes] == [("wrong", 2), ("always", LOST), ("later", 0)]
    assert tried == [["wrong", "always", "later"], ["always", "later"], ["always"]]


def test_an_interrupt_is_not_answered_by_another_try(tmp_path):
    made = [Job(name, [], tmp_path / name, lambda: 0.0) for name in ("failed", "stopped")]
    run = lambda jobs, report: [Outcome(jobs[0], 1, 0.0), Outcome(jobs[1], None, 0.0)]  # noqa: E731
    assert [one.code for one in with_retries(run, made, 3, lambda *_: None)] == [1, None]


def test_a_command_dies_with_the_process_that_called_it(tmp_path):
    code = "from experiments.launchers.node import call; import sys; call(sys.argv[2:], sys.argv[1], '.')"
    sleeper = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    log = tmp_path / "deep" / "log"
    caller = subprocess.Popen([sys.executable, "-c", code, log, *sleeper], cwd=TRIAL.parents[2])
    end = time.monotonic() + 20
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < end:
        time.sleep(0.05)
    child = int(log.read_text())
    caller.kill()
    caller.wait()
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_a_command_on_a_node_has_a_log_and_a_code(tmp_path):
    log = str(tmp_path / "log")
    assert node.call([sys.executable, "-c", "import os; print(os.getcwd())"], log, str(tmp_path)) == 0
    assert node.call([sys.executable, "-c", "import sys; sys.exit('no')"], log, str(tmp_path)) == 1
    assert Path(log).read_text() == f"{tmp_path}\nno\n"


def test_wrong_settings_of_ray_are_refused(tmp_path, monkeypatch):
    for wrong in ("cpus=many", "memory=3", "cpus"):
        with pytest.raises(ValueError, match=f"^--ray={wrong}: must be address=HOST:PORT, cpus=NUMBER or gpus=NUMBER"):
            ray.settings([wrong], 1)
    with pytest.raises(ValueError, match="--workers=0"):
        ray.settings([], 0)
    assert ray.settings(["cpus=0.5", "gpus=1", "address=10.0.0.1:6379"], 3) == ray.Settings(3, "10.0.0.1:6379", 0.5, 1)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'covr-jax\[ray\]'"):
        ray.run(jobs(tmp_path), ray.settings([], 1))
