"""The client in a process of its own: watched, restarted, and never leaving a server behind that waits for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")

from covr_jax import envs
from covr_jax.config import CarlaConfig, DrivingConfig, EnvConfig
from covr_jax.envs.carla import world as world_module
from covr_jax.envs.carla.world import CarlaWorld
from covr_jax.envs.driving.env import DrivingEnv
from covr_jax.envs.driving.world import WorldLost
from tests.covr_jax.carla.simulator import Simulator
from tests.covr_jax.carla.worlds import SIZE, carla_env

STRAIGHT = np.array([0.0, 1.0])
LIBRARY = "tests.covr_jax.carla.library"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Environments over processes of their own, closed at the end. ``report``: what they leave."""
    made = []

    def make(carla: CarlaConfig | None = None, simulator: dict | None = None) -> DrivingEnv:
        told = {"report": str(tmp_path / "report.json")} | (simulator or {})
        monkeypatch.setenv("SIMULATOR", json.dumps(told))
        driving = DrivingConfig(vehicles=2, horizon=80)
        config = EnvConfig(name="carla/highway", render_size=SIZE, driving=driving, carla=carla or CarlaConfig())
        world = CarlaWorld("highway", config, LIBRARY)
        made.append(DrivingEnv(config, world.scene, world))
        return made[-1]

    yield make
    for env in made:
        env.close()


def report(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "report.json").read_text())


def server_program(folder: Path, body: str = "exec sleep 600") -> str:
    """A stand-in for CarlaUE4.sh, which writes down how it was started."""
    program = folder / "CarlaUE4.sh"
    program.write_text(f'#!/bin/sh\necho "$$ $@" >>{folder}/starts\n{body}\n')
    program.chmod(0o755)
    return str(program)


