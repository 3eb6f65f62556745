"""The environment over a scripted world: repeat, endings and accounting together."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax.envs.driving.world import Control, Tick, WorldLost
from tests.covr_jax.driving.scripted import driving_env

DRIVING = Tick(speed=10.0, lane_speed=10.0)  # half a metre a tick
STEER = np.array([0.25, 1.0])


def test_one_decision_by_hand():
    env = driving_env(DRIVING)
    frame, reward, terminated, truncated, info = env.step(STEER)
    # Four ticks of 0.5 m - 1.0 * 0.25.
    assert reward == pytest.approx(1.0) and not terminated and not truncated
    assert info["frames"] == 4 and frame[0, 0, 0] == 4 and info["state"] == {"speed": 4.0, "yaw": 0.0}
    assert env.world.controls == [Control(1.0, 0.0, 0.25)] * 4
    totals = info["totals"]
    assert totals["return_sum"] == pytest.approx(1.0) and totals["distance_m"] == pytest.approx(2.0)
    assert totals["er_compat"] == pytest.approx(0.25) and totals["dd_compat"] == pytest.approx(0.5)
    assert "ending" not in info


def test_the_mean_is_a_switch_of_the_learners_reward_alone():
    _, reward, *_, info = driving_env(DRIVING, repeat_reward="mean").step(STEER)
    assert reward == pytest.approx(0.25) and info["totals"]["return_sum"] == pytest.approx(1.0)


def test_the_horizon_cuts_after_a_thousand_ticks():
    env = driving_env(DRIVING)
    steps = [env.step(STEER) for _ in range(env.max_decisions)]
    assert env.max_decisions == 250 and [step[3] for step in steps] == [False] * 249 + [True]
    assert steps[-1][4]["ending"] == "horizon" and not steps[-1][2]
    assert steps[-1][4]["totals"]["distance_m"] == pytest.approx(500)
    with pytest.raises(ValueError, match="reset"):
        env.step(STEER)
    in_decisions = driving_env(DRIVING, horizon=2, horizon_unit="decisions")
    assert [in_decisions.step(STEER)[3] for _ in range(2)] == [False, True]
    seven = driving_env(DRIVING, horizon=7)
    assert [seven.step(STEER)[4]["frames"] for _ in range(2)] == [4, 3] and seven.max_decisions == 2


def test_an_ending_within_a_decision_stops_its_ticks():
    env = driving_env(DRIVING, DRIVING, DRIVING._replace(on_road=False))
    _, reward, terminated, truncated, info = env.step(STEER)
    assert terminated and not truncated and info["frames"] == 3 and info["ending"] == "off_road"
    assert reward == pytest.approx(3 * 0.25) and len(env.world.controls) == 3


def test_a_lost_world_cuts_the_episode_and_the_next_one_begins():
    env = driving_env(DRIVING, DRIVING, WorldLost("no answer within 10 s"))
    frame, reward, terminated, truncated, info = env.step(STEER)
    assert truncated and not terminated and info["ending"] == "fault" and info["fault"] == "no answer within 10 s"
    assert info["frames"] == 2 and reward == pytest.approx(0.5) and frame[0, 0, 0] == 0  # the frame before the decision
    assert env.faults == 1
    env.reset(seed=1)
    assert env.step(STEER)[4]["frames"] == 2


@pytest.mark.parametrize("scenario", ["highway", "ghost_pedestrian"])
def test_er_never_exceeds_dd(scenario):
    rng = np.random.default_rng(0)
    ticks = [
        Tick(abs(speed), speed, rng.normal(), rng.exponential(500) * hit, bool(hit), rng.integers(3))
        for speed, hit in zip(rng.uniform(-5, 30, 400), rng.random(400) < 0.2, strict=True)
    ]
    env = driving_env(*ticks, scenario=scenario)
    for _ in range(100):
        totals = env.step(rng.uniform(-1, 1, 2))[4]["totals"]
        assert totals["return_sum"] <= totals["distance_m"]


@pytest.mark.parametrize("action", [np.zeros(1), np.zeros((1, 2)), np.array([0.0, np.nan])])
def test_bad_actions(action):
    with pytest.raises(ValueError, match="an action must be 2 finite numbers, got"):
        driving_env(DRIVING).step(action)


@pytest.mark.parametrize("switch", [{"horizon_unit": "hours"}, {"repeat_reward": "max"}])
def test_bad_switches(switch):
    with pytest.raises(ValueError, match="must be one of"):
        driving_env(DRIVING, **switch)
