"""DeepMDP's latent dynamics losses (Gelada et al. 2019), in the deterministic form that pixel SAC agents use.

Both heads read the latent and the action of the same step; weights are 1 and 1, every update; terminals are not
masked. float32; B batch, F latent width.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def transition_loss(predicted: jax.Array, next_latent: jax.Array) -> jax.Array:
    """Negative Gaussian log-likelihood at sigma 1, constant dropped: mean over [B,F] of (predicted - h')^2 / 2.

    h' is the online encoder's latent of o', without gradient.
    """
    chex.assert_rank([predicted, next_latent], 2)
    chex.assert_equal_shape([predicted, next_latent])
    return jnp.mean(0.5 * (predicted - jax.lax.stop_gradient(next_latent)) ** 2)


def reward_loss(predicted: jax.Array, reward: jax.Array) -> jax.Array:
    """Mean squared error [B] to the reward of the decision (summed over its repeated frames)."""
    chex.assert_rank([predicted, reward], 1)
    chex.assert_equal_shape([predicted, reward])
    return jnp.mean((predicted - reward) ** 2)
