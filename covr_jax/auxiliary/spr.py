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
_SMALLEST_NORM = 1e-3  # shorter vectors are not stretched to unit length, as in the authors' code


class Projection(nn.Module):
    """Latent [...,F] -> [...,F]: linear, ReLU, linear.

    Starts as torch's layers do, or with weights N(0, ``spread``^2) and no bias.
    """

    spread: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def dense(inputs: int, outputs: int, name: str) -> nn.Module:
            if self.spread is not None:
                return nn.Dense(outputs, kernel_init=nn.initializers.normal(self.spread), name=name)
            init = torch_uniform(inputs)
            return nn.Dense(outputs, kernel_init=init, bias_init=init, name=name)

        width = x.shape[-1]
        return dense(HIDDEN, width, "linear_1")(nn.relu(dense(width, HIDDEN, "linear_0")(x)))


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _SMALLEST_NORM**2))


def prediction_loss(predicted: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over all but the last axis of |p/|p| - t/|t||^2 = 2 - 2 cos(p, t); arrays [...,F], no gradient into t."""
    chex.assert_equal_shape([predicted, target])
    return jnp.mean(jnp.sum((_unit(predicted) - _unit(jax.lax.stop_gradient(target))) ** 2, axis=-1))


def heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    return {
        "forward_model": HeadSpec(ModelHead(config.feature_dim, config.model_hidden_dim)),
        "projection": HeadSpec(Projection(), ("latent",)),
        "prediction": HeadSpec(Projection(), ("latent",)),
    }


def targets(scene: Scene, views: jax.Array) -> jax.Array:
    """g'(f'(o)) of views [N,C,v,v,3S]: [N,C,F]."""
    copies = scene.params | scene.target
    latents = scene.agent.encode(copies, views.reshape(-1, *views.shape[2:]))
    return scene.agent.predict(copies, "projection", latents).reshape(*views.shape[:2], -1)


def guess(moved: Params, scene: Scene, latent: jax.Array) -> jax.Array:
    """q(g(z)), [...,F] of latents [...,F]."""
    return scene.agent.predict(moved, "prediction", scene.agent.predict(moved, "projection", latent))


def roll(moved: Params, scene: Scene, model: str, latent: jax.Array, actions: jax.Array) -> jax.Array:
    """Latents [K,...,F] after each of the actions [K,...,A], one after the other through ``model``."""

    def step(z: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        z = scene.agent.predict(moved, model, z, action)
        return z, z

    return jax.lax.scan(step, latent, actions)[1]


def forward_loss(moved: Params, scene: Scene, latent: jax.Array) -> jax.Array:
    """The mean over K steps from the latents [C,F] of the first observations, along the actions that were taken."""
    ahead = roll(moved, scene, "forward_model", latent, jnp.moveaxis(scene.batch.sequence.action, 1, 0))
    return prediction_loss(guess(moved, scene, ahead), targets(scene, scene.views.later))


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    value = forward_loss(moved, scene, scene.agent.encode(moved, scene.views.start))
    return value, {"prediction_loss": value}


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    return {
        "encoder": Mover(optax.adam(ENCODER_RATE * config.encoder_lr), ENCODER),
        "decoder": Mover(optax.adam(config.decoder_lr), heads),
    }


SPR = Auxiliary(heads, _loss, ("prediction_loss",), _movers, averaged=("projection",))
