"""The least work of an update against XLA's own count of ours: what is above it is work done twice."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from covr_jax.config import LearnerConfig
from covr_jax.learner import Learner
from covr_jax.types import Batch
from experiments import update_work
from experiments.bench import least_work

SETTINGS = {"rad": {"augmentation": "crop", "image_size": 84}, "deepmdp": {"augmentation": "none", "image_size": 84}}


def counted(config: LearnerConfig, render_size: int) -> float:
    """GFLOP of an update as XLA counts the program before its optimisations; nothing is compiled."""
    learner, size = Learner(config, 1, 3), config.batch_size
    scalars, actions = jax.ShapeDtypeStruct((size,), jnp.float32), jax.ShapeDtypeStruct((size, 1), jnp.float32)
    frames = jax.ShapeDtypeStruct((size, 4, render_size, render_size, 3), jnp.uint8)
    batch = Batch(frames, actions, scalars, scalars, actions, scalars)
    return update_work.flops(learner, learner.shapes(), batch) / 1e9


@pytest.mark.parametrize("base", SETTINGS)
def test_an_update_does_little_more_than_the_least(base):
    config = LearnerConfig(base=base, method="none", **SETTINGS[base])
    least = least_work.gflop(config, 1, 3)
    assert least < counted(config, 100 if base == "rad" else 84) < 1.01 * least


def test_layers_by_hand():
    """RAD's: 84 pixels become 41, 39, 37, 35."""
    one = least_work.layers(LearnerConfig(image_size=84), 1, 3)
    assert one.first_conv == 2 * 41 * 41 * 9 * 9 * 32
    assert one.conv == one.first_conv + 2 * 9 * 32 * 32 * (39 * 39 + 37 * 37 + 35 * 35)
    assert one.head == 2 * 35 * 35 * 32 * 50
    assert one.actor == 2 * (50 * 1024 + 1024 * 1024 + 1024 * 2)
    assert one.critics == 2 * 2 * (51 * 1024 + 1024 * 1024 + 1024)
    assert one.models == 2 * (2 * 51 * 512 + 512 * 50 + 512)


def test_what_was_not_worked_out_is_not_a_number():
    assert math.isnan(least_work.gflop(LearnerConfig(base="spr", image_size=84), 1, 3))
