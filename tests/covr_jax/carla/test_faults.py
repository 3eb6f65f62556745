"""Whatever fails: the episode is cut or the error is clear, no actor is left, and the server is not left waiting."""

from __future__ import annotations

import socket

import numpy as np
import pytest

carla = pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")

from covr_jax.config import CarlaConfig  # noqa: E402
from covr_jax.envs.carla import client_world, session  # noqa: E402
from covr_jax.envs.driving.world import WorldLost  # noqa: E402
from tests.covr_jax.carla.simulator import BIND, TIMEOUT, Simulator  # noqa: E402
from tests.covr_jax.carla.worlds import carla_env, drive  # noqa: E402

STRAIGHT = np.array([0.0, 1.0])
IMPATIENT = CarlaConfig(timeout_s=0.05)
SMALL = {"vehicles": 2, "horizon": 80}


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(client_world, "WAKING_S", 0.02)


def failing(sim: Simulator, call: str, error: BaseException, after: int = 0, times: int = 1):
    """From its ``after``-th use on, a call fails so many times."""
    seen = [0]

    def before(name):
        if name == call:
            seen[0] += 1
            if after < seen[0] <= after + times:
                raise error

    sim.before = before


def assert_goes_on(env, sim):
    """The next episode is a whole one."""
    assert drive(env, STRAIGHT, seed=1)["ending"] == "horizon"
    env.close()
    assert sim.left == []


@pytest.mark.parametrize(
    "call", ["World.tick", "Vehicle.apply_control", "Vehicle.get_transform", "Vehicle.get_velocity"]
)
def test_a_call_that_fails_cuts_the_episode(call):
    sim = Simulator()
    env = carla_env(sim, **SMALL)
    failing(sim, call, RuntimeError(TIMEOUT), after=20)
    info = drive(env, STRAIGHT)
    assert info["ending"] == "fault" and info["fault"] == f"CARLA: {TIMEOUT}" and env.faults == 1
    assert sim.left == []
    assert_goes_on(env, sim)


def test_a_cut_episode_is_truncated_and_keeps_the_ticks_that_were_driven():
    sim = Simulator()
    env = carla_env(sim, **SMALL)
    env.reset(seed=0)
    failing(sim, "World.tick", RuntimeError(TIMEOUT), after=6)
    first = env.step(STRAIGHT)
    frame, reward, terminated, truncated, info = env.step(STRAIGHT)
    assert truncated and not terminated and info["frames"] == 2
    assert np.array_equal(frame, first[0]) and info["state"] == first[4]["state"]
    # Two ticks at 3.9 m/s^2 after four: no penalty on a straight.
    assert reward == pytest.approx(3.9 * 0.05 * (5 + 6) * 0.05, abs=1e-5)


@pytest.mark.parametrize(
    "fate, says",
    [("missing", "did not come within 0.05 s"), ("late", "did not come within 0.05 s"), ("next", "is missing")],
)
def test_a_missing_late_or_wrong_picture_cuts_the_episode(fate, says):
    sim = Simulator()
    env = carla_env(sim, carla=IMPATIENT, **SMALL)
    sim.picture = lambda tick: fate if tick == 30 else ""
    info = drive(env, STRAIGHT)
    assert info["ending"] == "fault" and says in info["fault"] and sim.left == []
    sim.picture = lambda tick: ""
    assert_goes_on(env, sim)


def test_a_picture_that_is_late_but_in_time_is_waited_for():
    sim = Simulator()
    env = carla_env(sim, **SMALL)
    sim.picture = lambda tick: "late" if tick == 30 else ""
    assert drive(env, STRAIGHT)["ending"] == "horizon"
    env.close()


def test_a_camera_that_never_wakes_up_is_told():
    sim = Simulator()
    sim.picture = lambda tick: "missing"
    with pytest.raises(WorldLost, match=r"picture of frame \d+ did not come"):
        carla_env(sim, **SMALL).reset(seed=0)
    assert sim.left == []


