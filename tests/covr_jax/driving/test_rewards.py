"""Numbers worked out by hand."""

from __future__ import annotations

import pytest

from covr_jax.envs.driving.rewards import REWARDS, progress, reward
from covr_jax.envs.driving.world import Control, Tick, control

# 12 m/s along the lane: 0.6 m a tick. One collision of 2,000 N s, one marking, 0.5 m right of the centre.
TICK = Tick(speed=13.0, lane_speed=12.0, centre_offset=0.5, impulse=2000.0, collided=True, crossed=1)
PEDALS = Control(throttle=0.0, brake=0.8, steer=-0.25)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("printed_highway", 0.6 - 0.2 - 0.25),
        ("printed_ghost_pedestrian", 0.6 - 2.0 - 0.01 - 0.025),
        ("braking", 0.6 - 2.0 - 0.08 - 0.025),
        ("centred", 0.6 / 1.5 - 1.0 - 0.08 - 0.025),
    ],
)
def test_every_reward(name, expected):
    assert reward(TICK, PEDALS, REWARDS[name]) == pytest.approx(expected)
    assert reward(TICK, PEDALS, REWARDS[name]) <= progress(TICK) == pytest.approx(0.6)


def test_against_the_lane_metres_are_lost():
    assert progress(TICK._replace(lane_speed=-12.0)) == pytest.approx(-0.6)


def test_a_throttle_below_zero_is_a_brake_and_actions_are_clipped():
    assert control([0.5, 0.25]) == (0.25, 0.0, 0.5)
    assert control([-3.0, -0.75]) == (0.0, 0.75, -1.0)
    assert control([0.0, 0.0]) == (0.0, 0.0, 0.0)
