"""A driving world over CARLA's client library, in the process of whoever calls it.

Learners use ``world.CarlaWorld`` instead, which runs this one in a process of its own: two calls of the library hold
the interpreter's lock for as long as they wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from covr_jax.config import CarlaConfig
from covr_jax.envs.carla import places, traffic
from covr_jax.envs.carla.pedestrians import Pedestrians
from covr_jax.envs.carla.sensors import Sensors
from covr_jax.envs.carla.session import Session
from covr_jax.envs.driving.scenarios import Scenario
from covr_jax.envs.driving.world import Control, Tick, WorldLost

ABOVE = 0.1  # m over the road, as public code has it
STARTS = 10  # starts that are drawn until one is free
WARM_UP = 5  # ticks before an episode: first gear, no throttle
LATEST_PICTURE = 20  # ticks before an episode in which the camera must have woken up
WAKING_S = 1.0  # for its first picture
AHEAD = 5.0  # m of lane that there must be
GEAR_SWITCH_S = 0.01  # otherwise a car that was just spawned stands still for up to two seconds


class ClientWorld:
    """Implements covr_jax.envs.driving.world.World.

    After any error the server is left as by ``close``: no actor of ours, not in synchronous mode.

    Args:
        carla: the client library.
        scene: what to build.
        config: server and time-outs.
        size: of the camera's picture, pixels.
        port: the server's.
    """

    repeatable = False

    def __init__(self, carla: Any, scene: Scenario, config: CarlaConfig, size: int, port: int):
        self._carla, self._scene, self._config, self._size, self._port = carla, scene, config, size, port
        self._session: Session | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """As of World; only what is drawn here is a function of ``rng``, the simulator is none.

        Raises WorldLost; ValueError for a server of another version or a vehicle or road that it does not have.
        """
        with self._cleaned_up():
            if self._session is None:
                self._session = Session(self._carla, self._config, self._port)
                self._session.connect(self._scene)
            else:
                self._session.clear()
                self._session.tick()
            start = self._set_down(rng)
            self._sensors = Sensors(self._session, self._car, self._scene.camera, self._size)
            if self._scene.traffic is not None:
                traffic.place(self._session, self._scene.traffic, self._scene.lanes, start, rng)
            self._pedestrians = None
            if self._scene.walkers is not None:
                origin = self._waypoint(start.lane_id, self._scene.start.s[0])
                self._pedestrians = Pedestrians(self._session, self._scene, origin, rng)
            self._warm_up()

    def tick(self, control: Control) -> Tick:
        with self._cleaned_up():
            if self._session is None or not self._car.is_alive:
                raise WorldLost("the agent's car is gone")
            if self._pedestrians is not None:
                self._pedestrians.move(self._car)
            self._car.apply_control(
                self._carla.VehicleControl(throttle=control.throttle, steer=control.steer, brake=control.brake)
            )
            frame = self._session.tick()
            self._image = self._sensors.picture(frame, self._config.timeout_s)
            return self._observed()

    def frame(self) -> np.ndarray:
        with self._cleaned_up():
            return self._sensors.pixels(self._image)

    def state(self) -> dict[str, float]:
        """``speed`` (m/s) and ``yaw`` (degrees, in the world's frame, clockwise from x)."""
        return {"speed": self._speed, "yaw": (self._yaw + 180.0) % 360.0 - 180.0}

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _waypoint(self, lane: int, s: float) -> Any:
        start = self._session.map.get_waypoint_xodr(self._scene.start.road, lane, s)
        if start is None:
            road = self._scene.start.road
            raise ValueError(f"{self._session.map.name} has no lane {lane} at {s:g} m of road {road}")
        return start

    def _set_down(self, rng: np.random.Generator) -> Any:
        """The agent's car, spawned; its waypoint."""
        kind = self._session.blueprint(self._config.vehicle)
        kind.set_attribute("role_name", "hero")
        for _ in range(STARTS):
            lane, s = int(rng.choice(self._scene.start.lanes)), float(rng.uniform(*self._scene.start.s))
            waypoint = self._waypoint(lane, s)
            self._car = self._session.spawn(kind, places.beside(self._carla, waypoint, above=ABOVE))
            if self._car is not None:
                break
        else:
            raise WorldLost(f"the agent's car found no place in {STARTS} draws")
        physics = self._car.get_physics_control()
        physics.gear_switch_time = GEAR_SWITCH_S
        self._car.apply_physics_control(physics)
        return waypoint

    def _warm_up(self) -> None:
        """Some ticks in first gear, until the car stands on the road and the camera sends pictures."""
        self._car.apply_control(self._carla.VehicleControl(manual_gear_shift=True, gear=1))
        for ticks in range(1, LATEST_PICTURE + 1):
            frame = self._session.tick()
            if ticks < WARM_UP:
                continue
            try:
                # A camera subscribes in its own time, so the first pictures may be missing.
                self._image = self._sensors.picture(frame, WAKING_S)
                break
            except WorldLost:
                if ticks == LATEST_PICTURE:
                    raise
        self._sensors.felt()
        self._sensors.forget(frame)
        self._car.apply_control(self._carla.VehicleControl())
        self._observed()

    def _observed(self) -> Tick:
        """The car on its lane, now."""
        transform, velocity = self._car.get_transform(), self._car.get_velocity()
        place, felt = transform.location, self._sensors.felt()
        self._speed, self._yaw = velocity.length(), transform.rotation.yaw
        lane = self._session.map.get_waypoint(place, True, self._carla.LaneType.Driving)
        return Tick(
            speed=self._speed,
            lane_speed=velocity.dot(lane.transform.get_forward_vector()),
            centre_offset=places.offset(lane, place),
            impulse=felt.impulse,
            collided=felt.collisions > 0,
            crossed=felt.crossed,
            on_road=self._session.map.get_waypoint(place, False, self._carla.LaneType.Driving) is not None,
            road_ahead=bool(lane.next(AHEAD)),
            height=place.z - lane.transform.location.z,
            climb=velocity.z,
        )

    @contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        """Whatever goes wrong within, the server is handed back before it is told."""
        try:
            yield
        except RuntimeError as error:  # all that the library raises
            self.close()
            raise WorldLost(f"CARLA: {' '.join(str(error).split())}") from error
        except BaseException:
            self.close()
            raise
