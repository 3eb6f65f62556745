"""SPR (Schwarzer et al. 2021) on continuous control: predict one's own latents K steps ahead, given the actions.

C sequences of K + 1 observations: z_0 = f(o_0), z_k = T(z_(k-1), a_(k-1)). The prediction q(g(z_k)) is held against
g'(f'(o_k)), where f' and g' are EMA copies; every observation under a view of its own.
"""

from __future__ import annotations

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from covr_jax.agent import ENCODER, HeadSpec
from covr_jax.auxiliary import Auxiliary, Mover, Scene
from covr_jax.config import LearnerConfig
from covr_jax.networks import ModelHead, torch_uniform
from covr_jax.types import Metrics, Params

STEPS = 6  # K
HIDDEN = 100
ENCODER_RATE = 2.0  # of learner.encoder_lr, as in the DeepMind Control port
_SMALLEST_NORM = 1e-12


class Projection(nn.Module):
    """Latent [N,F] -> [N,F]: linear, ReLU, linear; torch's init."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        first, second = torch_uniform(width), torch_uniform(HIDDEN)
        x = nn.relu(nn.Dense(HIDDEN, kernel_init=first, bias_init=first, name="linear_0")(x))
        return nn.Dense(width, kernel_init=second, bias_init=second, name="linear_1")(x)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _SMALLEST_NORM**2))


def prediction_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over all but the last axis of |p/|p| - t/|t||^2 = 2 - 2 cos(p, t); arrays [...,F], no gradient into t."""
    chex.assert_equal_shape([predicted, target])
    return jnp.mean(jnp.sum((_unit(predicted) - _unit(jax.lax.stop_gradient(target))) ** 2, axis=-1))


def _heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    return {
        "forward_model": HeadSpec(ModelHead(config.feature_dim, config.model_hidden_dim)),
        "projection": HeadSpec(Projection(), ("latent",)),
        "prediction": HeadSpec(Projection(), ("latent",)),
    }


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    agent, views = scene.agent, scene.views
    steps, count = views.later.shape[:2]
    copies = scene.params | scene.target
    latents = agent.encode(copies, views.later.reshape(steps * count, *views.later.shape[2:]))
    targets = agent.predict(copies, "projection", latents)

    latent, predicted = agent.encode(moved, views.start), []
    for k in range(steps):
        latent = agent.predict(moved, "forward_model", latent, scene.batch.sequence.action[:, k])
        predicted.append(agent.predict(moved, "prediction", agent.predict(moved, "projection", latent)))
    value = prediction_loss(jnp.concatenate(predicted), targets)
    return value, {"prediction_loss": value}


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    return {
        "encoder": Mover(optax.adam(ENCODER_RATE * config.encoder_lr), ENCODER),
        "decoder": Mover(optax.adam(config.decoder_lr), heads),
    }


SPR = Auxiliary(_heads, _loss, ("prediction_loss",), _movers, averaged=("projection",))