@pytest.mark.parametrize(
    "scenario, kind, after, says",
    [
        ("highway", "vehicle.", 0, "the agent's car found no place in 10 draws"),
        ("highway", "vehicle.", 2, "1 of 2 cars found a place in 40 draws"),
        ("highway", "sensor.camera", 0, "Spawn failed because of collision"),
        ("jaywalk", "vehicle.", 1, "the car at 45 m found no place in 10 draws"),
        ("jaywalk", "walker.", 0, "the pedestrian 2.8 m on found no place in 10 draws"),
    ],
)
def test_what_finds_no_place_is_told(scenario, kind, after, says):
    """There is room for so many of a kind."""
    sim = Simulator()

    def room(name):
        there = sum(actor.type_id.startswith(kind) for actor in sim.actors.values())
        return not name.startswith(kind) or there < after

    sim.room = room
    with pytest.raises(WorldLost, match=says):
        carla_env(sim, scenario, **(SMALL if scenario == "highway" else {})).reset(seed=0)
    assert sim.left == []


@pytest.mark.parametrize("kind", ["vehicle.audi.a2", "vehicle.mercedes", "walker.", "sensor.other.collision"])
def test_an_actor_whose_spawn_was_carried_out_but_reported_late_goes_too(kind):
    sim = Simulator()
    add = sim.add

    def late(blueprint, transform, parent):
        actor = add(blueprint, transform, parent)
        if blueprint.id.startswith(kind):
            raise RuntimeError(TIMEOUT)
        return actor

    sim.add = late
    with pytest.raises(WorldLost, match="time-out"):
        for seed in range(10):  # which kind stands at the kerb is drawn
            carla_env(sim, "jaywalk").reset(seed=seed)
    assert sim.left == []


def test_a_failed_spawn_is_drawn_again():
    sim, tries = Simulator(), []
    sim.room = lambda name: tries.append(name) or len(tries) % 3 != 1 or name.startswith("sensor.")
    env = carla_env(sim)
    env.reset(seed=0)
    assert sum(actor.type_id.startswith("vehicle.") for actor in sim.actors.values()) == 11
    env.close()
    assert sim.left == []


def test_a_traffic_port_that_is_taken_is_passed_over():
    with socket.socket() as other:
        try:
            other.bind(("", session.FIRST_TRAFFIC_PORT))
        except OSError:
            pass  # somebody else holds it: as good
        sim = Simulator()
        failing(sim, "Client.get_trafficmanager", RuntimeError(BIND), times=2)
        env = carla_env(sim, **SMALL)
        env.reset(seed=0)
    tried = [int(c.rpartition("(")[2][:-1]) for c in sim.calls if "get_trafficmanager" in c]
    assert len(tried) == 3 and tried == sorted(set(tried)) and session.FIRST_TRAFFIC_PORT not in tried
    assert list(sim.managers) == tried[2:] and f"set_autopilot(True, {tried[2]})" in "".join(sim.calls)
    env.close()
    assert sim.left == []


def test_two_runs_that_find_the_same_traffic_port_free_get_one_each(monkeypatch):
    monkeypatch.setattr(session, "_is_free", lambda port: True)  # both ask before either has bound it
    one, two = Simulator(), Simulator()
    first, second = carla_env(one, **SMALL), carla_env(two, **SMALL)
    first.reset(seed=0)

    def before(name):
        if name == "Client.get_trafficmanager" and int(two.calls[-1].rpartition("(")[2][:-1]) in one.managers:
            raise RuntimeError(BIND)

    two.before = before
    second.reset(seed=0)
    assert list(one.managers) == [session.FIRST_TRAFFIC_PORT] and list(two.managers) == [session.FIRST_TRAFFIC_PORT + 1]
    for env, sim in ((first, one), (second, two)):
        env.close()
        assert sim.left == []


def test_no_traffic_port_at_all_is_told():
    sim = Simulator()
    failing(sim, "Client.get_trafficmanager", RuntimeError(BIND), times=1000)
    with pytest.raises(WorldLost, match="no port for a traffic manager"):
        carla_env(sim, **SMALL).reset(seed=0)
    assert sim.left == []


@pytest.mark.parametrize("kind", ["vehicle.audi.a2", "sensor.camera.rgb"])
def test_an_actor_that_dies_cuts_the_episode(kind):
    sim = Simulator()
    env = carla_env(sim, carla=IMPATIENT, **SMALL)
    drive(env, STRAIGHT, decisions=3)
    sim.remove(next(actor.id for actor in sim.actors.values() if actor.type_id == kind))
    *_, terminated, truncated, info = env.step(STRAIGHT)
    assert truncated and not terminated and info["ending"] == "fault" and sim.left == []
    assert_goes_on(env, sim)