def starts(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "starts").read_text().splitlines()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def wait_for(condition, within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_an_episode_is_the_one_of_this_process(make, tmp_path):
    env, here = make(), carla_env(Simulator(), vehicles=2, horizon=80)
    frame, info = env.reset(seed=5)
    seed = int(np.random.default_rng(5).integers(2**63))
    wanted, wanted_info = here.reset(seed=seed)
    over = False
    while not over:
        assert np.array_equal(frame, wanted) and info["state"] == wanted_info["state"]
        frame, reward, terminated, truncated, info = env.step(STRAIGHT)
        wanted, *wanted_rest, wanted_info = here.step(STRAIGHT)
        assert [reward, terminated, truncated] == wanted_rest and info["totals"] == wanted_info["totals"]
        over = terminated or truncated
    assert info["ending"] == "horizon"
    env.close()
    assert report(tmp_path)["left"] == []


def test_a_fault_ends_the_client_and_the_next_episode_has_another(make, tmp_path):
    env = make(simulator={"fail": 30})
    env.reset(seed=0)
    info = {}
    while "ending" not in info:
        *_, info = env.step(STRAIGHT)
    assert info["ending"] == "fault" and "time-out" in info["fault"] and report(tmp_path)["left"] == []
    env.reset(seed=1)
    assert env.world.restarts == 1 and env.step(STRAIGHT)[4]["frames"] == 4


@pytest.mark.parametrize("fate, says", [("exit", "process ended in tick"), ("hang", "no answer to tick within")])
def test_a_client_that_dies_or_hangs_cuts_the_episode(make, monkeypatch, fate, says):
    monkeypatch.setattr(world_module, "GRACE_S", 0.5)
    env = make(CarlaConfig(timeout_s=1.0), {fate: 30})
    env.reset(seed=0)
    process, info = env.world._process, {}
    while "ending" not in info:
        *_, info = env.step(STRAIGHT)
    assert info["ending"] == "fault" and says in info["fault"]
    assert process.poll() is not None, "nothing is left running"


def test_sigterm_leaves_a_clean_server(make, tmp_path):
    env = make()
    env.reset(seed=0)
    env.world._process.send_signal(signal.SIGTERM)
    assert env.world._process.wait(timeout=20) == 0
    assert report(tmp_path) == {"left": [], "ticks": 6}
    *_, truncated, info = env.step(STRAIGHT)
    assert truncated and info["ending"] == "fault"


def test_ctrl_c_is_the_learners(make):
    env = make()
    env.reset(seed=0)
    env.world._process.send_signal(signal.SIGINT)
    assert env.step(STRAIGHT)[4]["frames"] == 4


PARENT = """
import json, os, sys, numpy as np
from covr_jax.config import CarlaConfig, DrivingConfig, EnvConfig
from covr_jax.envs.carla.world import CarlaWorld
config = EnvConfig(name="carla/highway", render_size=16, carla=CarlaConfig(server=sys.argv[1]))
world = CarlaWorld("highway", config, "tests.covr_jax.carla.library")
world.begin(np.random.default_rng(0))
print(world._process.pid, flush=True)
sys.stdin.read()
"""


def test_a_learner_that_is_killed_leaves_neither_client_nor_server(tmp_path):
    environment = os.environ | {
        "SIMULATOR": json.dumps({"report": str(tmp_path / "report.json")}), "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"
    }  # fmt: skip
    command = [sys.executable, "-c", PARENT, server_program(tmp_path)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
    client = int(parent.stdout.readline())
    server = int(starts(tmp_path)[0][0])
    assert alive(client) and alive(server)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not alive(client) and not alive(server))
    assert report(tmp_path)["left"] == []
    parent.stdin.close()
    parent.stdout.close()


def test_a_server_of_our_own_is_started_restarted_after_a_fault_and_stopped(make, tmp_path):
    env = make(CarlaConfig(server=server_program(tmp_path), ports=(2040,)), {"fail": 30})
    env.reset(seed=0)
    assert starts(tmp_path)[0][1:] == ["-carla-rpc-port=2040", "-RenderOffScreen", "-nosound"]
    info = {}
    while "ending" not in info:
        *_, info = env.step(STRAIGHT)
    env.reset(seed=1)
    first, second = (int(each[0]) for each in starts(tmp_path))
    assert not alive(first) and alive(second)
    env.close()
    assert not alive(second)


def test_a_server_that_dies_between_episodes_is_started_again(make, tmp_path):
    env = make(CarlaConfig(server=server_program(tmp_path)))
    env.reset(seed=0)
    os.kill(int(starts(tmp_path)[0][0]), signal.SIGKILL)
    assert wait_for(lambda: not env.world._server.running)
    env.reset(seed=1)
    assert len(starts(tmp_path)) == 2 and alive(int(starts(tmp_path)[1][0]))


def test_a_server_is_started_anew_after_so_many_episodes(make, tmp_path):
    env = make(CarlaConfig(server=server_program(tmp_path), restart_every=2))
    for seed in range(3):
        env.reset(seed=seed)
    assert len(starts(tmp_path)) == 2


def test_a_server_that_cannot_start_is_told(make, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(world_module, "GRACE_S", 0.1)
    monkeypatch.setattr(world_module, "ATTEMPTS", 2)
    env = make(CarlaConfig(server=server_program(tmp_path, "echo no GPU here; exit 3")), {"hang": 0})
    with pytest.raises(WorldLost, match=r"server has ended in begin; .*carla-.*\.log may say why .*2 attempts"):
        env.reset(seed=0)
    log = env.world._server.log
    assert "no GPU here" in log.read_text() and len(starts(tmp_path)) == 2
    assert log.parent.stat().st_mode & 0o777 == 0o700, "nobody else can put a link there"
    assert "attempt 1 of 2" in capsys.readouterr().err


def test_a_version_that_is_refused_is_not_tried_again(make):
    env = make(simulator={"version": "0.9.13"})
    with pytest.raises(ValueError, match=r"is 0\.9\.13, this client is"):
        env.reset(seed=0)
    assert env.world.restarts == 0


def test_each_environment_has_a_port_of_its_own():
    config = EnvConfig(name="carla/jaywalk", carla=CarlaConfig(ports=(2000, 2010)))
    first, second = envs.make(config), envs.make(config)
    assert (first.world.port, second.world.port) == (2000, 2010)
    with pytest.raises(ValueError, match=r"env\.carla\.ports=2000, 2010: each environment needs a server"):
        envs.make(config)
    first.close()
    third = envs.make(config)
    assert third.world.port == 2000 and third.scenario.name == "ghost_pedestrian"
    third.close()
    second.close()


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(world_module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'carla/highway needs CARLA\'s client: pip install -e "\.\[carla\]"'):
        envs.make(EnvConfig(name="carla/highway"))


def test_a_wrong_scenario_or_server_program_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown scenario 'highwy'; did you mean highway"):
        envs.make(EnvConfig(name="carla/highwy"))
    with pytest.raises(ValueError, match=r"env\.carla\.server=/nowhere: must be the CarlaUE4\.sh"):
        envs.make(EnvConfig(name="carla/highway", carla=CarlaConfig(server="/nowhere")))
    env = envs.make(EnvConfig(name="carla/highway", carla=CarlaConfig(ports=(2000,))))
    env.close()  # the refused ones have taken no port
