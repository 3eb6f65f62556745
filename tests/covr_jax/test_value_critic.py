"""C_V's fit: known values of small pixel chains, and what must not count.

Ledger rows held here (docs/fidelity.md): E18.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax import augment
from covr_jax.agent import Agent
from covr_jax.types import Batch
from covr_jax.value_critic import ValueCriticFit
from tests.covr_jax import tiny

GAMMA = 0.5


def fitting(target="sarsa", actor=None, **changes):
    config = tiny.config("sac", discount=GAMMA, critic_tau=0.2, encoder_tau=0.2, **changes)
    return ValueCriticFit(config, tiny.ACTION_DIM, tiny.STACK, target, actor)


def chain(rng, size=64):
    """Two pictures, dark then light, then over. The dark one pays the action's sign, the light one four times that; the
    behaviour takes the same action twice."""
    dark = rng.integers(0, 2, size).astype(bool)
    sign = rng.choice([-1.0, 1.0], size).astype(np.float32)
    frames = np.zeros((size, tiny.STACK + 1, 20, 20, 3), np.uint8)
    frames[dark, -1] = 200
    frames[~dark] = 200
    action = np.stack([sign, rng.uniform(-1, 1, size)], 1).astype(np.float32)
    return Batch(
        frames=frames,
        action=action,
        reward=np.where(dark, sign, 4 * sign).astype(np.float32),
        not_done=dark.astype(np.float32),
        prior_action=np.where(dark[:, None], action, 0).astype(np.float32),
        prior_ok=dark.astype(np.float32),
    ), dark


def fitted(fit, updates=300):
    rng, state = np.random.default_rng(0), fit.init(0)
    for _ in range(updates):
        state, metrics = fit.update(state, chain(rng)[0])
    return state, metrics


def values(state, batch):
    agent = Agent(tiny.config("sac"), tiny.ACTION_DIM, tiny.STACK, {})
    features = agent.features(state.params, augment.stacked(batch.frames[:, :3]))
    return np.asarray(agent.value(state.params, features, batch.action))


def test_sarsa_values_the_behaviour_of_the_data():
    fit = fitting()
    state, metrics = fitted(fit)
    batch, dark = chain(np.random.default_rng(1))
    sign = batch.action[:, 0]
    # Light: 4 sign, terminal. Dark: sign + 0.5 * 4 sign, for the next action follows this one.
    want = np.where(dark, sign * (1 + GAMMA * 4), 4 * sign)
    np.testing.assert_allclose(values(state, batch), want, atol=0.5)
    assert float(metrics["td_loss"]) < 0.5


def test_transitions_without_a_next_action_count_for_nothing():
    fit = fitting()
    batch, dark = chain(np.random.default_rng(2))
    cut = batch._replace(prior_ok=np.zeros_like(batch.prior_ok))  # time limits: not terminal, nothing known of after
    wild = cut._replace(reward=np.where(dark, 1e6, batch.reward).astype(np.float32))
    first, second = (fit.update(fit.init(0), b)[0] for b in (cut, wild))
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sac_target_bootstraps_from_the_policy_and_needs_one():
    with pytest.raises(ValueError, match="needs the actor"):
        fitting("sac_target")
    with pytest.raises(ValueError, match="allowed: sarsa, sac_target"):
        fitting("td0")
    actor = tiny.learner("sac").init(5, 20).params
    fit = fitting("sac_target", actor)
    batch, _ = chain(np.random.default_rng(3))
    other = batch._replace(prior_action=-batch.prior_action, prior_ok=0 * batch.prior_ok)
    first, second = (fit.update(fit.init(0), b)[1] for b in (batch, other))
    assert float(first["td_loss"]) == float(second["td_loss"])  # next actions of the data play no part
    hotter = fitting("sac_target", actor | {"log_alpha": actor["log_alpha"] + 2})
    assert float(hotter.update(hotter.init(0), batch)[1]["td_loss"]) != float(first["td_loss"])
