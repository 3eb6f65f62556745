"""The program with several environments: refused in one line, stopped by a signal to all its processes, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.experiments.test_resume import METHODS, ROOT, SMALL, assert_equal, train


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--env=carla/highway", "--num_envs=2"], "carla/highway allows 1"),
        (["--num_envs=0"], "run.num_envs=0: must be in [1, 256]"),
        (["--num_envs=3", "--set=replay.capacity=374"], "375 transitions here"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, flags, told):
    done = train(tmp_path / "run", *SMALL, *METHODS["none"], *flags)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_to_all_and_resumed_is_as_never_stopped(tmp_path, number, code):
    flags = [*SMALL, *METHODS["covr"], "--num_envs=3"]
    never = train(tmp_path / "never", *flags)
    assert never.returncode == 0, never.stderr
    out = tmp_path / "often"
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.train", f"--out={out}", *flags],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 240
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_bytes():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) >= 3
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    resumed = train(out, *flags, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal(out, tmp_path / "never")
