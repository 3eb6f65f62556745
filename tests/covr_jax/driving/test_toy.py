"""The toy world: its roads and cars by hand, then whole episodes through the environment."""

from __future__ import annotations

import math

import numpy as np
import pytest

from covr_jax import envs
from covr_jax.config import DrivingConfig, EnvConfig
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.world import Control
from covr_jax.envs.toy.bodies import Car, Walker, collide, run_over
from covr_jax.envs.toy.road import Road
from covr_jax.priors import teachers
from covr_jax.types import Observation

HIGHWAY, GHOST = "toy/highway", "toy/ghost_pedestrian"


def make(name=HIGHWAY, size=32, **switches):
    return envs.make(EnvConfig(name=name, render_size=size, driving=DrivingConfig(**switches)))


def drive(env, seed, act, decisions=400):
    """The last info and the frames' sum of an episode, or of its first decisions."""
    frame, info = env.reset(seed=seed)
    seen, rewards = [int(frame.sum())], []
    for _ in range(decisions):
        frame, reward, terminated, truncated, info = env.step(act(frame, info))
        seen.append(int(frame.sum()))
        rewards.append(reward)
        if terminated or truncated:
            break
    return info, seen, rewards


def oracle(name):
    controller = teachers.CONTROLLERS[name]
    return lambda frame, info: controller(Observation(frame, frame, info["state"]))


def test_a_right_quarter_circle():
    # Heading along x, 100 m straight, then a right turn of 90 degrees on 157 m: radius 157 / (pi/2) = 99.95 m.
    road = Road(((100, 0), (157, 90), (50, 0)), 0.0, (scenarios.Lane(-1, 4.0), scenarios.Lane(1, 4.0)))
    assert road.place(50.0, 2.0) == pytest.approx((50.0, 2.0, 0.0))
    x, y, heading = road.place(257.0, 0.0)
    radius = 157 / (math.pi / 2)
    assert (x, y) == pytest.approx((100 + radius, radius), abs=0.02) and heading == pytest.approx(math.pi / 2)
    assert road.place(257.0, 3.0)[0] == pytest.approx(x - 3.0)  # heading along y, its right is -x
    assert road.bend(150.0) == pytest.approx(1 / radius) and road.bend(50.0) == 0.0
    assert road.lanes == {-1: 2.0, 1: -2.0} and road.markings == [-4.0, 0.0, 4.0]
    assert road.nearest_lane(0.1) == -1 and not road.on_lane(4.1) and road.on_lane(-3.9)


def test_the_car_by_hand():
    road = Road(((500, 0),), 0.0, (scenarios.Lane(-1, 4.0),))
    car = Car(0.0, 2.0)
    car.drive(Control(throttle=1.0), road)
    assert car.speed == pytest.approx((4.0 - 0.15) * 0.05)
    car.speed = 10.0
    car.drive(Control(brake=1.0), road)
    assert car.speed == pytest.approx(10.0 - 9.15 * 0.05)
    # 5 m/s, steering right: the angle grows by v tan(0.61 * 0.2) / 2.85 dt.
    car = Car(0.0, 2.0, speed=5.0)
    car.drive(Control(steer=0.2), road)
    speed = 5.0 - 0.15 * 0.05
    assert car.angle == pytest.approx(speed * math.tan(0.122) / 2.85 * 0.05)
    car.drive(Control(steer=0.2), road)
    assert car.d > 2.0
    # At 20 m/s grip allows 8 / 400 1/m, whatever the wheel.
    car = Car(0.0, 2.0, speed=20.0)
    car.drive(Control(throttle=0.0, steer=1.0), road)
    speed = 20.0 - 0.15 * 0.05
    assert car.angle == pytest.approx(8.0 / speed * 0.05)


def test_a_bend_turns_a_car_that_does_not_steer_out_of_its_lane():
    road = Road(((100, 90), (100, 0)), 0.0, (scenarios.Lane(-1, 4.0),))
    car = Car(0.0, 2.0, speed=10.0)
    for _ in range(20):
        car.drive(Control(throttle=0.04), road)
    assert car.angle < 0 and car.d < 2.0  # the road turns right, the car is left behind on its left


