"""THE table: what each base learner and each method is made of. The learner composes rows; it knows no name.

A new method is one loss file and one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax

from covr_jax.config import LearnerConfig
from covr_jax.losses import deepmdp, guidance
from covr_jax.networks import ModelHead
from covr_jax.types import Batch


@dataclass(frozen=True)
class Auxiliary:
    """A loss that trains the encoder beside the critic, with Adam moments of its own, on heads of its own."""

    heads: Callable[[LearnerConfig], dict[str, nn.Module]]  # name -> module (latent, action) -> [B,width]
    # {head: prediction}, next latent [B,F], reward [B] -> {metric: scalar}; the loss is their sum
    losses: Callable[[dict[str, jax.Array], jax.Array, jax.Array], dict[str, jax.Array]]
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Base:
    """A learner without any VLM."""

    augmentations: tuple[str, ...]  # names in augment; the first is the default
    auxiliary: Auxiliary | None = None


class PolicySample(NamedTuple):
    """What an actor term may pull on; gradients flow into the actor."""

    action: jax.Array  # float32 [B,A], the reparameterised sample of the actor loss
    mean_action: jax.Array  # float32 [B,A], tanh of the Gaussian's mean
    log_prob: jax.Array  # float32 [B], nats


ActorTerm = Callable[[PolicySample, Batch, LearnerConfig], jax.Array]


@dataclass(frozen=True)
class Method:
    """What a VLM adds to a base. Terms are on only in batches that hold a label: without one, a method is its base."""

    actor_terms: tuple[ActorTerm, ...] = ()
    asks_prior: bool = False  # labels transitions with the VLM's actions
    tunes_prior: bool = False  # COVR's rounds


def _model_heads(config: LearnerConfig) -> dict[str, nn.Module]:
    return {
        "transition": ModelHead(config.feature_dim, config.model_hidden_dim),
        "reward": ModelHead(1, config.model_hidden_dim),
    }


def _model_losses(
    predictions: dict[str, jax.Array], next_latent: jax.Array, reward: jax.Array
) -> dict[str, jax.Array]:
    return {
        "transition_loss": deepmdp.transition_loss(predictions["transition"], next_latent),
        "reward_loss": deepmdp.reward_loss(predictions["reward"][:, 0], reward),
    }


def _guidance_term(policy: PolicySample, batch: Batch, config: LearnerConfig) -> jax.Array:
    pulled = {"sample": policy.action, "mean": policy.mean_action}[config.guidance.action]
    return guidance.loss(
        pulled, batch.prior_action, batch.prior_ok, config.guidance.weight, config.guidance.reduction
    )


BASES: dict[str, Base] = {
    "sac": Base(augmentations=("none",)),
    "rad": Base(augmentations=("translate", "crop")),
    "deepmdp": Base(
        augmentations=("none",),
        auxiliary=Auxiliary(_model_heads, _model_losses, ("transition_loss", "reward_loss")),
    ),
}

METHODS: dict[str, Method] = {
    "none": Method(),
    "dpl": Method(actor_terms=(_guidance_term,), asks_prior=True),
    "covr": Method(actor_terms=(_guidance_term,), asks_prior=True, tunes_prior=True),
}


def row(table: dict, kind: str, name: str):
    """The row of that name; ValueError that lists the table where there is none."""
    if name not in table:
        raise ValueError(f"{kind} {name!r} is unknown; allowed: {', '.join(table)}")
    return table[name]
