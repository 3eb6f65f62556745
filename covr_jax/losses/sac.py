"""Soft actor-critic's losses on arrays (Haarnoja et al. 2018; constants as in RAD). COVR, Eq. 1-3.

The papers print one critic; two critics and the smaller value of both, as everywhere in this lineage, are meant (S12).
All arrays are float32; B batch, A action dimensions; log-probabilities in nats, joint over the A dimensions.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

_LOG_2PI = 1.8378770664093453
_SQUASH_EPSILON = 1e-6


def bounded_log_std(raw: jax.Array, low: float, high: float) -> jax.Array:
    """Maps the network's raw output [B,A] smoothly into [low, high]: low + (high - low)/2 (tanh(raw) + 1)."""
    return low + 0.5 * (high - low) * (jnp.tanh(raw) + 1.0)


def tanh_gaussian(mean: jax.Array, log_std: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reparameterised sample a = tanh(mean + exp(log_std) noise) [B,A] and its log-density [B].

    The change of variables subtracts log(max(1 - a^2, 0) + 1e-6) a dimension; the 1e-6 keeps it finite where tanh
    saturates. Noise is standard normal [B,A].
    """
    chex.assert_rank([mean, log_std, noise], 2)
    chex.assert_equal_shape([mean, log_std, noise])
    action = jnp.tanh(mean + jnp.exp(log_std) * noise)
    gaussian = -0.5 * noise**2 - log_std - 0.5 * _LOG_2PI
    squash = jnp.log(jax.nn.relu(1.0 - action**2) + _SQUASH_EPSILON)
    return action, jnp.sum(gaussian - squash, axis=-1)


def td_target(
    reward: jax.Array,
    not_done: jax.Array,
    next_q1: jax.Array,
    next_q2: jax.Array,
    next_log_prob: jax.Array,
    alpha: jax.Array,
    discount: float,
) -> jax.Array:
    """y = r + discount * not_done * (min(Q1', Q2') - alpha log pi(a'|o')) [B], without gradient (COVR, Eq. 3).

    a' comes from the online actor; Q1', Q2' from the EMA copies. not_done is 1 at a time limit.
    """
    chex.assert_rank([reward, not_done, next_q1, next_q2, next_log_prob], 1)
    chex.assert_equal_shape([reward, not_done, next_q1, next_q2, next_log_prob])
    soft_value = jnp.minimum(next_q1, next_q2) - alpha * next_log_prob
    return jax.lax.stop_gradient(reward + discount * not_done * soft_value)


def critic_loss(q1: jax.Array, q2: jax.Array, target: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Sum over the two critics of the mean squared error to the target [B] (COVR, Eq. 2; S12).

    ``weight`` [B] multiplies each transition's error (PER's importance weights); None: ones.
    """
    chex.assert_rank([q1, q2, target], 1)
    chex.assert_equal_shape([q1, q2, target])
    if weight is None:
        return jnp.mean((q1 - target) ** 2) + jnp.mean((q2 - target) ** 2)
    chex.assert_equal_shape([q1, weight])
    return jnp.mean(weight * (q1 - target) ** 2) + jnp.mean(weight * (q2 - target) ** 2)


def actor_loss(log_prob: jax.Array, q1: jax.Array, q2: jax.Array, alpha: jax.Array) -> jax.Array:
    """mean(alpha log pi(a|o) - min(Q1, Q2)) over the batch, alpha without gradient (COVR, Eq. 1)."""
    chex.assert_rank([log_prob, q1, q2], 1)
    chex.assert_equal_shape([log_prob, q1, q2])
    return jnp.mean(jax.lax.stop_gradient(alpha) * log_prob - jnp.minimum(q1, q2))


def alpha_loss(log_alpha: jax.Array, log_prob: jax.Array, target_entropy: float) -> jax.Array:
    """mean(alpha * (-log pi - target_entropy)), gradient through alpha = exp(log_alpha) alone."""
    chex.assert_rank([log_alpha, log_prob], [0, 1])
    return jnp.mean(jnp.exp(log_alpha) * jax.lax.stop_gradient(-log_prob - target_entropy))
