"""One client at one server: of one version, on the scene's town, in synchronous mode, and left as others need it."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from covr_jax.config import CarlaConfig
from covr_jax.envs.driving.scenarios import WEATHERS, Scenario
from covr_jax.envs.driving.world import TICK_S, WorldLost

PROBE_S = 2.0  # time-out of a call that only asks whether a server is there
CLOSING_S = 10.0  # at most, of each call while cleaning up
FIRST_TRAFFIC_PORT, TRAFFIC_PORTS = 8000, 100


class Session:
    """From ``connect`` to ``close``. Whatever is spawned through it is destroyed by ``clear``.

    The server is this session's alone: what others have left in its world goes at the start.

    Args:
        carla: the client library.
        config: host, time-outs, version rule.
        port: of the server's RPC.
    """

    def __init__(self, carla: Any, config: CarlaConfig, port: int):
        self.carla, self._config, self._port = carla, config, port
        self._client = carla.Client(config.host, port)
        self.world: Any = None
        self.map: Any = None
        self.blueprints: Any = None
        self.traffic_manager: Any = None
        self.traffic_port = 0
        self._sensors: list[Any] = []
        self._bodies: list[Any] = []
        self._spawn_failed = False

    def connect(self, scene: Scenario) -> None:
        """Finds the server, loads the scene's town if it shows another, takes over its clock.

        Raises ValueError if the server is of another version, RuntimeError if there is none or it does not answer.
        """
        self._meet()
        self._client.set_timeout(self._config.start_timeout_s)
        self.world = self._client.get_world()
        self.map = self.world.get_map()
        if self.map.name.rpartition("/")[2] != scene.town:  # "Carla/Maps/Town04"
            self.world = self._client.load_world(scene.town)
            self.map = self.world.get_map()
        self._client.set_timeout(self._config.timeout_s)
        settings = self.world.get_settings()
        settings.synchronous_mode = True
        settings.fixed_delta_seconds = TICK_S
        self.world.apply_settings(settings)
        self.world.set_weather(getattr(self.carla.WeatherParameters, WEATHERS[scene.weather]))
        self.blueprints = self.world.get_blueprint_library()
        self._destroy_all(self._config.timeout_s)

    def start_traffic(self) -> None:
        """A traffic manager on a port that nobody has, ticking with the world. Raises RuntimeError."""
        for port in range(FIRST_TRAFFIC_PORT, FIRST_TRAFFIC_PORT + TRAFFIC_PORTS):
            # The library would join a traffic manager that another client runs there.
            if not _is_free(port):
                continue
            try:
                self.traffic_manager = self._client.get_trafficmanager(port)
            except RuntimeError as error:
                if "bind error" not in str(error):
                    raise
                continue  # somebody was faster
            self.traffic_port = port
            self.traffic_manager.set_synchronous_mode(True)
            return
        raise WorldLost(f"no port for a traffic manager from {FIRST_TRAFFIC_PORT} on, {TRAFFIC_PORTS} tried")

    def blueprint(self, name: str) -> Any:
        """Raises ValueError if the server has none of this name."""
        try:
            return self.blueprints.find(name)
        except IndexError:
            raise ValueError(f"the CARLA server has no blueprint {name!r}") from None

    def spawn(self, blueprint: Any, transform: Any) -> Any:
        """The new car or pedestrian, or None where there is no room for it."""
        actor = self._spawned(self.world.try_spawn_actor, blueprint, transform)
        if actor is not None:
            self._bodies.append(actor)
        return actor

    def attach(self, blueprint: Any, transform: Any, parent: Any, callback: Callable[[Any], None]) -> None:
        """A sensor on ``parent`` that calls back from a thread of the library's. Raises RuntimeError."""
        sensor = self._spawned(self.world.spawn_actor, blueprint, transform, parent)
        self._sensors.append(sensor)  # a sensor that nobody refers to falls silent
        sensor.listen(callback)

    def tick(self) -> int:
        """Moves the world on by TICK_S; the number of the new frame. Raises RuntimeError if the server is late."""
        return self.world.tick(self._config.timeout_s)

    def clear(self) -> None:
        """Destroys all that was spawned. Raises RuntimeError, with the rest still known."""
        for sensor in self._sensors:
            if sensor.is_listening():
                sensor.stop()
        self._destroy([actor.id for actor in (*self._sensors, *self._bodies)])
        self._sensors.clear()
        self._bodies.clear()

    def close(self) -> None:
        """Destroys all actors, hands the clock back, ends the traffic manager. Goes on past what fails; safe to repeat.

        A server that is gone, or was never met, is left alone.
        """
        if self.world is None:
            return
        self._client.set_timeout(min(self._config.timeout_s, CLOSING_S))
        if self._tried("find the server", self._client.get_server_version):
            self._hand_back()
        self.world = None

    def _hand_back(self) -> None:
        if not self._tried("destroy the actors", self.clear):
            ids = [actor.id for actor in (*self._sensors, *self._bodies)]
            self._tried("destroy them without stopping sensors", lambda: self._destroy(ids))
        if self._spawn_failed:
            within_s = min(self._config.timeout_s, CLOSING_S)
            self._tried("look for actors that came late", lambda: self._destroy_all(within_s))
        self._tried("leave synchronous mode", self._leave_synchronous_mode)
        if self.traffic_manager is not None:
            self._tried("free the traffic", lambda: self.traffic_manager.set_synchronous_mode(False))
            self._tried("end the traffic manager", self.traffic_manager.shut_down)

    def _meet(self) -> None:
        """Waits for the server, and compares versions."""
        config = self._config
        patience = config.timeout_s if config.server is None else config.start_timeout_s
        end, where = time.monotonic() + patience, f"{config.host}:{self._port}"
        self._client.set_timeout(min(PROBE_S, config.timeout_s))
        while True:
            try:
                # The one probe that may fail without holding the interpreter's lock.
                server = self._client.get_server_version()
                break
            except RuntimeError:
                if time.monotonic() >= end:
                    raise WorldLost(
                        f"no CARLA server answers at {where} within {patience:g} s: start one there, or name its "
                        "program with env.carla.server (docs/carla.md)"
                    ) from None
                time.sleep(0.1)
        client = self._client.get_client_version()
        if client != server and not config.any_version:
            raise ValueError(
                f"the CARLA server at {where} is {server}, this client is {client}: run that version's server, or "
                "allow it with env.carla.any_version=true"
            )

    def _leave_synchronous_mode(self) -> None:
        settings = self.world.get_settings()
        settings.synchronous_mode = False
        settings.fixed_delta_seconds = None
        self.world.apply_settings(settings)

    def _spawned(self, spawn: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return spawn(*arguments)
        except RuntimeError:  # a server that is late may still carry it out, and nobody knows the actor then
            self._spawn_failed = True
            raise

    def _destroy_all(self, within_s: float) -> None:
        """All cars, pedestrians and sensors of the world, whoever spawned them."""
        self.world.tick(within_s)  # before it a client of a synchronous server knows of no new actors
        left = [a.id for a in self.world.get_actors() if a.type_id.startswith(("vehicle.", "walker.", "sensor."))]
        self._destroy(left)

    def _destroy(self, ids: list[int]) -> None:
        """By number: it does no harm to actors that are gone, and an actor's own method does nothing before a tick."""
        if ids:
            self._client.apply_batch_sync([self.carla.command.DestroyActor(number) for number in ids], False)

    def _tried(self, what: str, step: Callable[[], Any]) -> bool:
        try:
            step()
        except Exception as error:  # the library raises IndexError and TypeError as well; the next step must still come
            print(f"carla: could not {what}: {' '.join(str(error).split())}", file=sys.stderr)
            return False
        return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
