"""CARLA as a driving world: its client in a process of its own, and a watch over both."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax.config import EnvConfig
from covr_jax.envs.carla.server import LocalServer
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.world import Control, Tick, WorldLost

ATTEMPTS = 3  # to begin an episode
GRACE_S = 30.0  # for the client to clean up after itself
ROOT = Path(__file__).parents[3]

_taken: set[int] = set()  # ports of this process's worlds


class CarlaWorld:
    """Implements covr_jax.envs.driving.world.World.

    A call that fails, or gets no answer in time, ends the client's process and raises WorldLost; ``begin`` starts
    another one. A server of our own (env.carla.server) is then started anew as well, and also when it has ended.

    Args:
        task: the scenario's name.
        config: of the environment.
        library: module that is the client library.

    Raises:
        ValueError: no client library, no port left, no such server program, a wrong switch.
    """

    repeatable = False

    def __init__(self, task: str, config: EnvConfig, library: str = "carla"):
        if find_spec(library) is None:
            raise ValueError(
                f'{config.name} needs CARLA\'s client: pip install -e ".[carla]", on Linux with Python 3.11 or 3.12'
            )
        self.scene = scenarios.scenario(task, config.driving)
        self._config, self._size = config.carla, config.render_size
        self.port = next((port for port in self._config.ports if port not in _taken), None)
        if self.port is None:
            told = ", ".join(map(str, self._config.ports))
            raise ValueError(
                f"env.carla.ports={told}: each environment needs a server, and so a port, of its own; training two"
            )
        self._told = {
            "library": library,
            "scenario": task,
            "driving": dataclasses.asdict(config.driving),
            "carla": dataclasses.asdict(self._config),
            "size": self._size,
            "port": self.port,
        }
        self._server = None
        if self._config.server is not None:
            self._server = LocalServer(self._config.server, self.port, self._config.server_flags)
        self._process: subprocess.Popen | None = None
        self._link: Any = None
        self.restarts = -1  # of the client, after the first start
        self._episodes = 0  # since the server's start
        _taken.add(self.port)

    def begin(self, rng: np.random.Generator) -> None:
        """As of World. Raises WorldLost after ATTEMPTS, ValueError for a server that cannot be used."""
        seed = int(rng.integers(2**63))
        if self._server is not None and self._episodes and self._episodes == self._config.restart_every:
            self._drop()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start()
                wait = 3 * self._config.start_timeout_s + 10 * self._config.timeout_s
                self._call("begin", seed, within_s=wait)
                self._episodes += 1
                return
            except WorldLost as error:
                if attempt == ATTEMPTS:
                    raise WorldLost(f"{error} ({ATTEMPTS} attempts)") from None
                print(f"carla: attempt {attempt} of {ATTEMPTS} to begin an episode: {error}", file=sys.stderr)

    def tick(self, control: Control) -> Tick:
        return Tick(**self._call("tick", *control))

    def frame(self) -> np.ndarray:
        return np.frombuffer(self._call("frame"), np.uint8).reshape(self._size, self._size, 3).copy()

    def state(self) -> dict[str, float]:
        return self._call("state")

    def close(self) -> None:
        """Ends the client, which hands the server back, and a server of our own."""
        self._drop()
        _taken.discard(self.port)

    def _start(self) -> None:
        if self._server is not None and not self._server.running:
            self._end_client()
            self._server.start()
            self._episodes = 0
        if self._process is not None:
            return
        self._link, theirs = Pipe()
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "covr_jax.envs.carla.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the library prints is no result of the learner's
            pass_fds=(theirs.fileno(),),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        theirs.close()
        self.restarts += 1
        group = None if self._server is None else self._server.group
        self._link.send_bytes(json.dumps(self._told | {"server_group": group, "parent": os.getpid()}).encode())

    def _call(self, name: str, *arguments: Any, within_s: float | None = None) -> Any:
        """The client's answer: a JSON value, or bytes. Raises WorldLost, ValueError."""
        if self._process is None:
            raise WorldLost("the client's process has ended")
        # A tick and its picture, each with its time-out, and then what cleaning up may take.
        wait = 2 * self._config.timeout_s + GRACE_S if within_s is None else within_s
        try:
            self._link.send_bytes(json.dumps([name, *arguments]).encode())
            answer = self._answer(name, wait)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._lost(f"the client's process ended in {name}") from None
        if answer.startswith(b"\0"):
            return answer[1:]
        told = json.loads(answer)
        if "refused" in told:
            self._drop()
            raise ValueError(told["refused"])
        if "lost" in told:
            raise self._lost(told["lost"])
        return told["value"]

    def _answer(self, name: str, within_s: float) -> bytes:
        end = time.monotonic() + within_s
        while not self._link.poll(0.5):
            if self._server is not None and not self._server.running:
                raise self._lost(f"the CARLA server has ended in {name}; {self._server.log} may say why")
            if time.monotonic() >= end:
                raise self._lost(f"the client gave no answer to {name} within {within_s:g} s")
        return self._link.recv_bytes()

    def _lost(self, why: str) -> WorldLost:
        self._drop()
        return WorldLost(f"{why} (port {self.port})")

    def _drop(self) -> None:
        """Ends the client, and a server of our own: what answered wrongly once is not trusted again."""
        self._end_client()
        if self._server is not None:
            self._server.stop()

    def _end_client(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):  # one that has died
            self._link.send_bytes(b'["end"]')
        self._link.close()  # it cleans up and ends
        for step in (process.terminate, process.kill):
            try:
                process.wait(timeout=GRACE_S)
                return
            except subprocess.TimeoutExpired:
                step()
        process.wait()
