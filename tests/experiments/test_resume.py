"""The program, killed by SIGKILL at chosen points and started again by the same command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from covr_jax import seeds
from covr_jax.checkpoint import load_tree
from covr_jax.learner import Learner
from experiments.run_directory import read_config, read_lines

ROOT = Path(__file__).parents[2]
RECORDS = ("metrics.jsonl", "evaluations.jsonl", "rounds.jsonl", "samples.jsonl")
SMALL = [
    "--preset=smoke", "--seed=3", "--set", "env.render_size=24", "--set", "learner.filters=4,4",
    "--set", "learner.kernels=3,3", "--set", "learner.strides=2,1", "--set", "learner.hidden_dim=16",
    "--set", "learner.batch_size=4", "--set", "run.steps=2400", "--set", "run.log_every=200",
    "--set", "run.checkpoint_every=800", "--set", "run.video=false", "--set", "rounds.psi0=600",
]  # fmt: skip
CROP = ["--set", "learner.augmentation=crop", "--set", "learner.image_size=20"]
METHODS = {
    "sac": ["--base=sac", "--method=none"],
    "rad": ["--base=rad", "--method=none", *CROP],
    "deepmdp": ["--base=deepmdp", "--method=none", *CROP],
    "dpl": ["--base=rad", "--method=dpl", "--prior=teacher:random", *CROP],
    "covr": ["--base=rad", "--method=covr", "--prior=teacher:random", *CROP],
    "erpv": ["--base=deepmdp", "--method=erpv", "--prior=teacher:random", *CROP],  # and --value_critic
}
TINY = [
    "--preset=smoke", "--method=covr", "--prior=tiny", "--seed=5", "--set", "run.steps=2400", "--set", "prior.lag=2",
    "--set", "rounds.psi0=1200", "--set", "run.checkpoint_every=500", "--set", "run.video=false",
]  # fmt: skip
# How often each point is passed in a run of SMALL, or a start of it; kills are drawn below these.
CALLS = {"decision": 300, "evaluation": 2, "policy": 2, "tree": 3, "write": 9, "sync": 30, "line": 26}


def program(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        },
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def killed(out: Path, kills: list[str], *arguments: str, timeout: float = 280) -> list[str]:
    """How each start ended: one per kill, and one that is left alone."""
    script = str(ROOT / "tests" / "experiments" / "killed.py")
    done = program(script, *kills, "--", "--resume", f"--out={out}", *arguments, timeout=timeout)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    (out.parent / "errors").write_text(done.stderr)
    return [line.removeprefix("end: ") for line in done.stdout.splitlines() if line.startswith("end: ")]


def train(out: Path, *arguments: str) -> subprocess.CompletedProcess:
    return program("-m", "experiments.train", f"--out={out}", *arguments)


def frames(run: Path, ids: range) -> np.ndarray:
    found = {}
    for file in (run / "checkpoints" / "frames").iterdir():
        found |= dict(enumerate(np.load(file), start=int(file.name[:12])))
    return np.stack([found[i] for i in ids])


def assert_equal(run: Path, other: Path) -> None:
    """Records, final learner, its parameters for evaluation and the replay."""
    for name in RECORDS:
        assert (run / name).read_bytes() == (other / name).read_bytes(), name
    config = read_config(run)
    like = Learner(config.learner, 1, config.env.frame_stack).init(0, config.env.render_size)
    ends = [max((each / "checkpoints").glob("run-*")) for each in (run, other)]
    trees = [load_tree(end / "learner", like) for end in ends]
    trees[0] = (trees[0], load_tree(run / "checkpoints" / "params", like.params))
    trees[1] = (trees[1], load_tree(other / "checkpoints" / "params", like.params))
    for left, right in zip(*map(jax.tree.leaves, trees), strict=True):
        assert np.array_equal(left, right)
    states = [json.loads((end / "state.json").read_text()) for end in ends]
    assert states[0]["replay"] == states[1]["replay"] and states[0]["counters"] == states[1]["counters"]
    with np.load(ends[0] / "arrays.npz") as left, np.load(ends[1] / "arrays.npz") as right:
        assert set(left) == set(right) and all(np.array_equal(left[name], right[name]) for name in left)
    held = range(states[0]["replay"]["next"])
    assert np.array_equal(frames(run, held), frames(other, held))


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    """A run of each method that was never stopped, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("never"), set()

    def run(name: str, arguments: list[str]) -> Path:
        if name not in made:
            assert killed(folder / name, [], *arguments) == ["0"]
            made.add(name)
        return folder / name

    return run


