"""Cars that drive: CARLA's traffic manager steers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from covr_jax.envs.carla import places
from covr_jax.envs.carla.session import Session
from covr_jax.envs.driving.scenarios import Lane, Traffic
from covr_jax.envs.driving.world import WorldLost

ABOVE = 0.1  # m over the road, as public code has it
DRAWS = 20  # places that are drawn for each car, until one is free


def place(session: Session, traffic: Traffic, lanes: Sequence[Lane], start: Any, rng: np.random.Generator) -> list[Any]:
    """The cars, spawned and handed to the traffic manager. Raises WorldLost if they do not fit, RuntimeError.

    They start from rest, change lanes and heed no lights or signs, as in public code.

    Args:
        start: the agent's waypoint, from which ``traffic.ahead`` is measured.
    """
    if session.traffic_manager is None:
        session.start_traffic()
    manager = session.traffic_manager
    manager.set_random_device_seed(int(rng.integers(2**31)))
    manager.set_global_distance_to_leading_vehicle(traffic.gap)
    kinds = sorted(
        (each for each in session.blueprints.filter("vehicle.*") if int(each.get_attribute("number_of_wheels")) == 4),
        key=lambda each: each.id,
    )
    cars: list[Any] = []
    for _ in range(DRAWS * traffic.vehicles):
        if len(cars) == traffic.vehicles:
            break
        kind = painted(kinds[int(rng.integers(len(kinds)))], rng)
        lane = int(rng.choice([lane.id for lane in lanes]))
        slower = float(rng.uniform(*traffic.slower))
        here = session.map.get_waypoint_xodr(start.road_id, lane, start.s)
        where = here and places.along(here, float(rng.uniform(*traffic.ahead)))
        car = where and session.spawn(kind, places.beside(session.carla, where, above=ABOVE))
        if not car:
            continue
        car.set_autopilot(True, session.traffic_port)
        manager.vehicle_percentage_speed_difference(car, 100.0 * slower)
        manager.auto_lane_change(car, True)
        manager.ignore_lights_percentage(car, 100.0)
        manager.ignore_signs_percentage(car, 100.0)
        cars.append(car)
    if len(cars) < traffic.vehicles:
        raise WorldLost(f"{len(cars)} of {traffic.vehicles} cars found a place in {DRAWS * traffic.vehicles} draws")
    return cars


def painted(blueprint: Any, rng: np.random.Generator) -> Any:
    """The blueprint in one of its colours, if it has any."""
    if blueprint.has_attribute("color"):
        colours = blueprint.get_attribute("color").recommended_values
        blueprint.set_attribute("color", colours[int(rng.integers(len(colours)))])
    return blueprint
