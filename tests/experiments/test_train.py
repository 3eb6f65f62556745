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
    "--preset=smoke", "--set", "run.steps=1800", "--set", "run.eval_every=900", "--set", "prior.lag=2",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"}


def program(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return program("experiments.train", f"--out={out}", *arguments)


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
    assert last["labels_ok"] > 40 and last["labels_malformed"] == 0  # template decoding
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
        cwd=ROOT, capture_output=True, text=True, timeout=200, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "over 2 episodes" in done.stdout


GATED = ["--base=deepmdp", "--method=erpv", "--prior=teacher:zeros"]
REFUSED = {
    "environment": (["--env=dmc/cartpole/swingdown"], "dmc/cartpole/swingup"),
    "base": (["--base=ppo"], "rad"),
    "preset": (["--preset=nothing"], "cpu"),
    "key": (["--set=learner.batchsize=3"], "learner.batch_size"),
    "value": (["--set=learner.batch_size=many"], "batch_size"),
    "teacher": (["--prior=teacher:perfect"], "oracle"),
    "address": (["--prior=grpc://127.0.0.1:1", "--method=dpl", "--set=prior.deadline_s=2"], "127.0.0.1:1"),
    "value critic": (GATED, "needs --value_critic=FOLDER; make one with python -m experiments.pretrain_critic"),
    "folder": ([*GATED, "--value_critic=nowhere"], "nowhere holds no value critic"),
    "OpenGL": (["--method=none"], "MUJOCO_GL=disable cannot render"),
    "occupied": (["--method=none"], "not empty"),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each of REFUSED ends with, in a folder that only "occupied" has something in."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "occupied").mkdir()
    (folder / "occupied" / "config.json").write_text("{}")
    lines = [
        json.dumps({
            "arguments": [f"--out={folder / name}", "--preset=smoke", *arguments],
            "environment": {"MUJOCO_GL": "disable"} if name == "OpenGL" else {},
        })
        for name, (arguments, _) in REFUSED.items()
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("forked.py")],
        input="\n".join(lines), capture_output=True, text=True, timeout=280, cwd=ROOT, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert {each.name for each in folder.iterdir()} == {"occupied", "address"}  # only the latter has begun
    assert [each.name for each in (folder / "occupied").iterdir()] == ["config.json"]
    return dict(zip(REFUSED, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_one_line_that_says_what_is_allowed(refusals, what):
    code, errors = refusals[what]["code"], refusals[what]["errors"]
    assert code == (3 if what == "address" else 2)
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error:") and REFUSED[what][1] in last
    assert "Traceback" not in errors


def test_an_interrupted_run_keeps_what_it_has(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.train", f"--out={out}", "--preset=smoke", "--method=none"]
    command += ["--set", "run.steps=1000000", "--set", "run.log_every=8"]
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
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
