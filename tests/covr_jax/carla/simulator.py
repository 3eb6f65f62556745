"""A scripted stand-in for a CARLA server.

Values (locations, controls, weathers, settings, commands) and the map are the library's own. Stand-ins have the
library's names; every call of theirs is held against the library's type stub, written down, and may be made to fail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import carla

from tests.covr_jax.carla import stub
from tests.covr_jax.carla.actors import Actor, Sensor, Vehicle, Walker
from tests.covr_jax.carla.client_objects import ActorBlueprint, Client
from tests.covr_jax.carla.recording import show
from tests.covr_jax.carla.roads import TOWNS

TIMEOUT = "time-out of 20000ms while waiting for the simulator, make sure the simulator is ready and connected"
BIND = "trying to create rpc server for traffic manager; but the system failed to create because of bind error."
DEAD = "trying to operate on a destroyed actor; an actor's function was called, but the actor is already destroyed."
# What the client answers by itself.
LOCAL = {"set_timeout", "get_client_version", "get_transform", "get_velocity", "get_location", "is_listening"}


@functools.cache
def _map(town: str) -> carla.Map:
    # Which road a town has that no scene is in does not matter.
    return carla.Map(f"Carla/Maps/{town}", TOWNS.get(town, TOWNS["Town01"]))


class Simulator:
    """The server. ``before`` is called with the text of each call, e.g. "World.tick", and may raise what it would."""

    def __init__(self, town: str = "Town10HD_Opt", version: str | None = None):
        self.town, self.version = town, version or carla.Client("127.0.0.1", 2000).get_client_version()
        self.settings, self.weather = carla.WorldSettings(), carla.WeatherParameters.Default
        self.frame, self.actors, self.managers = 100, {}, {}
        self.known: list[Actor] = []  # to clients that ask for all actors: those of the latest tick
        self.calls: list[str] = []
        self.ticks = 0
        self.gone = False
        self.cut_off: list[int] = []  # sensors that were destroyed while they were listening
        self.loads = 0
        self.before: Callable[[str], None] = lambda call: None
        # What becomes of the camera's picture of the n-th tick: "" comes, "missing", "late", "next" in number.
        self.picture: Callable[[int], str] = lambda tick: ""
        self.room: Callable[[str], bool] = lambda blueprint: True
        self._next = 1

    @property
    def road(self) -> carla.Map:
        return _map(self.town)

    @property
    def left(self) -> list[str]:
        """Types of the actors that live, and what else a client should have undone."""
        sync = ["synchronous mode"] if self.settings.synchronous_mode else []
        manager = [f"traffic manager {port}" for port in self.managers]
        return [actor.type_id for actor in self.actors.values()] + sync + manager

    def called(self, owner: Any, method: str, arguments: tuple, named: dict[str, Any]) -> None:
        name = type(owner).__name__
        stub.check_call(name, method, arguments, named)
        who = repr(owner) if isinstance(owner, Actor) else name
        told = [show(value) for value in arguments] + [f"{key}={show(value)}" for key, value in named.items()]
        self.calls.append(f"{who}.{method}({', '.join(told)})")
        self.before(f"{name}.{method}")
        if self.gone and method not in LOCAL:
            raise RuntimeError(TIMEOUT)
        if isinstance(owner, Actor) and not owner.is_alive:
            raise RuntimeError(DEAD)

    def add(self, kind: ActorBlueprint, transform: carla.Transform, parent: Actor | None) -> Actor:
        family = kind.id.partition(".")[0]
        made = {"vehicle": Vehicle, "walker": Walker, "sensor": Sensor}[family]
        actor = made(self, self._next, kind, transform, parent)
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
        self.known = list(self.actors.values())
        return self.frame


class Library:
    """The namespace that a world is given: the library's own, but for the client."""

    def __init__(self, sim: Simulator):
        self.Client = functools.partial(Client, sim)

    def __getattr__(self, name: str) -> Any:
        return getattr(carla, name)
