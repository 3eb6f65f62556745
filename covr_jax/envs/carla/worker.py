"""The process of a ClientWorld: ``python -m covr_jax.envs.carla.worker FD``, a child of ``world.CarlaWorld``.

FD is a socket to the parent. The first message says what to build, every further one is a call: JSON both ways, but
pictures, which are bytes. It ends, and hands the server back, after a fault, after SIGTERM, and when the parent says
"end" or dies.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from covr_jax.config import CarlaConfig, DrivingConfig
from covr_jax.envs.carla.client_world import ClientWorld
from covr_jax.envs.driving import scenarios
from covr_jax.envs.driving.world import Control, WorldLost

DYING_S = 5.0  # from the end of a dying parent's files to its own


def main(descriptor: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    link = Connection(int(descriptor))
    told = json.loads(link.recv_bytes())
    world = build(told)
    try:
        serve(link, world)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        _wait_for_death(told["parent"])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        world.close()
        if told["server_group"] is not None and os.getppid() != told["parent"]:  # nobody else is left to end it
            os.killpg(told["server_group"], signal.SIGKILL)


def _wait_for_death(parent: int) -> None:
    """A parent that dies closes its files before it is gone: until then, or for DYING_S where it lives on."""
    end = time.monotonic() + DYING_S
    while os.getppid() == parent and time.monotonic() < end:
        time.sleep(0.01)


def build(told: dict[str, Any]) -> ClientWorld:
    """The world of the parent's first message."""
    carla, driving = CarlaConfig(**told["carla"]), DrivingConfig(**told["driving"])
    scene = scenarios.scenario(told["scenario"], driving)
    return ClientWorld(importlib.import_module(told["library"]), scene, carla, told["size"], told["port"])


def serve(link: Connection, world: ClientWorld) -> None:
    """Answers calls until a fault, which is an answer too, or "end". Raises EOFError if the parent goes without it."""
    while True:
        name, *arguments = json.loads(link.recv_bytes())
        if name == "end":
            return
        try:
            answer = _call(world, name, arguments)
        except WorldLost as error:
            link.send_bytes(json.dumps({"lost": str(error)}).encode())
            return
        except ValueError as error:
            link.send_bytes(json.dumps({"refused": str(error)}).encode())
            return
        # Bytes have a zero before them, with which no JSON begins.
        link.send_bytes(b"\0" + answer if isinstance(answer, bytes) else json.dumps({"value": answer}).encode())


def _call(world: ClientWorld, name: str, arguments: list[Any]) -> Any:
    if name == "begin":
        return world.begin(np.random.default_rng(arguments[0]))
    if name == "tick":
        return world.tick(Control(*arguments))._asdict()
    if name == "frame":
        return world.frame().tobytes()
    return world.state()


if __name__ == "__main__":
    main(sys.argv[1])
