from __future__ import annotations

import pytest

from covr_jax.envs.driving.endings import Count, Ending, Rules, after_decision, after_tick, count
from covr_jax.envs.driving.world import Tick

DRIVING = Tick(speed=5.0, lane_speed=5.0)
RULES = Rules()


def reason(tick, so_far, rules=RULES):
    ending = after_tick(tick, so_far, rules)
    return ending and ending.reason


def test_counting():
    hit = DRIVING._replace(collided=True)
    so_far = Count()
    for tick, colliding in ((hit, 1), (hit, 2), (DRIVING, 0), (hit, 1)):
        so_far = count(so_far, tick)
        assert so_far.colliding == colliding
    assert so_far.ticks == 4


def test_the_horizon_in_ticks_and_in_decisions():
    assert after_tick(DRIVING, Count(999), RULES) is None
    assert after_tick(DRIVING, Count(1000), RULES) == Ending("horizon", False)
    assert after_tick(DRIVING, Count(1000), Rules(terminal_horizon=True)) == Ending("horizon", True)
    decisions = Rules(horizon=250, horizon_unit="decisions")
    assert after_tick(DRIVING, Count(1000, 249), decisions) is None
    assert after_decision(Count(1000, 249), decisions) is None
    assert after_decision(Count(1000, 250), decisions) == Ending("horizon", False)
    assert after_decision(Count(1000, 1000), RULES) is None


def test_collisions():
    hit = DRIVING._replace(collided=True)
    assert reason(hit, Count(7, colliding=1)) is None
    assert reason(hit, Count(7, colliding=19)) is None
    assert after_tick(hit, Count(7, colliding=20), RULES) == Ending("collision", True)
    assert reason(hit, Count(7, colliding=20), Rules(collision_ticks=0)) is None
    assert reason(hit, Count(7, colliding=1), Rules(terminate_on_collision=True)) == "collision"


def test_leaving_the_road():
    assert after_tick(DRIVING._replace(on_road=False), Count(7), RULES) == Ending("off_road", True)
    assert reason(DRIVING._replace(on_road=False), Count(7), Rules(off_road=False)) is None
    assert reason(DRIVING._replace(road_ahead=False), Count(7), Rules(off_road=False)) == "end_of_road"


@pytest.mark.parametrize(("speed", "ticks", "expected"), [
    (0.0, 100, "stuck"), (0.0, 99, None), (0.0, 101, None), (0.019, 300, "stuck"), (0.02, 300, None),
])  # fmt: skip
def test_standing_still_is_looked_at_every_hundred_ticks(speed, ticks, expected):
    tick = DRIVING._replace(speed=speed)
    assert reason(tick, Count(ticks)) == expected
    assert reason(tick, Count(ticks), Rules(stuck=False)) is None


def test_a_car_that_is_thrown_up_at_the_start_cuts_the_episode():
    for tick in (DRIVING._replace(climb=1.1), DRIVING._replace(height=0.6)):
        assert after_tick(tick, Count(20), RULES) == Ending("glitch", False)
        assert after_tick(tick, Count(21), RULES) is None
