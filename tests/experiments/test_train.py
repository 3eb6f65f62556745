"""The program itself, with the tiny VLM behind gRPC and tuning in the loop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.run_directory import read_lines

ROOT = Path(__file__).parents[2]
SMOKE = [
    "--preset=smoke", "--set", "run.steps=2400", "--set", "run.eval_every=1200", "--set", "prior.lag=2",
]  # fmt: skip


def program(*arguments: str, timeout: float = 280, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return program("experiments.train", f"--out={out}", *arguments, **environment)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of the same command: COVR with the tiny VLM, two tuning rounds, labels after the first."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        done = train(folder / name, *SMOKE, "--method=covr", "--prior=tiny", "--seed=5")
        assert done.returncode == 0, done.stderr[-2000:]
    return folder / "a", folder / "b"


def test_the_same_seed_gives_the_same_records_byte_for_byte(runs):
    for name in ("metrics.jsonl", "evaluations.jsonl", "rounds.jsonl", "samples.jsonl"):
        left, right = ((run / name).read_bytes() for run in runs)
        assert left and left == right, name


def test_the_vlm_is_tuned_and_guides(runs):
    rounds = read_lines(runs[0] / "rounds.jsonl")
    assert [line["adapter_version"] for line in rounds] == ["v1"]
    assert rounds[0]["frames"] == 1000 and rounds[0]["kept"] >= 32
    assert len(rounds[0]["vlm_returns_before"]) == 1 and len(rounds[0]["vlm_returns_after"]) == 1
    last = read_lines(runs[0] / "metrics.jsonl")[-1]
    assert last["labels_ok"] > 50 and last["labels_malformed"] == 0  # template decoding
    assert last["guidance_loss"] > 0
    assert json.loads((runs[0] / "STATUS.json").read_text())["state"] == "done"


def test_what_a_run_leaves_for_the_eye(runs):
    assert (runs[0] / "report.html").stat().st_size > 10_000
    assert list((runs[0] / "videos").glob("*.mp4"))
    samples = read_lines(runs[0] / "samples.jsonl")
    assert samples and samples[0]["prompt"] and samples[0]["text"].startswith("slide:")
    assert (runs[0] / samples[0]["frame_png"]).is_file()
    assert list((runs[0] / "tensorboard").iterdir())


def test_evaluation_needs_neither_server_nor_torch(runs):
    blocked = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; "
    blocked += "runpy.run_module('experiments.evaluate', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", blocked, "evaluate", f"--run={runs[0]}", "--episodes=2"],
        cwd=ROOT, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "over 2 episodes" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env=dmc/cartpole/swingdown"], "dmc/cartpole/swingup"),
        (["--base=ppo"], "rad"),
        (["--preset=nothing"], "cpu"),
        (["--set", "learner.batchsize=3"], "learner.batch_size"),
        (["--set", "learner.batch_size=many"], "batch_size"),
        (["--prior=teacher:perfect"], "oracle"),
        (["--prior=grpc://127.0.0.1:1", "--method=dpl", "--set", "prior.deadline_s=2"], "127.0.0.1:1"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(tmp_path, arguments, words):
    done = train(tmp_path / "run", "--preset=smoke", *arguments)
    assert done.returncode in (2, 3)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error:") and words in last
    assert "Traceback" not in done.stderr


def test_without_opengl_the_packages_are_named(tmp_path):
    done = train(tmp_path / "run", "--preset=smoke", "--method=none", MUJOCO_GL="disable")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error:")


def test_a_run_is_not_overwritten_unless_told(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = train(tmp_path, "--preset=smoke", "--method=none")
    assert done.returncode == 2 and "not empty" in done.stderr


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.train", f"--out={out}", "--preset=smoke", "--method=none"]
    command += ["--set", "run.steps=1000000", "--set", "run.log_every=8"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors[-2000:]
    assert "Traceback" not in errors
    assert json.loads((out / "STATUS.json").read_text())["state"] == "interrupted"
    assert program("experiments.evaluate", f"--run={out}", "--episodes=1").returncode == 0
