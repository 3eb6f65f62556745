"""What a batch costs beside its update: drawn and gathered from the host's ring and the device's, then cropped.

    python -m experiments.bench.sampling --preset=rad --transitions=12500 --out=sampling.json

``sample`` ends when the batch is on the device; ``views`` is the augmentation, which runs inside of the update; ``add``
stores a frame. In a run ``sample`` overlaps with the update before it.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from functools import partial

import jax
import numpy as np
from absl import app, flags

from covr_jax.learner import Learner
from covr_jax.replay import ReplayBuffer
from covr_jax.types import Batch
from experiments.bench.shared import endless, fill, timed, write
from experiments.command_line import fail, prepare
from experiments.random_batch import ACTION_DIM

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_TRANSITIONS = flags.DEFINE_integer("transitions", 12_500, "In the replay.", lower_bound=100)
_TURNS = flags.DEFINE_integer("turns", 20, "Measured turns.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
STORAGES = ("host", "device")


def _sample(replay: ReplayBuffer, size: int, seed: int) -> Batch:
    return jax.device_put(replay.sample(size, np.random.default_rng(seed)))


def _add(replay: ReplayBuffer, frame: np.ndarray) -> np.ndarray:
    """Reads what was written, so that a write that was only dispatched is waited for."""
    return replay.frames(np.array([replay.begin(frame)]))


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        config = endless(_PRESET.value, {"learner.method": "none"}, _SET.value)
        learner = Learner(config.learner, ACTION_DIM, config.env.frame_stack)
    except ValueError as error:
        fail(str(error))
    base, side, size = learner.base, config.env.render_size, config.learner.batch_size
    shape, state = (side, side, 3), learner.init(0, config.env.render_size)
    sequences = (config.learner.sequence_batch_size, base.sequence) if base.sequence else None
    replays = {
        where: ReplayBuffer(
            _TRANSITIONS.value, shape, ACTION_DIM, config.env.frame_stack,
            remembers=base.sight.remembers, sequences=sequences, storage=where,
        )
        for where in STORAGES
    }  # fmt: skip
    for replay in replays.values():
        fill(replay, _TRANSITIONS.value, ACTION_DIM, shape)
    draw = jax.jit(learner.draw)
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(_TURNS.value + 1):
        works = {}
        for where, replay in replays.items():
            works[f"sample, {where}"] = partial(_sample, replay, size, turn)
            works[f"add, {where}"] = partial(_add, replay, np.zeros(shape, np.uint8))
        batch = _sample(replay, size, 0)
        works["views"] = lambda: draw(state, batch)[0]  # noqa: B023
        for name, work in works.items():
            took = timed(work)
            if turn:  # the first compiles
                seconds[name].append(took)
        start = time.perf_counter()
        state, _ = learner.update(state, batch)
        jax.block_until_ready(state)
        if turn:
            seconds["update"].append(time.perf_counter() - start)
    whole = statistics.median(seconds["update"])
    print(f"{'':>16} {'ms':>9} {'of an update':>13}")
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(f"{name:>16} {1e3 * middle:>9.3f} {middle / whole:>12.2%}")
    shares = {name: statistics.median(times) / whole for name, times in seconds.items()}
    write(_OUT.value, {"seconds": seconds, "shares": shares, "transitions": _TRANSITIONS.value}, config)


if __name__ == "__main__":
    app.run(main)
