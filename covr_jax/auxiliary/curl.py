"""CURL (Laskin et al. 2020): a crop must be told from those of other transitions by its own second crop."""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from covr_jax.agent import ENCODER, HeadSpec
from covr_jax.auxiliary import Auxiliary, Mover, Scene
from covr_jax.config import LearnerConfig
from covr_jax.types import Metrics, Params


def info_nce(logits: jax.Array) -> jax.Array:
    """Mean cross-entropy of rows [B,B] whose right answer is the diagonal, in nats."""
    chex.assert_rank(logits, 2)
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=-1)))


class Bilinear(nn.Module):
    """Similarities z W z+^T of latents [B,F], [B,F] -> [B,B]; W starts U(0,1)."""

    @nn.compact
    def __call__(self, anchor: jax.Array, positive: jax.Array) -> jax.Array:
        width = anchor.shape[-1]
        return anchor @ self.param("weight", nn.initializers.uniform(1.0), (width, width)) @ positive.T


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    agent, views = scene.agent, scene.views
    positive = jax.lax.stop_gradient(agent.encode(scene.params | scene.target, views.positive))
    value = info_nce(agent.predict(moved, "contrast", agent.encode(moved, views.o), positive))
    return value, {"contrast_loss": value}


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    """As in the authors' code both optimisers hold the encoder, which therefore steps twice an update."""
    return {
        "encoder": Mover(optax.adam(config.encoder_lr), ENCODER),
        "decoder": Mover(optax.adam(config.decoder_lr), ENCODER + heads),
    }


CURL = Auxiliary(
    heads=lambda config: {"contrast": HeadSpec(Bilinear(), ("latent", "latent"))},
    loss=_loss,
    metrics=("contrast_loss",),
    movers=_movers,
    last=True,
)
