"""What replay costs in memory, and the peak of a whole training process against what its replay holds.

    python -m experiments.bench.memory --preset=rad --transitions=1000,50000,100000 --out=memory.json

Each size runs in a process of its own: the trainer with all its environments, the replay filled with random pictures
and labels, then a few decisions of training. The peak is the kernel's (ru_maxrss); a line is fitted to the peaks.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from contextlib import ExitStack

import jax
import numpy as np
from absl import app, flags

from covr_jax.loop import Trainer
from covr_jax.replay import ReplayBuffer
from experiments.bench.shared import Silent, endless, fill, write
from experiments.command_line import fail, prepare
from experiments.policy import environment
from experiments.run import EVALUATION_ENVS

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_ENV = flags.DEFINE_string("env", "dmc/cartpole/swingup", "As of experiments.train.")
_TRANSITIONS = flags.DEFINE_list("transitions", ["1000", "50000", "100000"], "Transitions in the replay.")
_FRAME_SIZE = flags.DEFINE_integer("frame_size", 84, "Pixels, for the bytes of replay alone.", lower_bound=8)
_DECISIONS = flags.DEFINE_integer("decisions", 20, "Decisions of training at each size.", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
_FILLED = flags.DEFINE_integer("filled", 0, "For the processes that this one starts: fill, train, print the peak.")


def replay_bytes(transitions: int, size: int, action_dim: int = 1) -> int:
    return ReplayBuffer(transitions, (size, size, 3), action_dim, 3).nbytes


class _Few(Silent):
    """Stops its trainer after so many decisions as are wanted."""

    trainer: Trainer

    def progress(self, *_) -> None:
        if self.trainer.counters.decisions == _DECISIONS.value:
            self.trainer.stop()


def peak(transitions: int) -> int:
    """Peak resident bytes of this process, once it has trained with so many transitions in its replay."""
    settings = [*_SET.value, f"replay.capacity={transitions + 2000}", "replay.storage=host"]
    config = endless(_PRESET.value, {"env.name": _ENV.value, "learner.method": "none"}, settings)
    with ExitStack() as stack:
        env, *others = [stack.enter_context(environment(config)) for _ in range(1 + EVALUATION_ENVS)]
        for other in others:
            other.reset(seed=0)
        recorder = _Few()
        recorder.trainer = trainer = stack.enter_context(Trainer(config, env, others, recorder))
        side = config.env.render_size
        fill(trainer.replay, transitions, env.action_space.shape[0], (side, side, 3), episode=transitions)
        trainer.episode()
        jax.block_until_ready(trainer.state)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(transitions: int) -> int:
    """``peak`` in a process of its own. Raises RuntimeError."""
    flag = [f"--filled={transitions}", f"--preset={_PRESET.value}", f"--env={_ENV.value}"]
    flag += [f"--decisions={_DECISIONS.value}", *(f"--set={setting}" for setting in _SET.value)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench.memory", *flag], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    if _FILLED.value:
        print(peak(_FILLED.value))
        return
    try:
        sizes = [int(text) for text in _TRANSITIONS.value]
        config = endless(_PRESET.value, {"env.name": _ENV.value, "learner.method": "none"}, _SET.value)
        rows = [(size, replay_bytes(size, _FRAME_SIZE.value), measured(size)) for size in sizes]
    except (ValueError, RuntimeError) as error:
        fail(str(error))
    print(f"{'transitions':>11} {f'replay at {_FRAME_SIZE.value} px, GB':>22} {'peak of a run, GB':>18}")
    for size, held, most in rows:
        print(f"{size:>11} {held / 1e9:>22.3f} {most / 1e9:>18.3f}")
    frame = 3 * config.env.render_size**2
    figures = {"rows": [dict(zip(("transitions", "replay_bytes", "peak_bytes"), row, strict=True)) for row in rows]}
    if len(rows) > 1:
        slope, start = np.polyfit([row[0] for row in rows], [row[2] for row in rows], 1)
        off = max(abs(start + slope * row[0] - row[2]) for row in rows)
        line = f"{start / 1e9:.2f} GB and {slope:.0f} bytes a transition (a frame has {frame})"
        print(f"peak: {line}, at most {off / 1e6:.0f} MB off")
        figures |= {"slope": slope, "start": start, "largest_deviation_bytes": off}
    write(_OUT.value, figures | {"frame_bytes": frame, "frame_size": _FRAME_SIZE.value}, config)


if __name__ == "__main__":
    app.run(main)
