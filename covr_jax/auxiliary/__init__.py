"""Losses that train the encoder beside the critic: one file a method, each with its loss, its heads and its optimisers.

Every auxiliary loss has Adam moments of its own over the shared encoder, as in all reference implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import optax

from covr_jax.agent import ENCODER, Agent, HeadSpec
from covr_jax.augment import Views
from covr_jax.config import LearnerConfig
from covr_jax.types import Batch, Metrics, Params


class Scene(NamedTuple):
    """What an auxiliary loss may look at besides the parameters that it moves; no gradient flows into these."""

    agent: Agent
    params: Params  # online
    target: Params  # EMA copies: the critic's, and the heads in ``Auxiliary.averaged``
    batch: Batch
    views: Views
    config: LearnerConfig
    updates: jax.Array  # int32 [], done before this one
    key: jax.Array  # of this update, for draws that are no views


class Mover(NamedTuple):
    """An optimiser and the parts that it moves."""

    optimiser: optax.GradientTransformation
    parts: tuple[str, ...]


def two_adams(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    """DeepMDP's: one Adam for the encoder, one with weight decay for the heads."""
    decay = optax.add_decayed_weights(config.decoder_weight_decay)
    return {
        "encoder": Mover(optax.adam(config.encoder_lr), ENCODER),
        "decoder": Mover(optax.chain(decay, optax.adam(config.decoder_lr)), heads),
    }


@dataclass(frozen=True)
class Auxiliary:
    """``loss`` gets the encoder's and the heads' parameters and a ``Scene``: scalar and metrics.

    ``movers`` (from the configuration and the heads' names) step one after the other on the one gradient.
    """

    heads: Callable[[LearnerConfig], dict[str, HeadSpec]]
    loss: Callable[[Params, Scene], tuple[jax.Array, Metrics]]
    metrics: tuple[str, ...]
    movers: Callable[[LearnerConfig, tuple[str, ...]], dict[str, Mover]] = two_adams
    averaged: tuple[str, ...] = ()  # heads with EMA copies, which follow as the encoder's do
    last: bool = False  # after the EMA step, and not before the actor's
