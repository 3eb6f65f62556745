"""Sweeps: which trials, their commands, and the launchers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import synthetic_run

from covr_jax.priors.server_process import ServerProcess
from experiments import configuration
from experiments.json_lines import read_lines
from experiments.launchers import local, slurm
from experiments.launchers.outcome import LOST, Job, failures
from experiments.run_directory import RunDirectory
from experiments.trials import Sweep, parse_seeds, pending

ROOT = Path(__file__).parents[2]
TASKS = ("dmc/cartpole/swingup", "dmc/walker/walk")


def sweep(out: Path, **changes) -> Sweep:
    values = {"tasks": TASKS, "bases": (), "methods": ("none", "covr"), "seeds": (0, 1), "preset": "smoke"}
    return Sweep(out=out, **{**values, **changes})


def finish(trial, steps=3000, close=True) -> None:
    run = RunDirectory.create(trial.out, trial.config, [], synthetic_run.ENVIRONMENT)
    run.write("evaluations", {"frames": steps, "decisions": steps // 8, "returns": [1.0]})
    run.set_status("done" if close else "interrupted", "")
    run.close()


def test_seeds():
    assert parse_seeds("0..4") == (0, 1, 2, 3, 4)
    assert parse_seeds("7, 1..2") == (7, 1, 2)
    for wrong in ("", "a", "1..", "4..2", "1,1", "-1", "0...3"):
        with pytest.raises(ValueError, match=f"^--seeds={wrong}: must"):
            parse_seeds(wrong)


def test_trials_are_the_grid_and_plain_commands(tmp_path):
    trials = sweep(tmp_path, steps=100, prior="tiny", settings=("learner.batch_size=8",)).trials()
    assert [trial.name for trial in trials[:4]] == [
        "dmc_cartpole_swingup/none/seed_0", "dmc_cartpole_swingup/covr/seed_0",
        "dmc_walker_walk/none/seed_0", "dmc_walker_walk/covr/seed_0",
    ]  # fmt: skip
    assert len({trial.out for trial in trials}) == 8
    assert trials[1].command == [
        sys.executable, "-m", "experiments.train", "--preset=smoke", "--env=dmc/cartpole/swingup", "--method=covr",
        "--seed=0", "--steps=100", "--prior=tiny", "--set=learner.batch_size=8",
        f"--out={tmp_path}/dmc_cartpole_swingup/covr/seed_0", "--resume",
    ]  # fmt: skip
    config = trials[1].config
    assert (config.run.steps, config.learner.batch_size, config.learner.method) == (100, 8, "covr")
    assert trials[1].log == tmp_path / "dmc_cartpole_swingup" / "covr" / "seed_0.log"
    bare = Sweep(tmp_path, (), ("sac",), (), (3,)).trials()
    assert [trial.name for trial in bare] == ["sac/seed_3"]


def test_finished_trials_are_kept(tmp_path):
    trials = sweep(tmp_path).trials()
    assert pending(trials, only_missing=False) == trials
    finish(trials[0])
    finish(trials[1], steps=1000)
    finish(trials[2], close=False)
    assert trials[1].share() == pytest.approx(1 / 3)
    assert pending(trials, only_missing=True) == trials[1:]
    with pytest.raises(ValueError, match=r"1 of 8 trials are finished .* --only_missing"):
        pending(trials, only_missing=False)
    other = sweep(tmp_path, settings=("learner.batch_size=8",)).trials()
    with pytest.raises(ValueError, match="holds a run of another configuration"):
        pending(other, only_missing=True)


def test_wrong_values_are_refused_before_anything_runs(tmp_path):
    for changes, words in (
        ({"methods": ("none", "magic")}, "magic"),
        ({"preset": "nothing"}, "unknown preset"),
        ({"settings": ("learner.batchsize=8",)}, "learner.batch_size"),
        ({"tasks": (TASKS[0], TASKS[0])}, "named twice"),
    ):
        with pytest.raises(ValueError, match=words):
            pending(sweep(tmp_path, **changes).trials(), only_missing=True)


# --- the local pool ----------------------------------------------------------------------------------------------


def job(folder: Path, name: str, code: str, share: float = 0.0) -> Job:
    return Job(name, [sys.executable, "-c", code], folder / f"{name}.log", lambda: share)


def workers(count: int = 2) -> list[local.Worker]:
    core = min(os.sched_getaffinity(0))
    return [local.Worker((core,))] * count


def test_the_pool_runs_all_and_tells_what_failed(tmp_path):
    jobs = [
        job(tmp_path, "good", "print('fine')"),
        job(tmp_path, "bad", "import sys; print('start'); sys.exit('error: it broke')"),
        job(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        job(tmp_path, "after", "print('fine too')"),
    ]
    shares = []
    outcomes = local.run(jobs, workers(), lambda outcomes, share: shares.append(share))
    assert {one.job.name: one.code for one in outcomes} == {"good": 0, "bad": 1, "killed": -9, "after": 0}
    assert shares[-1] == 1
    table = failures(outcomes)
    assert "error: it broke" in table and "exit -9" in table and "good" not in table
    assert f"repeat: {sys.executable} -c" in table


def test_no_more_at_a_time_than_workers(tmp_path):
    code = "import time; a = time.monotonic(); time.sleep(0.4); print(a, time.monotonic())"
    jobs = [job(tmp_path, str(i), code) for i in range(4)]
    local.run(jobs, workers(2))
    spans = [tuple(map(float, one.log.read_text().split())) for one in jobs]
    for start, _ in spans:
        assert sum(a <= start < b for a, b in spans) <= 2


def test_workers_have_cores_and_devices_of_their_own(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    dealt = local.share_out(len(cores))
    assert [worker.cores for worker in dealt] == [(core,) for core in cores]
    assert [worker.gpu for worker in local.share_out(1, ["3"])] == ["3"]
    for count in (0, len(cores) + 1):
        with pytest.raises(ValueError, match=f"--workers={count}: must be from 1 to {len(cores)}"):
            local.share_out(count)
    if len(cores) > 1:
        with pytest.raises(ValueError, match="1 GPUs"):
            local.share_out(2, ["0"])
    code = (
        "import os, time; time.sleep(0.3); "
        "print(os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'], os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    one = job(tmp_path, "who", code)
    local.run([one], [local.Worker((cores[-1],), "3")])
    assert one.log.read_text().strip() == f"{{{cores[-1]}}} 1 3"


def test_an_interrupt_stops_the_children(tmp_path):
    polite = job(tmp_path, "polite", "import time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: pass")
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    stubborn = job(tmp_path, "stubborn", deaf)
    never = job(tmp_path, "never", "print(1)")
    seen: list[int] = []
    start = time.monotonic()
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    outcomes = local.run([polite, stubborn, never], workers(), lambda done, _: seen.append(len(done)), grace_s=0.5)
    assert time.monotonic() - start < 20
    assert {one.job.name: one.code for one in outcomes} == dict.fromkeys(("polite", "stubborn", "never"))
    assert stubborn.log.read_text() == "on\n" and not never.log.exists()
    assert "stopped" in failures(outcomes)


# --- the program ---------------------------------------------------------------------------------------------------


def program(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sweep", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


SMALL = ["--preset=smoke", "--methods=none", "--steps=400", "--set=run.video=false", "--set=run.random_decisions=200",
         "--set=run.eval_every=800"]  # fmt: skip


def test_a_sweep_runs_fails_and_goes_on(tmp_path):
    out = tmp_path / "sweep"
    tasks = "--tasks=dmc/cartpole/swingup,dmc/cartpole/nothing"
    first = program(*SMALL, tasks, "--seeds=1", f"--out={out}")
    stdout, stderr = first.communicate(timeout=280)
    assert first.returncode == 1, stderr
    assert "done dmc_cartpole_swingup/none/seed_1" in stderr
    assert "1 of 2 trials are not done" in stderr and "unknown environment dmc/cartpole/nothing" in stderr
    assert "repeat: " in stderr and "--env=dmc/cartpole/nothing" in stderr
    assert f"python -m experiments.report {out}" in stdout
    run = out / "dmc_cartpole_swingup" / "none" / "seed_1"
    assert read_lines(run / "evaluations.jsonl")[-1]["frames"] == 400

    rest = program(*SMALL, tasks, "--seeds=1..2", f"--out={out}", "--only_missing", "--dry_run")
    stdout, _ = rest.communicate(timeout=120)
    assert rest.returncode == 0
    assert [line.split("--out=")[1] for line in stdout.splitlines()] == [
        f"{out}/dmc_cartpole_nothing/none/seed_1 --resume", f"{out}/dmc_cartpole_swingup/none/seed_2 --resume",
        f"{out}/dmc_cartpole_nothing/none/seed_2 --resume",
    ]  # fmt: skip


def test_ctrl_c_ends_the_trials_cleanly(tmp_path):
    out = tmp_path / "sweep"
    quick = "--set=run.random_decisions=10000"
    running = program("--preset=smoke", "--methods=none", "--steps=100000", "--seeds=1,2", quick, f"--out={out}")
    metrics = out / "none" / "seed_1" / "metrics.jsonl"
    end = time.monotonic() + 150
    while not read_lines(metrics) and time.monotonic() < end and running.poll() is None:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=100)
    assert running.returncode == 130, stderr
    assert "2 of 2 trials are not done, 2 stopped" in stderr
    assert json.loads((out / "none" / "seed_1" / "STATUS.json").read_text())["state"] == "interrupted"
    assert not (out / "none" / "seed_2").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_trials_share_a_server_as_if_each_had_its_own(tmp_path):
    """Both tune and ask at the same time; what they record is what it is behind a server for each alone."""
    flags = ("--preset=smoke", "--methods=covr", "--seeds=1,2", "--steps=1800", "--set=run.video=false")
    with ServerProcess("tiny", tmp_path / "adapters", tmp_path / "server.log") as server:
        shared = program(*flags, "--workers=2", f"--prior=grpc://{server.address}", f"--out={tmp_path / 'shared'}")
        _, stderr = shared.communicate(timeout=850)
        assert shared.returncode == 0, stderr[-2000:]
    alone = program(*flags, "--workers=2", "--prior=tiny", f"--out={tmp_path / 'alone'}")
    _, stderr = alone.communicate(timeout=850)
    assert alone.returncode == 0, stderr[-2000:]
    for seed in (1, 2):
        ours, own = (tmp_path / kind / "covr" / f"seed_{seed}" for kind in ("shared", "alone"))
        assert [line["adapter_version"] for line in read_lines(own / "rounds.jsonl")] == ["v1"]
        for name in ("metrics.jsonl", "evaluations.jsonl", "rounds.jsonl"):
            assert (ours / name).read_bytes() == (own / name).read_bytes(), f"seed {seed}, {name}"
    assert len(list((tmp_path / "adapters").glob("*/v1"))) == 2


# --- Slurm -----------------------------------------------------------------------------------------------------------


class Cluster:
    """Stands in for submitit's executor: jobs run at once, in this process; job 1 is ended by the cluster."""

    def map_array(self, function, *columns):
        return [Cluster.Job(function, arguments, index) for index, arguments in enumerate(zip(*columns, strict=True))]

    class Job:
        def __init__(self, function, arguments, index):
            self.ended = index == 1
            self.cancelled = False
            self.code = None if self.ended or index > 2 else function(*arguments)
            self.running = index > 2

        def done(self):
            return not self.running

        def exception(self):
            return RuntimeError("timed out") if self.ended else None

        def result(self):
            return self.code

        def cancel(self):
            self.cancelled = True


