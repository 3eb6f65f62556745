"""Configurations and random batches small enough for tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from covr_jax import methods
from covr_jax.config import LearnerConfig
from covr_jax.learner import Learner
from covr_jax.types import Batch, Sequence

BASES = ("rad", "deepmdp")  # of the tests that run over every kind of update; SAC's is RAD's without its views
CROPPED = ("rad", "curl", "spr", "playvirtual", "mlr")
RENDER = dict.fromkeys(methods.BASES, 20) | dict.fromkeys(CROPPED, 24) | {"resact": 16}
AUGMENTATION = {"sac": "none", "rad": "crop", "deepmdp": "none"}  # others: the base's first
ACTION_DIM, STACK = 2, 3


def config(base: str, **changes) -> LearnerConfig:
    start = LearnerConfig(
        base=base,
        augmentation=AUGMENTATION.get(base),
        image_size=20,
        filters=(8, 8),
        kernels=(3, 3),
        strides=(2, 1),
        feature_dim=10,
        hidden_dim=32,
        model_hidden_dim=24,
        batch_size=16,
    )
    return dataclasses.replace(start, **changes)


def learner(base: str, **changes) -> Learner:
    return Learner(config(base, **changes), ACTION_DIM, STACK)


def batch(base: str, seed: int, size: int = 16, leading: tuple[int, ...] = ()) -> Batch:
    """Random transitions [*leading, size]; a quarter are terminal, half hold a label, as many follow another one."""
    rng = np.random.default_rng(seed)
    row, shape, side = methods.BASES[base], (*leading, size), RENDER[base]
    prior_ok = rng.integers(0, 2, shape).astype(np.float32)
    batch = Batch(
        frames=rng.integers(0, 256, (*shape, STACK + 1 + row.sight.remembers, side, side, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (*shape, ACTION_DIM)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        not_done=(rng.uniform(size=shape) > 0.25).astype(np.float32),
        prior_action=rng.uniform(-1, 1, (*shape, ACTION_DIM)).astype(np.float32) * prior_ok[..., None],
        prior_ok=prior_ok,
    )
    if row.sight.remembers:
        came = rng.integers(0, 2, shape).astype(np.float32)
        previous = rng.uniform(-1, 1, (*shape, ACTION_DIM)).astype(np.float32) * came[..., None]
        batch = batch._replace(previous_action=previous, previous_ok=came)
    if row.sampler.wants_errors:
        batch = batch._replace(weight=rng.uniform(0.2, 1, shape).astype(np.float32))
    if row.sequence:
        runs = (*leading, size // 2)
        batch = batch._replace(
            sequence=Sequence(
                rng.integers(0, 256, (*runs, STACK + row.sequence - 1, side, side, 3), dtype=np.uint8),
                rng.uniform(-1, 1, (*runs, row.sequence - 1, ACTION_DIM)).astype(np.float32),
                rng.normal(size=(*runs, row.sequence - 1)).astype(np.float32),
            )
        )
    return batch