def test_collisions_by_hand():
    # From behind, 20 into 10 m/s: both go on at 15, impulse 1800 kg * 5 m/s.
    ego, other = Car(0.0, 0.0, speed=20.0), Car(4.0, 0.5, speed=10.0)
    assert collide(ego, other) == pytest.approx(9000.0)
    assert ego.speed == other.speed == 15.0 and other.s - ego.s == pytest.approx(4.5)
    parked = Car(4.0, 0.0, parked=True)
    ego = Car(0.0, 0.0, speed=10.0)
    assert collide(ego, parked) == pytest.approx(18_000.0) and ego.speed == 0.0
    assert collide(Car(0.0, 0.0, speed=10.0), Car(5.0, 0.0)) == 0.0
    assert collide(Car(0.0, 0.0, speed=10.0), Car(1.0, 2.0)) == 0.0
    # From the side: held off, speed kept.
    ego = Car(0.0, 0.0, speed=10.0, angle=0.1)
    assert collide(ego, Car(1.0, 1.8, speed=10.0)) == pytest.approx(1800 * 10 * math.sin(0.1))
    assert ego.d == pytest.approx(-0.1) and ego.angle == 0.0 and ego.speed == 10.0


def test_a_pedestrian_steps_out_in_time_once_and_stops_the_car():
    site = scenarios.Site(40.0, 1, 2.0, 6.0)
    walker = Walker(40.0, 5.0, -6.0, 2.0, site)
    walker.notice(20.1, 10.0)
    assert not walker.walking
    walker.notice(19.9, 10.0)
    assert walker.walking and walker.velocity == -2.0
    for _ in range(10):
        walker.walk()
    assert walker.d == pytest.approx(4.0)  # half a second at 2 m/s
    for _ in range(200):
        walker.walk()
    assert walker.d == -6.0 and not walker.walking
    walker.notice(3.0, 10.0)
    assert not walker.walking
    walker.d = 1.0
    ego = Car(38.0, 1.5, speed=8.0)
    assert run_over(ego, walker) == pytest.approx(14_400.0) and ego.speed == 0.0
    assert (walker.s, walker.d) == (40.5, 1.5) and run_over(ego, walker) == 0.0  # at the bumper: 4.5 / 2 + 0.5 / 2
    # Pressing on: 4 m/s^2 for a tick, less 0.15 of rolling, and the car stays where it is.
    ego.drive(Control(throttle=1.0), Road(((500, 0),), 0.0, (scenarios.Lane(-1, 4.0),)))
    assert run_over(ego, walker) == pytest.approx(1800 * 3.85 * 0.05) and ego.s == 38.0


@pytest.mark.parametrize("name", [HIGHWAY, GHOST, "toy/jaywalk"])
def test_the_environments_interface(name):
    env = make(name)
    assert (env.action_names, env.action_repeat, env.max_decisions) == (("steer", "throttle"), 4, 250)
    assert env.decision_rate == pytest.approx(5.0) and env.action_space.shape == (2,)
    frame, info = env.reset(seed=1)
    assert frame.shape == (32, 32, 3) and frame.dtype == np.uint8 and frame.std() > 5
    assert info["frames"] == 0 and {"speed", "yaw"} <= set(info["state"])
    assert all(type(value) is float and math.isfinite(value) for value in info["state"].values())
    kept = frame.copy()
    frame, reward, terminated, truncated, info = env.step(np.array([0.0, 1.0]))
    assert type(reward) is float and info["frames"] == 4 and not terminated and not truncated
    assert info["state"]["speed"] == pytest.approx(4 * 3.85 * 0.05, rel=0.01)
    assert (kept == env.reset(seed=1)[0]).all() and (frame != kept).any()


@pytest.mark.parametrize(("name", "switches"), [
    (HIGHWAY, {}), (HIGHWAY, {"weather": "hard_rain_noon"}), (GHOST, {"pedestrians": "crossing"}),
])  # fmt: skip
def test_an_episode_is_a_function_of_its_seed_and_actions(name, switches):
    env = make(name, **switches)
    actions = np.random.default_rng(0).uniform([-0.02, 0], [0.02, 1], (40, 2))

    def episode(env, seed):
        given = iter(actions)
        return drive(env, seed, lambda *_: next(given), 40)

    one = episode(env, 3)
    assert one != episode(env, 4)
    assert one == episode(env, 3) == episode(make(name, **switches), 3)