@pytest.fixture(scope="module")
def arguments(never, tmp_path_factory):
    """The command line of each method; ERPv's second critic is made when it is first asked for."""
    critic = tmp_path_factory.mktemp("critic") / "critic"

    def of(method: str) -> list[str]:
        if method != "erpv":
            return SMALL + METHODS[method]
        if not critic.exists():
            policy = never("deepmdp", SMALL + METHODS["deepmdp"])
            made = program("-m", "experiments.pretrain_critic", f"--policy={policy}", "--prior=teacher:random",
                           "--frames=800", f"--out={critic}")  # fmt: skip
            assert made.returncode == 0, made.stderr[-2000:]
        return [*SMALL, *METHODS["erpv"], f"--value_critic={critic}"]

    return of


@pytest.mark.slow
def test_killed_and_resumed_is_as_never_killed(never, tmp_path):
    run = tmp_path / "run"
    # Before the first checkpoint, by SIGTERM within an episode, by a full disk and a kill within a checkpoint, between
    # two records.
    kills = ["decision:60", "decision:130:term", "write:2:full", "write:3", "line:2"]
    assert killed(run, kills, *SMALL, *METHODS["rad"]) == ["killed", "75", "2", "killed", "killed", "0"]
    errors = [line for line in (tmp_path / "errors").read_text().splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "checkpoint not written, the one before it is whole" in errors[0]
    assert_equal(run, never("rad", SMALL + METHODS["rad"]))
    assert json.loads((run / "STATUS.json").read_text())["state"] == "done"
    assert len(read_lines(run / "metrics.jsonl")) == 12

    done = train(run, "--resume")  # nothing else need be said
    assert done.returncode == 0 and "nothing to resume" in done.stdout and len(done.stdout.splitlines()) == 1
    for arguments, words in (
        (["--resume", *SMALL, *METHODS["rad"], "--set", "learner.batch_size=8"], "learner.batch_size is 8"),
        (["--resume", "--overwrite"], "--overwrite"),
    ):
        refused = train(run, *arguments)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr
        last = refused.stderr.strip().splitlines()[-1]
        assert last.startswith("error:") and words in last
    assert_equal(run, never("rad", SMALL + METHODS["rad"]))


def test_with_labels_and_rounds_too(never, tmp_path):
    run = tmp_path / "run"
    ends = killed(run, ["round:2", "sync:9"], *SMALL, *METHODS["covr"])
    assert ends == ["killed", "killed", "0"]
    assert len(read_lines(run / "rounds.jsonl")) == 2 and read_lines(run / "samples.jsonl")
    assert_equal(run, never("covr", SMALL + METHODS["covr"]))


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_points(never, arguments, tmp_path, method):
    rng = seeds.generator(1, "episode", list(METHODS).index(method))
    kills = []
    for _ in range(5):
        point = str(rng.choice(list(CALLS)))
        kills.append(f"{point}:{int(rng.integers(1, CALLS[point] + 1))}")
    ends = killed(tmp_path / "run", kills, *arguments(method), timeout=1400)
    # A point that a start no longer comes to lets it end; what is started after that has nothing to do.
    assert ends[-1] == "0" and ends.count("killed") >= 3, (kills, ends)
    assert_equal(tmp_path / "run", never(method, arguments(method)))


@pytest.mark.slow
def test_two_devices_killed_and_resumed(never, tmp_path, monkeypatch):
    """The restored state lies on one device until the first update spreads it again."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    arguments = [*SMALL, *METHODS["covr"], "--set", "learner.devices=2"]
    assert killed(tmp_path / "run", ["decision:130", "write:5"], *arguments) == ["killed", "killed", "0"]
    assert_equal(tmp_path / "run", never("two devices", arguments))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_with_the_tiny_vlm(never, tmp_path):
    """In a tuning job, of which the server made a version or not; the server alone; both; within a checkpoint."""
    run = tmp_path / "run"
    kills = ["tuning:2", "tuning:3:server", "tuning:1:both", "alone:2", "decision:30:server", "write:4"]
    ends = killed(run, kills, *TINY, timeout=1400)
    assert ends == ["killed", "75", "killed", "killed", "75", "killed", "0"]
    assert_equal(run, never("tiny", TINY))
    assert [line["adapter_version"] for line in read_lines(run / "rounds.jsonl")] == ["v1"]
    assert len(list((run / "adapters").glob("*/v*"))) == 1
