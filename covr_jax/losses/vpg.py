"""Value-aware policy guidance (ERPv, Eq. 3-4): the VLM is followed only where a second critic values its action higher.

float32 arrays; B batch. q_rl is the online twin critic's smaller value of the policy's own action, q_vlm the smaller
value that a frozen second critic C_V gives to the VLM's action in the same view, both in reward units.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

SCALES = ("joint", "separate", "none")
_SMALLEST_RANGE = 1e-8


def _to_unit(values: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return (values - low) / jnp.maximum(high - low, _SMALLEST_RANGE)


def gate(
    q_rl: jax.Array, q_vlm: jax.Array, scale: str = "joint", prior_ok: jax.Array | None = None
) -> jax.Array:
    """Q_f [B] >= 0, without gradient: max(0, S(q_vlm) - S(q_rl)) a sample (ERPv, steps 3 and 4 of VPG).

    S maps to [0,1] by minimum and maximum over the batch. The paper passes both "through Scale Functions" without
    saying over what (E12): ``joint`` takes the range of both together, so that the gate opens exactly where the VLM's
    value is the higher one; ``separate`` gives each its own range, and then opens for a third of the samples even if
    the VLM is worse in all of them; ``none`` leaves the values in reward units. Samples without a label (prior_ok 0)
    take no part in the ranges and get 0. Eq. 3 prints Q_f outside of the mean; a value a sample is meant (E13).
    """
    chex.assert_rank([q_rl, q_vlm], 1)
    chex.assert_equal_shape([q_rl, q_vlm])
    if scale not in SCALES:
        raise ValueError(f"vpg.scale {scale!r} is unknown; allowed: {', '.join(SCALES)}")
    q_rl, q_vlm = jax.lax.stop_gradient((q_rl, q_vlm))
    labelled = jnp.ones_like(q_rl, bool) if prior_ok is None else prior_ok > 0
    if scale != "none":
        low = [jnp.min(q, where=labelled, initial=jnp.inf) for q in (q_rl, q_vlm)]
        high = [jnp.max(q, where=labelled, initial=-jnp.inf) for q in (q_rl, q_vlm)]
        if scale == "joint":
            low, high = [jnp.minimum(*low)] * 2, [jnp.maximum(*high)] * 2
        q_rl, q_vlm = _to_unit(q_rl, low[0], high[0]), _to_unit(q_vlm, low[1], high[1])
    return jnp.where(labelled, jnp.maximum(q_vlm - q_rl, 0.0), 0.0)


def calibrated(q: jax.Array, measured: jax.Array, wanted: jax.Array) -> jax.Array:
    """Maps q [B] by the line that takes ``measured`` [B] nearest to ``wanted`` [B] (least squares); no gradient.

    C_V is trained on another policy's data, and the gate compares absolute values (E16): with C_V's and the online
    critic's values of the replayed actions as measured and wanted, this puts both on one scale. The slope is at least
    0; it is 0 where ``measured`` does not vary.
    """
    chex.assert_rank([q, measured, wanted], 1)
    chex.assert_equal_shape([q, measured, wanted])
    q, measured, wanted = jax.lax.stop_gradient((q, measured, wanted))
    centred = measured - jnp.mean(measured)
    spread = jnp.maximum(jnp.mean(centred**2), _SMALLEST_RANGE)
    slope = jnp.maximum(jnp.mean(centred * (wanted - jnp.mean(wanted))) / spread, 0.0)
    return jnp.mean(wanted) + slope * (q - jnp.mean(measured))


def anchored(q: jax.Array, measured: jax.Array, wanted: jax.Array) -> jax.Array:
    """C_V's advantage [B] of an action over the replayed one, on top of the online critic's value of the latter.

    q, measured: C_V's values of the action and of the replayed action; wanted: the online critic's of the latter. Ours
    (E16): what the critics think of a *state* cancels, sample by sample, and only what C_V thinks of the *action* is
    left. Two critics that were fitted to different data differ far more about states than any action is worth. No
    gradient.
    """
    chex.assert_rank([q, measured, wanted], 1)
    chex.assert_equal_shape([q, measured, wanted])
    return jax.lax.stop_gradient(wanted + q - measured)
