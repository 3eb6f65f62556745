"""What one update costs: learners, and their plain PyTorch twins, take turns in one process.

    python -m experiments.bench.update --preset=rad --cases=rad,torch:rad --out=update.json
    python -m experiments.bench.update --preset=cpu --cases=deepmdp,deepmdp+erpv

A case is a base, ``base+method``, or ``torch:base`` (from a checkout: the twin is the tests'). All share one batch of
random pictures in which every transition has a label; sampling is not measured, augmentation is (the twin's views are
cut beforehand).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from covr_jax.config import Config
from covr_jax.learner import Learner
from covr_jax.types import Batch
from experiments import configuration, update_work
from experiments.bench import least_work
from experiments.bench.shared import write
from experiments.command_line import fail, prepare
from experiments.random_batch import ACTION_DIM, random_batch

_PRESET = flags.DEFINE_string("preset", "rad", "As of experiments.train.")
_CASES = flags.DEFINE_list("cases", ["rad", "torch:rad"], "What is compared; ratios are to the first.")
_TURNS = flags.DEFINE_integer("turns", 10, "Measured turns.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("updates", 2, "Updates a turn: actor and targets move in every second one.")
_SET = flags.DEFINE_multi_string("set", [], "As of experiments.train.")
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")


def configured(case: str) -> Config:
    """The preset with the case's base and method. Raises ValueError."""
    base, _, method = case.removeprefix("torch:").partition("+")
    chosen = {"learner.base": base, "learner.method": method or "none"}
    return configuration.resolve(configuration.build(_PRESET.value, chosen, _SET.value).config)


def jax_case(config: Config, batch: Batch) -> tuple[Callable[[], None], dict[str, float]]:
    """A turn of updates, the floating-point work of one as XLA counts it, and the least possible."""
    learner = Learner(config.learner, ACTION_DIM, config.env.frame_stack)
    critic = learner.init(1, config.env.render_size).target if learner.needs_value_critic else None
    state = learner.init(0, config.env.render_size, critic)
    counted = update_work.flops(learner, state, batch)
    batches = jax.tree.map(lambda array: jnp.stack([array] * _UPDATES.value), batch)

    def turn() -> None:
        nonlocal state
        state, _ = learner.update_many(state, batches)
        jax.block_until_ready(state)

    least = least_work.gflop(config.learner, ACTION_DIM, config.env.frame_stack)
    return turn, {"gflop": counted / 1e9, "least_gflop": least}


def torch_case(config: Config, batch: Batch) -> tuple[Callable[[], None], dict[str, float]]:
    """A turn of eager PyTorch updates on the same views, in PyTorch's default layout."""
    from tests.covr_jax.torch_twin import TorchTwin

    twin = TorchTwin(config.learner, ACTION_DIM, config.env.frame_stack)
    learner = Learner(config.learner, ACTION_DIM, config.env.frame_stack)
    state = learner.init(0, config.env.render_size)
    views, noise = jax.tree.map(np.asarray, learner.draw(state, batch))

    def turn() -> None:
        for _ in range(_UPDATES.value):
            twin.update(batch, views, noise)

    return turn, {}


def sgemm_gflops() -> float:
    """This machine's rate on a product of two 1024 x 1024 matrices."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(seconds) / 1e9


def main(argv: list[str]) -> None:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    turns, extra, config = {}, {}, None
    try:
        for case in _CASES.value:
            config = configured(case)
            make = torch_case if case.startswith("torch:") else jax_case
            turns[case], extra[case] = make(config, random_batch(config))
    except (ValueError, ImportError) as error:
        fail(str(error))
    seconds: dict[str, list[float]] = {case: [] for case in turns}
    for number in range(_TURNS.value + 1):
        for case, turn in turns.items():
            start = time.perf_counter()
            turn()
            if number:  # the first compiles
                seconds[case].append((time.perf_counter() - start) / _UPDATES.value)
    rate, first = sgemm_gflops(), seconds[_CASES.value[0]]
    print(f"{'case':>20} {'ms':>9} {'ratio':>7} {'GFLOP':>7} {'least':>7} {'limit ms':>9}")
    figures = {}
    for case, times in seconds.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(times, first, strict=True))
        gflop, least = (extra[case].get(name, float("nan")) for name in ("gflop", "least_gflop"))
        middle = statistics.median(times)
        figures[case] = {"seconds": times, "ratio": ratio, **extra[case]}
        print(f"{case:>20} {1e3 * middle:>9.1f} {ratio:>7.3f} {gflop:>7.1f} {least:>7.1f} {1e3 * gflop / rate:>9.1f}")
    print(f"matrix products here: {rate:.0f} GFLOP/s; the limit is an update's arithmetic at that rate")
    print("GFLOP as XLA counts it, least from the layers' sizes: of an update that moves the actor too")
    write(_OUT.value, {"cases": figures, "sgemm_gflops": rate}, config)


if __name__ == "__main__":
    app.run(main)
