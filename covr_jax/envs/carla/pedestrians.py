"""Pedestrians on straight lines across the road: behind parked cars, or crossing at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from covr_jax.envs.carla import places
from covr_jax.envs.carla.session import Session
from covr_jax.envs.carla.traffic import painted
from covr_jax.envs.driving.scenarios import BEHIND_PARKED, Scenario, Site, Walkers, lane_centre
from covr_jax.envs.driving.world import TICK_S, WorldLost

OCCLUDERS = ("vehicle.mercedes.sprinter", "vehicle.volkswagen.t2", "vehicle.ford.ambulance")  # nobody sees over them
CAR_ABOVE, WALKER_ABOVE = 0.5, 1.0  # m over the road: the sidewalk is higher, and a pedestrian's origin is their middle
DRAWS = 10  # places that are drawn for each, until one is free
SECOND = round(1 / TICK_S)  # ticks


@dataclass
class Pedestrian:
    """One who walks from ``start`` to ``end``, m to the right of the lane at ``line``."""

    actor: Any
    line: Any  # the waypoint whose lane they cross
    start: float
    end: float
    speed: float  # m/s
    site: Site | None = None  # waits there for the agent, and goes once; None: starts at random, walks to and fro
    walking: bool = False
    arrived: bool = False

    def go(self, carla: Any, speed: float) -> None:
        """Walks on (or stands, at speed 0) until told otherwise."""
        right = self.line.transform.get_right_vector()
        side = 1.0 if self.end > self.start else -1.0
        direction = carla.Vector3D(side * right.x, side * right.y, 0.0)
        self.actor.apply_control(carla.WalkerControl(direction=direction, speed=speed))
        self.walking = speed > 0.0


class Pedestrians:
    """All of a scene; ``move`` before every tick."""

    def __init__(self, session: Session, scene: Scenario, start: Any, rng: np.random.Generator):
        """Spawns them. ``start``: the waypoint that the scene's metres are counted from. Raises WorldLost."""
        self._session, self._walkers, self._rng, self._ticks = session, scene.walkers, rng, 0
        own = next(lane for lane in scene.lanes if lane.id == start.lane_id)
        self._middle = -lane_centre(own, scene.lanes)  # of the road, m right of the agent's lane
        self._start = start
        self.all: list[Pedestrian] = []
        for site in scene.walkers.sites:
            self._hide(site, scene)
        self._line_up(scene.walkers, scene.kerb)

    def move(self, car: Any) -> None:
        """Starts, stops and turns them round for the coming tick, in which ``car`` is the agent's."""
        carla, place = self._session.carla, car.get_transform().location
        speed, bumper = car.get_velocity().length(), car.bounding_box.extent.x
        self._ticks += 1
        for each in self.all:
            if not each.actor.is_alive:  # one who was run over
                continue
            if each.walking:
                done = places.offset(each.line, each.actor.get_location())
                if (done - each.end) * (each.end - each.start) >= 0:
                    each.go(carla, 0.0)
                    each.arrived = each.site is not None
                    each.start, each.end = each.end, each.start
            elif each.site is not None:
                ahead = (each.line.transform.location - place).dot(each.line.transform.get_forward_vector()) - bumper
                if not each.arrived and each.site.triggered(ahead, speed):
                    each.go(carla, each.speed)
            elif self._ticks % SECOND == 0 and self._rng.random() < self._walkers.start_chance:
                each.go(carla, each.speed)

    def _hide(self, site: Site, scene: Scenario) -> None:
        """A parked car, and somebody behind it."""
        carla, rng, jitter = self._session.carla, self._rng, self._walkers.jitter
        right = self._middle + site.side * scene.parked
        for _ in range(DRAWS):
            kind = painted(self._session.blueprint(OCCLUDERS[int(rng.integers(len(OCCLUDERS)))]), rng)
            line = places.along(self._start, site.ahead + float(rng.uniform(-jitter, jitter)))
            turned = 0.0 if site.side > 0 else 180.0
            car = line and self._session.spawn(kind, places.beside(carla, line, right, CAR_ABOVE, turned))
            if car:
                break
        else:
            raise WorldLost(f"the car at {site.ahead:g} m found no place in {DRAWS} draws")
        car.apply_control(carla.VehicleControl(hand_brake=True))
        behind = car.bounding_box.extent.x + BEHIND_PARKED
        speed, end = float(rng.uniform(*self._walkers.speed)), self._middle - site.side * scene.kerb
        self._add(line, (behind, behind), right, end, speed, site)

    def _line_up(self, walkers: Walkers, kerb: float) -> None:
        """One on each side of each crossing; those who start on one side share a speed."""
        speeds = {side: float(self._rng.uniform(*walkers.speed)) for side in (-1, 1)}
        for stretch in walkers.crossings:
            for side in (-1, 1):
                self._add(self._start, stretch, self._middle + side * kerb, self._middle - side * kerb, speeds[side])

    def _add(
        self, origin: Any, stretch: tuple[float, float], start: float, end: float, speed: float,
        site: Site | None = None,
    ) -> None:  # fmt: skip
        carla, rng = self._session.carla, self._rng
        kinds = sorted(self._session.blueprints.filter("walker.pedestrian.*"), key=lambda each: each.id)
        for _ in range(DRAWS):
            kind = kinds[int(rng.integers(len(kinds)))]
            if kind.has_attribute("is_invincible"):
                kind.set_attribute("is_invincible", "false")
            line = places.along(origin, float(rng.uniform(*stretch)))
            turned = 90.0 if end > start else -90.0
            actor = line and self._session.spawn(kind, places.beside(carla, line, start, WALKER_ABOVE, turned))
            if actor:
                self.all.append(Pedestrian(actor, line, start, end, speed, site))
                return
        raise WorldLost(f"the pedestrian {stretch[0]:g} m on found no place in {DRAWS} draws")