@pytest.mark.parametrize("kind", ["walker.pedestrian", "vehicle.volkswagen", "vehicle.mercedes", "vehicle.ford"])
def test_others_who_die_do_not(kind):
    sim = Simulator()
    env = carla_env(sim, "jaywalk", pedestrians="ghost", horizon=80)
    drive(env, np.array([0.0, 0.2]), decisions=3)
    for actor in [actor for actor in sim.actors.values() if actor.type_id.startswith(kind)]:
        sim.remove(actor.id)
    info = {}
    while "ending" not in info:
        *_, info = env.step(np.array([0.0, 0.2]))
    assert info["ending"] == "horizon"
    env.close()
    assert sim.left == []


def test_another_version_is_refused_unless_allowed():
    sim = Simulator(version="0.9.15")
    with pytest.raises(ValueError, match=r"is 0\.9\.15, this client is 0\.9\.16.*any_version"):
        carla_env(sim, **SMALL).reset(seed=0)
    assert sim.loads == 0 and not any("get_world" in call for call in sim.calls)
    assert_goes_on(carla_env(sim, carla=CarlaConfig(any_version=True), **SMALL), sim)


def test_a_server_that_goes_away_cuts_the_episode_and_is_found_again():
    sim = Simulator()
    env = carla_env(sim, carla=IMPATIENT, **SMALL)
    drive(env, STRAIGHT, decisions=3)
    sim.gone = True
    *_, truncated, info = env.step(STRAIGHT)
    assert truncated and info["ending"] == "fault" and TIMEOUT in info["fault"]
    assert len(sim.left) == 8, "nobody can clean up there"
    with pytest.raises(WorldLost, match=r"no CARLA server answers at 127\.0\.0\.1:2000 within 0\.05 s: start one"):
        env.reset(seed=0)
    sim.gone = False
    env.reset(seed=0)
    assert len(sim.actors) == 6, "what was left is gone"
    sim.managers = {port: manager for port, manager in list(sim.managers.items())[-1:]}  # the old one's process ended
    assert_goes_on(env, sim)


def test_what_others_have_left_behind_is_destroyed():
    sim = Simulator()
    drive(carla_env(sim, **SMALL), STRAIGHT, decisions=2)  # never closed, as if killed
    sim.managers.clear()
    env = carla_env(sim, **SMALL)
    env.reset(seed=0)
    assert len(sim.actors) == 6
    assert_goes_on(env, sim)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), ZeroDivisionError()])
def test_other_exceptions_leave_a_clean_server_too(error):
    sim = Simulator()
    env = carla_env(sim, **SMALL)
    failing(sim, "World.tick", error, after=20)
    with pytest.raises(type(error)):
        drive(env, STRAIGHT)
    assert sim.left == []


@pytest.mark.parametrize("scenario", ["highway", "jaywalk"])
def test_any_call_of_a_beginning_may_fail(scenario):
    """Each in turn; one that the server has carried out before it failed is not told apart here."""
    switches = SMALL if scenario == "highway" else {"horizon": 80}
    sim = Simulator()
    env = carla_env(sim, scenario, **switches)
    env.reset(seed=0)
    count = len(sim.calls) - 1  # the first one, making the client, does no I/O
    env.close()
    assert count > 40
    for broken in range(count):
        sim, seen = Simulator(), [-1]

        def before(name, seen=seen, broken=broken):
            seen[0] += 1
            if seen[0] == broken:
                raise RuntimeError("it broke")

        sim.before = before
        env = carla_env(sim, scenario, **switches)
        try:
            env.reset(seed=0)
        except WorldLost as error:
            assert "it broke" in str(error)
        else:
            assert "get_server_version" in sim.calls[broken + 1], "only the first question is asked again"
        env.close()
        assert sim.left == [], sim.calls[broken + 1]


@pytest.mark.parametrize(
    "call", ["Sensor.is_listening", "Sensor.stop", "Client.apply_batch_sync", "TrafficManager.set_synchronous_mode"]
)
def test_a_step_of_cleaning_up_that_fails_does_not_keep_the_others(call, capsys):
    sim = Simulator()
    env = carla_env(sim, **SMALL)
    drive(env, STRAIGHT, decisions=2)
    failing(sim, call, RuntimeError("it broke"))
    env.close()
    assert sim.left == [] and "it broke" in capsys.readouterr().err
