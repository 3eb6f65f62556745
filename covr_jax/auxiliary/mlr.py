"""MLR (Yu et al. 2022): the latents of masked pictures, put right by a transformer that also reads the actions.

C sequences of T observations with squares hidden: x_t = f(masked o_t). The tokens x_0, a_0, x_1, ..., x_(T-1) pass a
transformer; its output at each x_t, through g and q, is held against g'(f'(o_t)) of the whole picture, as in SPR.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from covr_jax.agent import ENCODER, HeadSpec
from covr_jax.auxiliary import Auxiliary, Mover, Scene, spr
from covr_jax.config import LearnerConfig
from covr_jax.networks import LAYER_NORM_EPSILON
from covr_jax.types import Metrics, Params

OBSERVATIONS = 16  # T
LAYERS = 2
SPREAD = 0.02  # standard deviation of the first weights
RATE = 0.5  # of learner.encoder_lr
WARMUP = 6000  # updates until the rate is reached
FIRST_SHARE = 5e-4  # of the rate, in the first update
LARGEST_GRADIENT = 10.0  # L2 norm


def positions(count: int, width: int) -> jax.Array:
    """Sinusoidal embedding float32 [count,width]: sines in the even columns, cosines in the odd ones."""
    frequency = 10_000.0 ** (-jnp.arange(0, width, 2) / width)
    angle = jnp.arange(count)[:, None] * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(count, -1)[:, :width]


def learning_rate(rate: float) -> optax.Schedule:
    """Linear from almost 0 to ``rate`` within WARMUP updates, then down as one over the root of their number."""

    def share(count: jax.Array) -> jax.Array:
        rising = FIRST_SHARE + (1.0 - FIRST_SHARE) * count / WARMUP
        return jnp.where(count < WARMUP, rising, jnp.sqrt(WARMUP / jnp.maximum(count, 1)))

    return lambda count: rate * share(count)


def _dense(width: int, name: str, bias: bool = True) -> nn.Module:
    return nn.Dense(width, use_bias=bias, kernel_init=nn.initializers.normal(SPREAD), name=name)


class Block(nn.Module):
    """Tokens [...,N,F] -> the same: attention of one head over all tokens, then an MLP; each after a LayerNorm."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]

        def normed(name: str, tokens: jax.Array) -> jax.Array:
            return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, name=name)(tokens)

        query, key, value = jnp.split(_dense(3 * width, "qkv", bias=False)(normed("norm_0", x)), 3, axis=-1)
        attention = jax.nn.softmax(query @ jnp.swapaxes(key, -1, -2) * width**-0.5, axis=-1)
        x = x + _dense(width, "output")(attention @ value)
        hidden = jax.nn.gelu(_dense(2 * width, "mlp_0")(normed("norm_1", x)), approximate=False)
        return x + _dense(width, "mlp_1")(hidden)


class Reconstruction(nn.Module):
    """Latents [...,T,F] and the actions between them, [...,T-1,A] (with T = 1 also [...,1,A]) -> latents [...,T,F]."""

    @nn.compact
    def __call__(self, latents: jax.Array, actions: jax.Array) -> jax.Array:
        count, width = latents.shape[-2:]
        place = positions(count, width)
        taken = _dense(width, "action")(actions)[..., : count - 1, :] + place[: count - 1]
        first, rest = latents[..., :1, :] + place[:1], latents[..., 1:, :] + place[1:]
        pairs = jnp.stack([taken, rest], axis=-2).reshape(*latents.shape[:-2], 2 * (count - 1), width)
        tokens = jnp.concatenate([first, pairs], axis=-2)
        for i in range(LAYERS):
            tokens = Block(name=f"block_{i}")(tokens)
        return tokens[..., ::2, :]


def _heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    return {
        "reconstruction": HeadSpec(Reconstruction()),
        "projection": HeadSpec(spr.Projection(SPREAD), ("latent",)),
        "prediction": HeadSpec(spr.Projection(SPREAD), ("latent",)),
    }


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    masked = scene.views.masked
    latents = scene.agent.encode(moved, masked.reshape(-1, *masked.shape[2:])).reshape(*masked.shape[:2], -1)
    latents = jnp.moveaxis(latents, 1, 0)  # [C,T,F]
    found = scene.agent.predict(moved, "reconstruction", latents, scene.batch.sequence.action)
    whole = jnp.moveaxis(spr.targets(scene, scene.views.later), 1, 0)
    value = spr.prediction_loss(spr.guess(moved, scene, found), whole)
    return value, {"reconstruction_loss": value}


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    adam = optax.adam(learning_rate(RATE * config.encoder_lr))
    return {"encoder": Mover(optax.chain(optax.clip_by_global_norm(LARGEST_GRADIENT), adam), ENCODER + heads)}


MLR = Auxiliary(_heads, _loss, ("reconstruction_loss",), _movers, averaged=("projection",))
