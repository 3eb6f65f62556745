"""A scripted stand-in for a CARLA server and its client objects.

Values (locations, controls, weathers, settings, commands) and the map are the library's own. Classes have the library's
names; every call of theirs is held against the library's type stub, written down, and may be made to fail.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import carla

from tests.covr_jax.carla import stub
from tests.covr_jax.carla.roads import TOWNS

DT = 0.05
TIMEOUT = "time-out of 20000ms while waiting for the simulator, make sure the simulator is ready and connected"
BIND = "trying to create rpc server for traffic manager; but the system failed to create because of bind error."
DEAD = "trying to operate on a destroyed actor; an actor's function was called, but the actor is already destroyed."
# What the client answers by itself.
LOCAL = {"set_timeout", "get_client_version", "get_transform", "get_velocity", "get_location", "is_listening"}
SIZES = {"vehicle": (2.3, 1.0), "walker": (0.2, 0.2), "sensor": (0.0, 0.0)}  # half lengths and widths, m


class Simulator:
    """The server. ``before`` is called with the text of each call, e.g. "World.tick", and may raise what it would."""

    def __init__(self, town: str = "Town10HD_Opt", version: str | None = None):
        self.town, self.version = town, version or carla.Client("127.0.0.1", 2000).get_client_version()
        self.settings, self.weather = carla.WorldSettings(), carla.WeatherParameters.Default
        self.frame, self.actors, self.managers = 100, {}, {}
        self.calls: list[str] = []
        self.ticks = 0
        self.gone = False
        self.loads = 0
        self.before: Callable[[str], None] = lambda call: None
        # What becomes of the camera's picture of the n-th tick: "" comes, "missing", "late".
        self.picture: Callable[[int], str] = lambda tick: ""
        self.room: Callable[[str], bool] = lambda blueprint: True
        self._next = 1

    @property
    def left(self) -> list[str]:
        """Types of the actors that live, and what else a client should have undone."""
        sync = ["synchronous mode"] if self.settings.synchronous_mode else []
        manager = [f"traffic manager {port}" for port in self.managers]
        return [actor.type_id for actor in self.actors.values()] + sync + manager

    def called(self, owner: Any, method: str, arguments: tuple, named: dict[str, Any]) -> None:
        name = type(owner).__name__
        stub.check_call(name, method, arguments, named)
        told = [show(value) for value in arguments] + [f"{key}={show(value)}" for key, value in named.items()]
        self.calls.append(f"{label(owner)}.{method}({', '.join(told)})")
        self.before(f"{name}.{method}")
        if self.gone and method not in LOCAL:
            raise RuntimeError(TIMEOUT)
        if isinstance(owner, Actor) and not owner.is_alive and method != "destroy":
            raise RuntimeError(DEAD)

    def add(self, kind: ActorBlueprint, transform: carla.Transform, parent: Actor | None) -> Actor:
        family = kind.id.partition(".")[0]
        actor = {"vehicle": Vehicle, "walker": Walker, "sensor": Sensor}[family](self, self._next, kind, transform, parent)
        self.actors[self._next] = actor
        self._next += 1
        return actor

    def remove(self, number: int) -> bool:
        actor = self.actors.pop(number, None)
        if actor is None:
            return False
        for other in list(self.actors.values()):  # what is attached goes with it
            if other.carrier is actor:
                self.remove(other.id)
        return True

    def step(self) -> int:
        """One tick: all move, sensors tell."""
        self.frame += 1
        self.ticks += 1
        for actor in list(self.actors.values()):
            actor.move()
        for actor in list(self.actors.values()):
            if isinstance(actor, Sensor) and actor.callback is not None:
                actor.tell()
        return self.frame


def contract(cls: type) -> type:
    """Every public method is checked and written down before it runs."""
    for name, method in list(vars(cls).items()):
        if not name.startswith("_") and callable(method) and name not in getattr(cls, "INSIDE", ()):
            setattr(cls, name, _called(name, method))
    return cls


def _called(name: str, method: Callable) -> Callable:
    @functools.wraps(method)
    def checked(self, *arguments, **named):
        self._sim.called(self, name, arguments, named)
        return method(self, *arguments, **named)

    return checked


def label(owner: Any) -> str:
    return f"{owner.type_id}#{owner.id}" if isinstance(owner, Actor) else type(owner).__name__


def show(value: Any) -> str:
    """A value in a recorded call; numbers to three decimals, angles in (-180, 180]."""
    if isinstance(value, carla.Transform):
        place, turn = value.location, value.rotation
        yaw = -((-turn.yaw + 180.0) % 360.0 - 180.0)
        return f"at({show(place.x)}, {show(place.y)}, {show(place.z)}, yaw {show(yaw)})"
    if isinstance(value, carla.WeatherParameters):
        return next(n for n in dir(value) if getattr(carla.WeatherParameters, n, None) == value)
    if isinstance(value, carla.VehicleControl):
        names = ("throttle", "steer", "brake", "hand_brake", "manual_gear_shift", "gear")
    elif isinstance(value, carla.WalkerControl):
        d = value.direction
        return f"WalkerControl({show(d.x)}, {show(d.y)}, {show(d.z)}; speed={show(value.speed)})"
    elif isinstance(value, carla.WorldSettings):
        names = ("synchronous_mode", "fixed_delta_seconds")
    elif isinstance(value, carla.VehiclePhysicsControl):
        names = ("gear_switch_time",)
    elif isinstance(value, Actor | ActorBlueprint):
        return label(value) if isinstance(value, Actor) else value.id
    elif isinstance(value, carla.command.DestroyActor):
        return f"DestroyActor({value.actor_id})"
    elif isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    elif isinstance(value, float):
        return f"{value + 0.0:.3f}".replace("-0.000", "0.000")
    else:
        return "callback" if callable(value) else repr(value)
    return f"{type(value).__name__}({', '.join(f'{name}={show(getattr(value, name))}' for name in names)})"


@contract
class Client:
    def __init__(self, sim: Simulator, host: str, port: int):
        stub.check_call("Client", "__init__", (host, port), {})
        self._sim = sim
        sim.calls.append(f"Client({host!r}, {port})")

    def set_timeout(self, second):
        pass

    def get_client_version(self):
        return carla.Client("127.0.0.1", 2000).get_client_version()

    def get_server_version(self):
        return self._sim.version

    def get_world(self):
        return World(self._sim)

    def load_world(self, map_name):
        self._sim.town, self._sim.loads = map_name, self._sim.loads + 1
        self._sim.actors.clear()
        self._sim.settings = carla.WorldSettings()
        return World(self._sim)

    def get_trafficmanager(self, client_connection):
        return self._sim.managers.setdefault(client_connection, TrafficManager(self._sim, client_connection))

    def apply_batch_sync(self, commands, do_tick):
        return [self._sim.remove(command.actor_id) for command in commands]


@contract
class World:
    def __init__(self, sim: Simulator):
        self._sim = sim

    def get_map(self):
        # Any other town has no road of ours.
        return carla.Map(f"Carla/Maps/{self._sim.town}", TOWNS.get(self._sim.town, TOWNS["Town01"]))

    def get_settings(self):
        now, copy = self._sim.settings, carla.WorldSettings()
        copy.synchronous_mode, copy.fixed_delta_seconds = now.synchronous_mode, now.fixed_delta_seconds
        return copy

    def apply_settings(self, world_settings):
        self._sim.settings = world_settings
        return self._sim.frame

    def set_weather(self, weather):
        self._sim.weather = weather

    def get_blueprint_library(self):
        return BlueprintLibrary(self._sim, KINDS)

    def get_actors(self):
        return list(self._sim.actors.values())

    def tick(self, seconds):
        return self._sim.step()

    def spawn_actor(self, blueprint, transform, attach_to=None):
        actor = self._sim.add(blueprint, transform, attach_to) if self._sim.room(blueprint.id) else None
        if actor is None:
            raise RuntimeError("Spawn failed because of collision at spawn position")
        return actor

    def try_spawn_actor(self, blueprint, transform, attach_to=None):
        return self._sim.add(blueprint, transform, attach_to) if self._sim.room(blueprint.id) else None


@contract
class TrafficManager:
    def __init__(self, sim: Simulator, port: int):
        self._sim, self._port = sim, port

    def set_synchronous_mode(self, mode_switch):
        pass

    def set_random_device_seed(self, value):
        pass

    def set_global_distance_to_leading_vehicle(self, distance):
        pass

    def vehicle_percentage_speed_difference(self, actor, percentage):
        pass

    def auto_lane_change(self, actor, enable):
        pass

    def ignore_lights_percentage(self, actor, perc):
        pass

    def ignore_signs_percentage(self, actor, perc):
        pass

    def shut_down(self):
        self._sim.managers.pop(self._port, None)


class ActorAttribute:
    def __init__(self, *values: str):
        self.recommended_values = list(values)

    def __int__(self):
        return int(self.recommended_values[0])


class ActorBlueprint:
    def __init__(self, name: str, attributes: dict[str, ActorAttribute]):
        self.id, self._attributes = name, attributes
        self._set: dict[str, str] = {}

    def has_attribute(self, id):
        return id in self._attributes

    def get_attribute(self, id):
        return self._attributes[id]

    def set_attribute(self, id, value):
        stub.check_call("ActorBlueprint", "set_attribute", (id, value), {})
        if id not in self._attributes:
            raise IndexError(f"attribute '{id}' not found")
        self._set[id] = value


class BlueprintLibrary:
    def __init__(self, sim: Simulator, kinds: dict[str, dict[str, ActorAttribute]]):
        self._sim, self._kinds = sim, kinds

    def find(self, id):
        if id not in self._kinds:
            raise IndexError(f"blueprint '{id}' not found")
        return ActorBlueprint(id, self._kinds[id])

    def filter(self, wildcard_pattern):
        return BlueprintLibrary(self._sim, {n: a for n, a in self._kinds.items() if fnmatch(n, wildcard_pattern)})

    def __iter__(self):
        return (self.find(name) for name in self._kinds)


@contract
class Actor:
    INSIDE = ("move",)

    def __init__(self, sim: Simulator, number: int, kind: ActorBlueprint, transform: carla.Transform, parent):
        self._sim, self.id, self.type_id, self.carrier = sim, number, kind.id, parent
        self._attributes = dict(kind._set)
        self._at, self._yaw, self._speed = transform.location, transform.rotation.yaw, 0.0
        self._seen = carla.Transform()  # a client knows an actor's place from the next tick on
        self.bounding_box = carla.BoundingBox(carla.Location(), carla.Vector3D(*SIZES[kind.id.partition(".")[0]], 0.8))

    @property
    def is_alive(self):
        return self.id in self._sim.actors

    def move(self):
        self._seen = carla.Transform(self._at, carla.Rotation(yaw=self._yaw))

    def destroy(self):
        return self._sim.remove(self.id)

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

    def destroy(self):
        assert self.callback is None, "a sensor must be stopped before it is destroyed"
        return self._sim.remove(self.id)

    def move(self):
        pass

    def tell(self):
        {"rgb": self._picture, "collision": self._collisions, "lane_invasion": self._crossings}[self.type_id.split(".")[2]]()

    def _picture(self):
        self._age += 1
        fate = self._sim.picture(self._sim.ticks)
        if self._age == 1 or fate == "missing":  # the first one comes before the subscription
            return
        image, callback = Image(self._sim.frame, int(self._attributes["image_size_x"])), self.callback
        if fate == "late":
            threading.Timer(0.2, callback, (image,)).start()
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
        road = World(self._sim).get_map.__wrapped__(World(self._sim))
        before, self._lane = self._lane, road.get_waypoint(self.carrier._at).lane_id
        if before is not None and before != self._lane:
            self.callback(LaneInvasionEvent(self._sim.frame, [object()]))


def _kinds() -> dict[str, dict[str, ActorAttribute]]:
    colours, role = ActorAttribute("0,0,0", "255,255,255"), ActorAttribute("autopilot", "hero")
    car = {"number_of_wheels": ActorAttribute("4"), "color": colours, "role_name": role}
    cars = ("vehicle.audi.a2", "vehicle.tesla.model3", "vehicle.mercedes.sprinter", "vehicle.volkswagen.t2")
    walker = {"is_invincible": ActorAttribute("true", "false")}
    eye = {name: ActorAttribute("0") for name in ("image_size_x", "image_size_y", "fov", "sensor_tick")}
    return (
        {name: car for name in cars}
        | {"vehicle.ford.ambulance": {"number_of_wheels": ActorAttribute("4")}}
        | {"vehicle.yamaha.yzf": {"number_of_wheels": ActorAttribute("2"), "color": colours}}
        | {f"walker.pedestrian.{i:04}": walker for i in range(1, 4)}
        | {"sensor.camera.rgb": eye, "sensor.other.collision": {}, "sensor.other.lane_invasion": {}}
    )


KINDS = _kinds()
CLASSES = (Client, World, TrafficManager, ActorAttribute, ActorBlueprint, BlueprintLibrary, Actor, Vehicle, Walker, Sensor,
           Image, CollisionEvent, LaneInvasionEvent)  # fmt: skip


class Library:
    """The namespace that a world is given: the library's own, but for the client."""

    def __init__(self, sim: Simulator):
        self.Client = functools.partial(Client, sim)

    def __getattr__(self, name: str) -> Any:
        return getattr(carla, name)
