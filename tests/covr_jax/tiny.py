"""Configurations and random batches small enough for tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from covr_jax.config import LearnerConfig
from covr_jax.learner import Learner
from covr_jax.types import Batch

BASES = ("sac", "rad", "deepmdp")
RENDER = {"sac": 20, "rad": 24, "deepmdp": 20}
AUGMENTATION = {"sac": "none", "rad": "crop", "deepmdp": "none"}
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
    """Random transitions [*leading, size]; a quarter are terminal, half hold a label."""
    rng = np.random.default_rng(seed)
    shape, side = (*leading, size), RENDER[base]
    prior_ok = rng.integers(0, 2, shape).astype(np.float32)
    return Batch(
        frames=rng.integers(0, 256, (*shape, STACK + 1, side, side, 3), dtype=np.uint8),
        action=rng.uniform(-1, 1, (*shape, ACTION_DIM)).astype(np.float32),
        reward=rng.normal(size=shape).astype(np.float32),
        not_done=(rng.uniform(size=shape) > 0.25).astype(np.float32),
        prior_action=rng.uniform(-1, 1, (*shape, ACTION_DIM)).astype(np.float32) * prior_ok[..., None],
        prior_ok=prior_ok,
    )
