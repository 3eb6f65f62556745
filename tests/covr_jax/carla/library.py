"""A client library as a module, over a simulator of its own: for worlds in other processes.

SIMULATOR in the environment is a JSON object: ``version``; ``hang``, ``exit``, ``fail``: the tick at which the client
hangs, its process ends, or a time-out is raised; ``report``: a file that gets what was left when the process ended.
"""

from __future__ import annotations

import atexit
import json
import os
import time
from pathlib import Path

from carla import *  # noqa: F403

from tests.covr_jax.carla.simulator import TIMEOUT, Simulator
from tests.covr_jax.carla.simulator import Library as _Library

_told = json.loads(os.environ.get("SIMULATOR", "{}"))
SIM = Simulator(version=_told.get("version"))
Client = _Library(SIM).Client


def _before(call: str) -> None:
    if call != "World.tick":
        return
    if SIM.ticks == _told.get("hang"):
        time.sleep(600)
    if SIM.ticks == _told.get("exit"):
        os._exit(9)
    if SIM.ticks == _told.get("fail"):
        raise RuntimeError(TIMEOUT)


SIM.before = _before
if "report" in _told:
    atexit.register(lambda: Path(_told["report"]).write_text(json.dumps({"left": SIM.left, "ticks": SIM.ticks})))
