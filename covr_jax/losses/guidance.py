"""Guidance of the actor by the VLM's action (COVR, Eq. 4; ERPv, Eq. 3)."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from covr_jax.config import GuidanceConfig

REDUCTIONS = {"sum": jnp.sum, "mean": jnp.mean}
ACTIONS = ("sample", "mean")


def check(config: GuidanceConfig) -> None:
    """ValueError that names what is allowed, for a switch that does not exist."""
    if config.action not in ACTIONS:
        raise ValueError(f"guidance.action {config.action!r} is unknown; allowed: {', '.join(ACTIONS)}")
    if config.reduction not in REDUCTIONS:
        raise ValueError(f"guidance.reduction {config.reduction!r} is unknown; allowed: {', '.join(REDUCTIONS)}")
    if config.every < 1:
        raise ValueError(f"guidance.every {config.every} is not allowed; it counts actor updates, at least 1")


def annealed(updates: jax.Array, phase: int) -> jax.Array:
    """Share of the weight left after int32 [] updates, float32 []: annealed guidance (COVR's APL, ERPv's ASF).

    Both papers cite LLM4Teach, whose coefficient falls linearly from 10 to 0.1 in 1980 of 3000 iterations, stays there,
    and is 0 from 3000 on: here from 1 to 0.01 at 66 % of ``phase`` updates, and 0 from its end on.
    """
    progress = updates / phase
    return jnp.where(progress < 1.0, jnp.maximum(1.0 - 0.99 * progress / 0.66, 0.01), 0.0)


def loss(
    action: jax.Array,
    prior_action: jax.Array,
    prior_ok: jax.Array,
    weight: float | jax.Array,
    reduction: str = "sum",
    gate: jax.Array | None = None,
) -> jax.Array:
    """weight * mean of gate_i |a_v,i - a_i|^2 over the samples i that have a label (COVR, Eq. 4: gate 1; ERPv, Eq. 3).

    action, prior_action float32 [B,A] in [-1,1]; prior_ok and gate (``vpg.gate``; None: ones) float32 [B]. Eq. 4 is
    printed for one sample and speaks of no missing labels: the mean is over those there are (none: zero), so that the
    pull on a labelled sample does not fade with the share of labels. COVR writes a squared norm (reduction "sum" over
    action dimensions); ERPv has no norm ("mean"), see (S4). Which a is meant is open (S3): a stored action would have
    no gradient, so a is the policy's own sample, or its mean action.
    """
    chex.assert_rank([action, prior_action, prior_ok], [2, 2, 1])
    chex.assert_equal_shape([action, prior_action])
    distance = REDUCTIONS[reduction]((jax.lax.stop_gradient(prior_action) - action) ** 2, axis=-1)
    if gate is not None:
        chex.assert_equal_shape([gate, prior_ok])
        distance = jax.lax.stop_gradient(gate) * distance
    return weight * jnp.sum(prior_ok * distance) / jnp.maximum(jnp.sum(prior_ok), 1.0)
