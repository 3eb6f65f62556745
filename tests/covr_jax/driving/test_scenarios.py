from __future__ import annotations

import pytest

from covr_jax.config import DrivingConfig
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.rewards import REWARDS
from covr_jax.envs.driving.scenarios import scenario

DEFAULT = DrivingConfig()


def test_the_highway():
    scene = scenario("highway", DEFAULT)
    assert (scene.town, scene.limit, scene.weather) == ("Town04", 25.0, "cloudy_noon")
    assert scene.start.road == 47 and scene.start.lanes == (-1, -2, -3, -4) and scene.walkers is None
    assert scene.traffic.vehicles == 10 and scene.traffic.ahead[0] > 0
    assert scenario("highway", DrivingConfig(vehicles=4)).traffic.vehicles == 4
    other = scenario("highway", DrivingConfig(start="bend", placement="around", traffic="fast"))
    assert other.start.road == 45 and other.traffic.ahead == (-40.0, 40.0) and other.traffic.slower == (-0.6, -0.3)


def test_the_ghost_pedestrian_and_its_other_names():
    """Two names, one scene (S15)."""
    scene = scenario("ghost_pedestrian", DEFAULT)
    assert scenario("jaywalk", DEFAULT) == scene and scene.traffic is None
    assert (scene.start.road, scene.start.lanes, scene.start.s) == (12, (-1,), (0.2, 2.2))
    assert len(scene.walkers.sites) == 3 and {site.side for site in scene.walkers.sites} == {-1, 1}
    assert all(site.ahead < 222 for site in scene.walkers.sites)  # before the junction
    four = scenario("jaywalk", DrivingConfig(pedestrians="crossing")).walkers
    assert not four.sites and 2 * len(four.crossings) == 4 and four.speed == (1.0, 8.0)


def test_every_choice_has_a_reward_a_camera_and_a_weather():
    for name in scenarios.NAMES:
        for choice in scenarios.REWARD_CHOICES:
            assert scenario(name, DrivingConfig(reward=choice)).reward in REWARDS
    assert scenario("highway", DEFAULT).reward == "printed_highway"
    assert scenario("jaywalk", DEFAULT).reward == "printed_ghost_pedestrian"
    assert scenario("jaywalk", DrivingConfig(camera="windscreen")).camera.z == 1.5


def test_the_roads_outlast_the_horizon():
    for start in scenarios.STARTS.values():
        assert sum(length for length, _ in start.bends) >= 1500  # 50 s at 30 m/s
    assert sum(turn for _, turn in scenarios.STARTS["straight"].bends[:2]) == 90  # yaw -90 to 0 by 500 m


@pytest.mark.parametrize(("name", "switches", "message"), [
    ("highwey", {}, "did you mean highway.*highway, ghost_pedestrian, jaywalk"),
    ("highway", {"weather": "snow"}, "env.driving.weather='snow': must be one of cloudy_noon"),
    ("highway", {"start": "x"}, "straight, bend"),
    ("jaywalk", {"pedestrians": "x"}, "ghost, crossing"),
    ("jaywalk", {"reward": "x"}, "printed, braking, centred"),
])  # fmt: skip
def test_wrong_choices(name, switches, message):
    with pytest.raises(ValueError, match=message):
        scenario(name, DrivingConfig(**switches))
