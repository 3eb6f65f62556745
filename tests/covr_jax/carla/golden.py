"""The client calls of one episode of each scene, as texts to be reviewed: ``python -m tests.covr_jax.carla.golden``
writes them anew.

A block is what is called up to a tick; blocks that follow each other and are equal are told once, with their number.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.covr_jax.carla.simulator import Simulator
from tests.covr_jax.carla.worlds import carla_env, drive

FOLDER = Path(__file__).with_name("golden_calls")
# Name -> scenario, switches, action (steer, throttle).
EPISODES = {
    "highway": ("highway", {"vehicles": 3, "horizon": 40}, (0.0, 0.5)),
    "ghost_pedestrian": ("ghost_pedestrian", {"horizon": 400, "terminate_on_collision": True}, (0.0, 0.3)),
    "crossing": ("jaywalk", {"horizon": 160, "pedestrians": "crossing"}, (0.0, 0.1)),
}


def record(name: str) -> str:
    """The calls of an episode, from connecting to closing."""
    scenario, switches, action = EPISODES[name]
    sim = Simulator()
    env = carla_env(sim, scenario, **switches)
    info = drive(env, np.array(action))
    env.close()
    return f"{compact(sim.calls)}\nending: {info['ending']}, left: {sim.left}\n"


def compact(calls: list[str]) -> str:
    lines = []
    for block, group in itertools.groupby(_blocks(calls)):
        count = len(list(group))
        lines += [f"--- {count} times" if count > 1 else "---", *block]
    # Which port was free is the machine's affair.
    return re.sub(r"(get_trafficmanager\(|set_autopilot\(True, )\d+", r"\1PORT", "\n".join(lines))


def _blocks(calls: list[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for call in calls:
        block.append(call)
        if call.startswith("World.tick("):
            yield block
            block = []
    yield block


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in EPISODES:
        (FOLDER / f"{name}.txt").write_text(record(name), encoding="utf-8")
