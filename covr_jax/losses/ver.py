"""VLM-guided entropy regularization (ERPv, Eq. 5-7, 12-14): where policy and VLM agree, exploration may cool down.

float32 arrays; B batch, F latent width, A action dimensions. alpha is SAC's temperature.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

RULES = ("intended", "literal", "affine")
SMALLEST_DISTANCE = 1e-3
LARGEST_CONFIDENCE = 20.0


def latent_distance(vlm_next: jax.Array, next_latent: jax.Array) -> jax.Array:
    """[B], mean over F of (vlm_next - next_latent)^2 / 2, without gradient (ERPv, Eq. 5, 14).

    vlm_next is the transition model's latent after the VLM's action, next_latent the encoder's of the real o' (or the
    model's after the agent's action, E7). Eq. 12-14 print a Gaussian model and factor 1; the paper's own figure shows
    a deterministic one (E3), and the half is that of the code it builds on (E4). Its temperatures fit the mean over F,
    not the sum (E6).
    """
    chex.assert_rank([vlm_next, next_latent], 2)
    chex.assert_equal_shape([vlm_next, next_latent])
    return jax.lax.stop_gradient(jnp.mean(0.5 * (vlm_next - next_latent) ** 2, axis=-1))


def action_distance(prior_action: jax.Array, action: jax.Array) -> jax.Array:
    """[B], mean over A of (a_v - a_r)^2, without gradient: the ablation without a transition model (M4, E24)."""
    chex.assert_rank([prior_action, action], 2)
    chex.assert_equal_shape([prior_action, action])
    return jax.lax.stop_gradient(jnp.mean((prior_action - action) ** 2, axis=-1))


def confidence(distance: jax.Array) -> jax.Array:
    """G = 1 / distance [B], the distance at least 1e-3, G at most 20 (ERPv, Eq. 6; the bounds are ours, E5)."""
    return jnp.minimum(1.0 / jnp.maximum(distance, SMALLEST_DISTANCE), LARGEST_CONFIDENCE)


def alpha_target(
    distance: jax.Array,
    rule: str = "intended",
    low: float = 0.0,
    high: float = 1.0,
    slope: float = 1.0,
    centre: float = 0.0,
) -> jax.Array:
    """alpha-bar = Sigmoid(G) [B] for distances [B] >= 0 (ERPv, text before Eq. 7).

    ``literal`` is as printed, in [1/2, 1): agreement would raise the temperature. Prose, figures and the
    reported temperatures need the opposite, ``intended``: sigmoid(-G) in (0, 1/2] (E1, E2). ``affine``, for the
    "parameter adjustment" that the text mentions: low + (high - low) sigmoid(-slope (G - centre)).
    """
    certain = confidence(distance)
    if rule == "intended":
        return jax.nn.sigmoid(-certain)
    if rule == "literal":
        return jax.nn.sigmoid(certain)
    if rule == "affine":
        return low + (high - low) * jax.nn.sigmoid(-slope * (certain - centre))
    raise ValueError(f"ver.rule {rule!r} is unknown; allowed: {', '.join(RULES)}")


def penalty(alpha: jax.Array, target: jax.Array, prior_ok: jax.Array, weight: float) -> jax.Array:
    """weight * mean of (alpha - target_i)^2 over the samples i that have a label, zero without any (ERPv, Eq. 7; E10).

    alpha float32 [], with gradient; target float32 [B], without; prior_ok float32 [B].
    """
    chex.assert_rank([alpha, target, prior_ok], [0, 1, 1])
    chex.assert_equal_shape([target, prior_ok])
    squared = (alpha - jax.lax.stop_gradient(target)) ** 2
    return weight * jnp.sum(prior_ok * squared) / jnp.maximum(jnp.sum(prior_ok), 1.0)