def test_straight_ahead_and_steering_have_the_meaning_of_the_state():
    env = make(vehicles=0)
    info, *_ = drive(env, 0, lambda *_: np.array([0.0, 1.0]), 20)
    assert info["state"]["yaw"] == pytest.approx(-90.0) and info["state"]["heading_error"] == pytest.approx(0.0)
    right, *_ = drive(env, 0, lambda *_: np.array([0.02, 1.0]), 10)
    assert right["state"]["yaw"] > -90 and right["state"]["heading_error"] > 0
    totals = info["totals"]
    assert totals["distance_m"] == totals["return_sum"] > 0 and totals["collisions"] == 0


def test_wheels_that_leave_the_road_end_it_and_a_car_that_stands_is_stuck():
    info, _, rewards = drive(make(), 0, lambda *_: np.array([0.3, 1.0]))
    assert info["ending"] == "off_road" and len(rewards) < 60
    info, _, rewards = drive(make(), 0, lambda *_: np.zeros(2))
    assert info["ending"] == "stuck" and len(rewards) == 25 and sum(rewards) == 0.0  # as ERPv's all-zero model


@pytest.mark.parametrize("name", [HIGHWAY, GHOST])
def test_driving_on_blindly_hits_cars_and_pedestrians(name):
    driver = oracle(name)
    full_throttle = [
        drive(make(name, size=8), seed, lambda *seen: np.array([driver(*seen)[0], 1.0]))[0] for seed in range(4)
    ]
    # Contact lasts: 20 ticks of it, or the look at every 100th tick, end the episode.
    assert sum(each["ending"] in ("collision", "stuck") for each in full_throttle) >= 3
    assert sum(each["totals"]["collisions"] > 0 for each in full_throttle) >= 3
    totals = [each["totals"] for each in full_throttle]
    assert all(each["return_sum"] <= each["distance_m"] for each in totals)
    assert np.mean([each["return_sum"] for each in totals]) < 600  # the driver who looks gets more: see below


def test_the_pedestrian_is_hidden_until_it_walks():
    """The picture does not depend on who waits behind the parked van."""
    env = make(GHOST, size=128)
    env.reset(seed=2)
    for _ in range(6):
        frame, *_ = env.step(np.array([0.0, 0.5]))
    world = env.world
    assert world.walkers[0].d == world.walkers[0].start and not world.walkers[0].walking
    with_walker = world.frame()
    world.walkers = world.walkers[1:]
    assert (with_walker == world.frame()).mean() > 0.999
    assert (frame == with_walker).all()


def test_the_weather_changes_the_picture_and_nothing_else():
    seen = {}
    for weather in scenarios.WEATHERS:
        env = make(weather=weather, size=64)
        info, *_ = drive(env, 5, lambda *_: np.array([0.0, 1.0]), 5)
        seen[weather] = env.world.frame(), info["state"]
    first = seen["cloudy_noon"]
    for weather, (frame, state) in seen.items():
        assert state == first[1]
        assert weather == "cloudy_noon" or (frame != first[0]).mean() > 0.3


@pytest.mark.parametrize("size", [16, 50, 84, 128])
def test_any_size(size):
    frame, _ = make(size=size).reset(seed=0)
    assert frame.shape == (size, size, 3)


def test_the_oracle_drives():
    for name, least in ((HIGHWAY, 600), (GHOST, 600)):
        totals = [drive(make(name, size=8), seed, oracle(name))[0]["totals"] for seed in range(5)]
        assert all(each["collisions"] == 0 and each["return_sum"] > least for each in totals)
        assert all(each["return_sum"] <= each["distance_m"] for each in totals)


def test_unknown_scenarios_are_named():
    with pytest.raises(ValueError, match="did you mean highway"):
        make("toy/higway")
    with pytest.raises(ValueError, match="toy/highway, toy/ghost_pedestrian"):
        make("toys/highway")
