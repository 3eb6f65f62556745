"""A batch of random pictures, for programs that measure what an update costs."""

from __future__ import annotations

import numpy as np

from covr_jax.config import Config
from covr_jax.methods import BASES
from covr_jax.types import Batch, Sequence

ACTION_DIM = 1


def random_batch(config: Config) -> Batch:
    """``learner.batch_size`` transitions of random pictures, each with a label, and what else the base looks at."""
    rng, size, side = np.random.default_rng(0), config.learner.batch_size, config.env.render_size
    base, stack = BASES[config.learner.base], config.env.frame_stack

    def frames(count: int, length: int) -> np.ndarray:
        return rng.integers(0, 256, (count, length, side, side, 3), dtype=np.uint8)

    batch = Batch(
        frames=frames(size, stack + 1 + base.sight.remembers),
        action=rng.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32),
        reward=rng.uniform(0, 8, size).astype(np.float32),
        not_done=np.ones(size, np.float32),
        prior_action=rng.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32),
        prior_ok=np.ones(size, np.float32),
    )
    if base.sight.remembers:
        batch = batch._replace(previous_action=batch.action, previous_ok=batch.prior_ok)
    if base.sequence:
        runs = config.learner.sequence_batch_size
        actions = rng.uniform(-1, 1, (runs, base.sequence - 1, ACTION_DIM)).astype(np.float32)
        rewards = rng.uniform(0, 8, actions.shape[:-1]).astype(np.float32)
        batch = batch._replace(sequence=Sequence(frames(runs, stack + base.sequence - 1), actions, rewards))
    return batch
