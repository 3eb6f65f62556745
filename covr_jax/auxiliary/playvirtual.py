"""PlayVirtual (Yu et al. 2021): SPR, and latents that must come back from a walk along actions that nobody took.

From z_0 = f(o_0) M random sequences of K actions lead forward through SPR's model T; a second model B, which undoes a
step given its action, leads back. The end of that cycle is held against o_0 as SPR holds a prediction.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from covr_jax.agent import ENCODER, HeadSpec
from covr_jax.auxiliary import Auxiliary, Mover, Scene, spr
from covr_jax.config import LearnerConfig
from covr_jax.networks import ModelHead
from covr_jax.types import Metrics, Params

VIRTUAL = 10  # M, sequences of random actions a latent
RATE = 0.5  # of learner.encoder_lr and learner.decoder_lr
LARGEST_GRADIENT = 10.0  # L2 norm


def virtual_actions(key: jax.Array, count: int, action_dim: int) -> jax.Array:
    """U[-1,1], [K,M,C,A] for C latents."""
    return jax.random.uniform(key, (spr.STEPS, VIRTUAL, count, action_dim), minval=-1.0, maxval=1.0)


def cycle_weight(updates: jax.Array, warmup: int) -> jax.Array:
    """exp(-5 (1 - (n+1)/N)^2) in the first N updates, then 1."""
    left = 1.0 - (updates + 1) / warmup
    return jnp.where(updates < warmup, jnp.exp(-5.0 * left**2), 1.0)


def _heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    backward = HeadSpec(ModelHead(config.feature_dim, config.model_hidden_dim))
    return spr.heads(config) | {"backward_model": backward}


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    """K times SPR's loss, and the cycle's times its weight."""
    start = scene.agent.encode(moved, scene.views.start)
    forward = spr.forward_loss(moved, scene, start)

    actions = virtual_actions(scene.key, len(start), scene.agent.action_dim)
    away = jnp.broadcast_to(start, (VIRTUAL, *start.shape))
    away = spr.roll(moved, scene, "forward_model", away, actions)[-1]
    home = spr.roll(moved, scene, "backward_model", away, actions[::-1])[-1]
    cycle = spr.prediction_loss(spr.guess(moved, scene, home), spr.targets(scene, scene.views.again))

    weight = cycle_weight(scene.updates, scene.config.cycle_warmup)
    return spr.STEPS * forward + weight * cycle, {"prediction_loss": forward, "cycle_loss": cycle}


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    """As in the authors' code both optimisers hold the encoder, which therefore steps twice an update."""

    def clipped(rate: float) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(LARGEST_GRADIENT), optax.adam(RATE * rate))

    return {
        "encoder": Mover(clipped(config.encoder_lr), ENCODER),
        "decoder": Mover(clipped(config.decoder_lr), ENCODER + heads),
    }


PLAYVIRTUAL = Auxiliary(_heads, _loss, ("prediction_loss", "cycle_loss"), _movers, averaged=("projection",))
