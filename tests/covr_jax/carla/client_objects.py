"""Stand-ins for a client and what it hands out: world, traffic manager, blueprints."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING

import carla

from tests.covr_jax.carla import stub
from tests.covr_jax.carla.recording import contract

if TYPE_CHECKING:
    from tests.covr_jax.carla.simulator import Simulator


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
        numbers = [command.actor_id for command in commands]
        self._sim.cut_off += [n for n in numbers if getattr(self._sim.actors.get(n), "callback", None) is not None]
        return [self._sim.remove(number) for number in numbers]


@contract
class World:
    def __init__(self, sim: Simulator):
        self._sim = sim

    def get_map(self):
        return self._sim.road

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
        return BlueprintLibrary(KINDS)

    def get_actors(self):
        return [actor for actor in self._sim.known if actor.is_alive]

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
        self.chosen: dict[str, str] = {}

    def __repr__(self):
        return self.id

    def has_attribute(self, id):
        return id in self._attributes

    def get_attribute(self, id):
        return self._attributes[id]

    def set_attribute(self, id, value):
        stub.check_call("ActorBlueprint", "set_attribute", (id, value), {})
        if id not in self._attributes:
            raise IndexError(f"attribute '{id}' not found")
        self.chosen[id] = value


class BlueprintLibrary:
    def __init__(self, kinds: dict[str, dict[str, ActorAttribute]]):
        self._kinds = kinds

    def find(self, id):
        if id not in self._kinds:
            raise IndexError(f"blueprint '{id}' not found")
        return ActorBlueprint(id, self._kinds[id])

    def filter(self, wildcard_pattern):
        return BlueprintLibrary({n: a for n, a in self._kinds.items() if fnmatch(n, wildcard_pattern)})

    def __iter__(self):
        return (self.find(name) for name in self._kinds)


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
