"""Environments in processes of their own: order of answers, errors, and that none of them outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from covr_jax import envs
from covr_jax.config import EnvConfig
from covr_jax.envs.orders import Begin, describe, follow
from covr_jax.envs.vector import WorkerDied, WorkerFailed, Workers

ROOT = Path(__file__).parents[2]
ACTION = np.full(1, 0.5, np.float32)


def config(kind: str) -> EnvConfig:
    return EnvConfig(name=f"gym/tests.covr_jax.worker_envs:{kind}-v0", render_size=24)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within_s: float = 60.0) -> bool:
    end = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_each_follows_its_own_orders_as_it_would_here():
    here = envs.make(config("Numbered"))
    quarters = np.full((3, 1), 0.25, np.float32)
    with closing(Workers(config("Late"), 2)) as workers:
        assert workers.description == describe(here) and workers.action_repeat == 1
        workers.send([Begin(4), Begin(9, quarters)])
        for seed, actions, begun in zip((4, 9), ((), quarters), workers.receive(), strict=True):
            expected = follow(here, Begin(seed, actions))
            np.testing.assert_array_equal(begun.frames, expected.frames)
            assert begun.total == 0.25 * len(actions) and begun.info == expected.info
        workers.send([None, ACTION])
        nothing, moved = workers.receive()
        expected = follow(here, Begin(9, np.concatenate([quarters, ACTION[None]])))
        assert nothing is None and moved.reward == 0.5 and moved.info == expected.info
        np.testing.assert_array_equal(moved.frame, expected.frames[-1])


def test_what_one_raises_names_it_and_ends_all(capfd):
    workers = Workers(config("Raises"), 3)
    with closing(workers), pytest.raises(WorkerFailed) as caught:
        workers.send([Begin(2), Begin(3), Begin(4)])
        workers.receive()
        workers.send([ACTION] * 3)
        workers.receive()
    told = "environment 1 of run.num_envs=3 (counted from 0): RuntimeError: the simulator is tired"
    assert str(caught.value) == told
    assert 'in before_step\n    raise RuntimeError("the simulator' in capfd.readouterr().err
    assert gone(workers.pids)


def test_one_that_is_killed_is_named_and_ends_all():
    workers = Workers(config("Dies"), 2)
    with closing(workers), pytest.raises(WorkerDied) as caught:
        workers.send([Begin(2), Begin(3)])
        workers.receive()
        workers.send([ACTION] * 2)
        workers.receive()
    told = "environment 1 of run.num_envs=2 (counted from 0): its process was ended by signal 9"
    assert str(caught.value) == told and gone(workers.pids)


def test_what_cannot_be_made_is_refused_in_its_own_words():
    with pytest.raises(ValueError, match=r"^gym/Pendulam-v1: .*Pendulum"):
        Workers(EnvConfig(name="gym/Pendulam-v1"), 2)


PARENT = """
import signal, sys, time
from covr_jax.config import EnvConfig
from covr_jax.envs.orders import Begin
from covr_jax.envs.vector import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
workers = Workers(EnvConfig(name="gym/tests.covr_jax.worker_envs:Late-v0", render_size=24), 2)
try:
    print(*workers.pids, flush=True)  # in here: the signal comes as soon as this is read
    while True:
        workers.send([Begin(1), Begin(2)])
        workers.receive()
except KeyboardInterrupt:
    workers.send([Begin(1), Begin(2)])  # the signal reached the workers too: they go on
    workers.receive()
    sys.exit(130)
finally:
    workers.close()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_none_outlives_a_parent_that_a_signal_ends(number, code):
    """SIGTERM and SIGINT to the whole process group, as schedulers and terminals send them; SIGKILL to the parent."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = list(map(int, parent.stdout.readline().split()))
    assert len(pids) == 2 and all(map(alive, pids))
    if number == signal.SIGKILL:
        parent.kill()
    else:
        os.killpg(parent.pid, number)
    _, errors = parent.communicate(timeout=120)
    assert parent.returncode == code and "Traceback" not in errors
    assert gone(pids)
