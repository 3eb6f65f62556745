"""Stand-ins for what moves and what senses."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import carla

from tests.covr_jax.carla.client_objects import ActorBlueprint
from tests.covr_jax.carla.recording import contract

if TYPE_CHECKING:
    from tests.covr_jax.carla.simulator import Simulator

DT = 0.05
SIZES = {"vehicle": (2.3, 1.0), "walker": (0.2, 0.2), "sensor": (0.0, 0.0)}  # half lengths and widths, m


@contract
class Actor:
    INSIDE = ("move",)

    def __init__(self, sim: Simulator, number: int, kind: ActorBlueprint, transform: carla.Transform, parent):
        self._sim, self.id, self.type_id, self.carrier = sim, number, kind.id, parent
        self._attributes = dict(kind.chosen)
        self._at, self._yaw, self._speed = transform.location, transform.rotation.yaw, 0.0
        self._seen = carla.Transform()  # a client knows an actor's place from the next tick on
        self.bounding_box = carla.BoundingBox(carla.Location(), carla.Vector3D(*SIZES[kind.id.partition(".")[0]], 0.8))

    def __repr__(self):
        return f"{self.type_id}#{self.id}"

    @property
    def is_alive(self):
        return self.id in self._sim.actors

    def move(self):
        self._seen = carla.Transform(self._at, carla.Rotation(yaw=self._yaw))

    def get_transform(self):
        return self._seen

    def get_location(self):
        return self._seen.location

    def get_velocity(self):
        return self._seen.get_forward_vector() * self._speed

    def _advance(self, x: float, y: float) -> None:
        self._at = carla.Location(self._at.x + x, self._at.y + y, self._at.z)


@contract
class Vehicle(Actor):
    INSIDE = ("move",)
    _control, _autopilot = carla.VehicleControl(), False

    def apply_control(self, control):
        self._control = control

    def set_autopilot(self, enabled, port):
        self._autopilot = enabled

    def get_physics_control(self):
        return carla.VehiclePhysicsControl()

    def apply_physics_control(self, physics_control):
        pass

    def move(self):
        control = self._control
        if self._autopilot:
            self._speed = 10.0
        elif not control.hand_brake:
            self._speed = max(self._speed + (4.0 * control.throttle - 9.0 * control.brake - 0.1) * DT, 0.0)
            self._yaw += math.degrees(self._speed * math.tan(0.6 * control.steer) / 2.8 * DT)
        forward = carla.Rotation(yaw=self._yaw).get_forward_vector()
        self._advance(forward.x * self._speed * DT, forward.y * self._speed * DT)
        super().move()


@contract
class Walker(Actor):
    INSIDE = ("move",)
    _control = carla.WalkerControl()

    def apply_control(self, control):
        self._control = control

    def move(self):
        step, speed = self._control.direction, self._control.speed
        self._advance(step.x * speed * DT, step.y * speed * DT)
        super().move()


class Image:
    def __init__(self, frame: int, size: int):
        self.frame, self.width, self.height = frame, size, size
        self.raw_data = bytes([3, 2, frame % 256, 255]) * (size * size)  # blue, green, red, alpha


class CollisionEvent:
    def __init__(self, frame: int, normal_impulse: carla.Vector3D):
        self.frame, self.normal_impulse = frame, normal_impulse


class LaneInvasionEvent:
    def __init__(self, frame: int, crossed_lane_markings: list):
        self.frame, self.crossed_lane_markings = frame, crossed_lane_markings


@contract
class Sensor(Actor):
    INSIDE = ("move", "tell", "callback")
    callback: Callable | None = None
    _age, _lane = 0, None

    def is_listening(self):
        return self.callback is not None

    def listen(self, callback):
        self.callback = callback

    def stop(self):
        self.callback = None

    def move(self):
        pass

    def tell(self):
        kinds = {"rgb": self._picture, "collision": self._collisions, "lane_invasion": self._crossings}
        kinds[self.type_id.split(".")[2]]()

    def _picture(self):
        self._age += 1
        fate = self._sim.picture(self._sim.ticks)
        if self._age == 1 or fate == "missing":  # the first one comes before the subscription
            return
        size, callback = int(self._attributes["image_size_x"]), self.callback
        image = Image(self._sim.frame + (fate == "next"), size)
        if fate == "late":
            threading.Timer(0.5, callback, (image,)).start()
        else:
            callback(image)

    def _collisions(self):
        car = self.carrier
        for other in list(self._sim.actors.values()):
            if other is car or isinstance(other, Sensor):
                continue
            between, box = other._at - car._at, other.bounding_box.extent
            reach_x, reach_y = box.x + car.bounding_box.extent.x, box.y + car.bounding_box.extent.y
            if abs(between.dot(car._seen.get_forward_vector())) < reach_x:
                if abs(between.dot(car._seen.get_right_vector())) < reach_y:
                    self.callback(CollisionEvent(self._sim.frame, carla.Vector3D(1800.0 * car._speed, 0.0, 0.0)))
                    car._speed = 0.0

    def _crossings(self):
        before, self._lane = self._lane, self._sim.road.get_waypoint(self.carrier._at).lane_id
        if before is not None and before != self._lane:
            self.callback(LaneInvasionEvent(self._sim.frame, [object()]))
