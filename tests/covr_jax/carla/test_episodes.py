"""Whole episodes in the scripted simulator."""

from __future__ import annotations

import numpy as np
import pytest

carla = pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")

from covr_jax.config import CarlaConfig  # noqa: E402
from covr_jax.envs.driving import scenarios  # noqa: E402
from tests.covr_jax.carla import golden  # noqa: E402
from tests.covr_jax.carla.simulator import Simulator  # noqa: E402
from tests.covr_jax.carla.worlds import SIZE, carla_env, drive  # noqa: E402

STRAIGHT = np.array([0.0, 1.0])


@pytest.mark.parametrize("name", golden.EPISODES)
def test_the_calls_of_an_episode_are_the_reviewed_ones(name):
    wanted = (golden.FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert golden.record(name) == wanted, "review the difference, then python -m tests.covr_jax.carla.golden"


@pytest.mark.parametrize("scenario, switches", [("highway", {}), ("ghost_pedestrian", {}),
                                                ("jaywalk", {"pedestrians": "crossing"})])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_er_never_exceeds_dd(scenario, switches, seed):
    rng, sim = np.random.default_rng(seed), Simulator()
    env = carla_env(sim, scenario, horizon=300, **switches)
    env.reset(seed=seed)
    over = False
    while not over:
        action = np.array([rng.normal(0, 0.05), rng.uniform(0.0, 1.0)])
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        assert info["totals"]["return_sum"] <= info["totals"]["distance_m"] + 1e-9
    env.close()
    assert info["totals"]["distance_m"] > 5.0 and sim.left == []


def test_a_picture_is_of_the_tick_that_was_made_and_in_rgb():
    sim = Simulator()
    env = carla_env(sim)
    frame, info = env.reset(seed=0)
    assert frame.shape == (SIZE, SIZE, 3) and frame[0, 0].tolist() == [sim.frame % 256, 2, 3]
    for _ in range(5):
        frame, _, _, _, info = env.step(STRAIGHT)
        assert frame[0, 0].tolist() == [sim.frame % 256, 2, 3]
    assert info["frames"] == 4 and set(info["state"]) == {"speed", "yaw"} and info["state"]["yaw"] == -90.0
    # 20 ticks of 4 - 0.1 m/s^2
    assert info["state"]["speed"] == pytest.approx(20 * 3.9 * 0.05, abs=1e-4)
    env.close()


def test_the_server_is_prepared_once_and_episodes_leave_nothing_to_each_other():
    sim = Simulator()
    env = carla_env(sim, vehicles=2)
    for seed in range(3):
        drive(env, STRAIGHT, seed, decisions=3)
        kinds = sorted(actor.type_id.partition(".")[0] for actor in sim.actors.values())
        assert kinds == ["sensor"] * 3 + ["vehicle"] * 3
        assert sim.settings.synchronous_mode and sim.settings.fixed_delta_seconds == 0.05
    assert sim.loads == 1 and sim.weather == carla.WeatherParameters.CloudyNoon
    env.close()
    env.close()
    assert sim.left == sim.cut_off == [] and sim.settings.fixed_delta_seconds is None


def test_a_server_that_shows_the_town_is_not_loaded_again():
    sim = Simulator(town="Town04")
    drive(env := carla_env(sim), STRAIGHT, decisions=1)
    env.close()
    assert sim.loads == 0


def test_weather_and_camera_are_the_scenes():
    sim = Simulator()
    drive(env := carla_env(sim, weather="hard_rain_noon", camera="windscreen", vehicles=0), STRAIGHT, decisions=1)
    assert sim.weather == carla.WeatherParameters.HardRainNoon
    assert any("sensor.camera.rgb, at(1.000, 0.000, 1.500" in call for call in sim.calls)
    env.close()


def test_traffic_is_ahead_in_the_lanes_and_slower_by_the_scenes_share():
    sim = Simulator()
    env = carla_env(sim, placement="ahead")
    env.reset(seed=3)
    cars = [actor for actor in sim.actors.values() if actor.type_id.startswith("vehicle.")]
    ego, others = cars[0], cars[1:]
    assert len(others) == 10 and ego.type_id == "vehicle.audi.a2"
    near, far = scenarios.PLACEMENTS["ahead"]
    for car in others:  # the road runs towards negative y; they have driven 2 or 3 m in the warm-up
        assert near <= ego._at.y - car._at.y <= far + 5.0
        lane = sim.road.get_waypoint(car._at)
        assert lane.lane_id in (-1, -2, -3, -4) and abs(lane.transform.location.x - car._at.x) < 0.01
        assert car._autopilot
    slower = [float(c.rpartition(" ")[2][:-1]) for c in sim.calls if "speed_difference" in c]
    assert len(slower) == 10 and all(30.0 <= each <= 60.0 for each in slower)
    assert not any(car.type_id == "vehicle.yamaha.yzf" for car in cars)
    env.close()


def test_a_hidden_pedestrian_waits_behind_a_parked_car_and_steps_out_as_the_agent_comes():
    sim = Simulator()
    env = carla_env(sim, "ghost_pedestrian", collision_ticks=0, stuck=False)
    env.reset(seed=0)
    ego, *parked = [actor for actor in sim.actors.values() if actor.type_id.startswith("vehicle.")]
    walkers = [actor for actor in sim.actors.values() if actor.type_id.startswith("walker.")]
    assert len(parked) == len(walkers) == 3
    for site, car, walker in zip(scenarios.SITES, parked, walkers, strict=True):
        # Road 12 starts at x = 101.8, its middle is y = 197.1, its right side is +y.
        assert abs(car._at.x - (102.0 + site.ahead)) <= 1.0 + 0.01
        assert car._at.y - 197.1 == pytest.approx(site.side * 4.9, abs=0.01)
        assert walker._at.x - car._at.x == pytest.approx(2.3 + 0.5, abs=0.01)
    steps_out = []
    for _ in range(60):
        env.step(np.array([0.0, 0.2]))
        if walkers[0]._control.speed:
            steps_out.append(walkers[0]._at.x - ego._at.x - 2.3)
            break
    speed = ego._speed
    assert steps_out and steps_out[0] <= max(6.0, 2.15 * speed) and 1.5 <= walkers[0]._control.speed <= 3.0
    for _ in range(100):
        env.step(np.array([0.0, -1.0]))
    assert walkers[0]._control.speed == 0.0  # arrived on the far sidewalk, whose middle is 6.3 m left of the road's
    assert walkers[0]._at.y - 197.1 == pytest.approx(-6.3, abs=0.2)
    env.close()


def test_four_walkers_cross_to_and_fro():
    sim = Simulator()
    env = carla_env(sim, "jaywalk", pedestrians="crossing", stuck=False)
    env.reset(seed=0)
    walkers = [actor for actor in sim.actors.values() if actor.type_id.startswith("walker.")]
    assert len(walkers) == 4
    sides = {walker.id: {round(walker._at.y - 197.1)} for walker in walkers}
    for _ in range(200):
        env.step(np.array([0.0, -1.0]))
        for walker in walkers:
            sides[walker.id].add(round(walker._at.y - 197.1))
    assert all(min(seen) <= -6 and max(seen) >= 6 for seen in sides.values())
    assert all(190.0 <= walker._at.y <= 204.5 for walker in walkers)
    env.close()


def test_a_vehicle_or_road_that_the_server_does_not_have_is_refused():
    sim = Simulator()
    with pytest.raises(ValueError, match=r"no blueprint 'vehicle\.audi\.tt'"):
        carla_env(sim, carla=CarlaConfig(vehicle="vehicle.audi.tt")).reset(seed=0)
    assert sim.left == []
    with pytest.raises(ValueError, match=r"Town04 has no lane -[1-4] at .* of road 45"):
        carla_env(sim, start="bend").reset(seed=0)
    assert sim.left == []