def test_slurm_jobs_have_logs_and_codes(tmp_path):
    jobs = [job(tmp_path, "good", "print('fine')"), job(tmp_path, "ended", "print(1)"),
            job(tmp_path / "new", "bad", "import sys; sys.exit('error: no')")]  # fmt: skip
    outcomes = slurm.run(jobs, Cluster(), poll_s=0.01)
    assert [(one.job.name, one.code) for one in outcomes] == [("good", 0), ("ended", LOST), ("bad", 1)]
    assert jobs[0].log.read_text() == "fine\n" and "error: no" in failures(outcomes)
    assert slurm.run([], Cluster()) == []


def test_an_interrupt_cancels_slurm_jobs(tmp_path):
    jobs = [job(tmp_path, str(i), "print(1)") for i in range(4)]
    made = []

    class Kept(Cluster):
        def map_array(self, *arguments):
            made.extend(super().map_array(*arguments))
            return made

    def stop(outcomes, share):
        raise KeyboardInterrupt

    outcomes = slurm.run(jobs, Kept(), stop, poll_s=0.01)
    assert [(one.job.name, one.code) for one in outcomes] == [("0", 0), ("1", LOST), ("2", 0), ("3", None)]
    assert [one.cancelled for one in made] == [False, False, False, True]


def test_slurm_without_submitit_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"needs submitit: pip install 'covr-jax\[slurm\]'"):
        slurm.executor(tmp_path, 2, [])


def test_the_configuration_of_a_trial_is_that_of_its_command(tmp_path):
    """What a trial checks its run against is what experiments.train makes of the command."""
    trial = sweep(tmp_path, settings=("prior.lag=2",), prior="teacher:zeros").trials()[1]
    built = configuration.build("smoke", {"env.name": TASKS[0], "learner.method": "covr", "run.seed": "0",
                                          "prior.source": "teacher:zeros"}, ["prior.lag=2"])  # fmt: skip
    assert trial.config == configuration.resolve(built.config)
