"""Printed losses against numbers worked out by hand or in float64 NumPy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.config import GuidanceConfig
from covr_jax.losses import deepmdp, guidance, sac

both = pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])


def array(*values):
    return jnp.array(values, jnp.float32)


def test_log_std_bounds():
    got = sac.bounded_log_std(array(-50.0, 0.0, 50.0, math.atanh(0.5)), -10.0, 2.0)
    np.testing.assert_allclose(got, [-10.0, -4.0, 2.0, -1.0], atol=1e-5)


@both
def test_td_target(wrap):
    def target(*arrays):
        return sac.td_target(*arrays, discount=0.5)

    got = wrap(target)(
        array(1.0, 1.0, -2.0),  # reward
        array(1.0, 0.0, 1.0),  # not done
        array(4.0, 4.0, 0.0),
        array(6.0, 6.0, -8.0),
        array(-2.0, -2.0, 10.0),  # log pi
        jnp.float32(0.1),
    )
    # 1 + 0.5 (4 + 0.2); terminal: the reward alone; -2 + 0.5 (-8 - 1)
    np.testing.assert_allclose(got, [3.1, 1.0, -6.5], rtol=1e-6)


def test_td_target_has_no_gradient():
    def total(q, log_prob, alpha):
        return jnp.sum(sac.td_target(array(1.0), array(1.0), q, q, log_prob, alpha, 0.9))

    for gradient in jax.grad(total, argnums=(0, 1, 2))(array(2.0), array(1.0), jnp.float32(0.1)):
        assert not np.any(gradient)


@both
def test_critic_loss_sums_the_heads_means(wrap):
    got = wrap(sac.critic_loss)(array(1.0, 2.0), array(0.0, 5.0), array(1.0, 4.0))
    assert float(got) == pytest.approx((0 + 4) / 2 + (1 + 1) / 2)


@both
def test_actor_loss_takes_the_smaller_value(wrap):
    got = wrap(sac.actor_loss)(array(2.0, -1.0), array(3.0, 5.0), array(4.0, 1.0), jnp.float32(0.5))
    assert float(got) == pytest.approx(((1.0 - 3.0) + (-0.5 - 1.0)) / 2)


def test_actor_loss_does_not_move_alpha():
    assert jax.grad(sac.actor_loss, argnums=3)(array(2.0), array(3.0), array(4.0), jnp.float32(0.5)) == 0


@both
def test_alpha_loss_and_its_gradient(wrap):
    log_alpha, log_prob = jnp.log(0.2), array(1.0, -4.0)
    # entropies -1 and 4; minus the target -2: 1 and 6, mean 3.5
    assert float(wrap(lambda a, p: sac.alpha_loss(a, p, -2.0))(log_alpha, log_prob)) == pytest.approx(0.2 * 3.5)
    by_alpha, by_log_prob = jax.grad(sac.alpha_loss, argnums=(0, 1))(log_alpha, log_prob, -2.0)
    assert float(by_alpha) == pytest.approx(0.2 * 3.5)  # d/d log alpha of alpha c is alpha c
    assert not np.any(by_log_prob)


def test_temperature_falls_where_entropy_is_above_its_target():
    gradient = jax.grad(sac.alpha_loss)(jnp.float32(0.0), array(-3.0), -1.0)  # entropy 3 > -1
    assert gradient > 0  # gradient descent lowers alpha


@settings(max_examples=30, deadline=None)
@given(mean=st.floats(-1.5, 1.5), log_std=st.floats(-2.0, 0.0), noise=st.floats(-1.5, 1.5))
def test_log_prob_is_the_density_of_the_action(mean, log_std, noise):
    """p(a) from the numerical derivative of the Gaussian's distribution function at atanh(a), in float64."""
    action, log_prob = sac.tanh_gaussian(*(jnp.full((1, 1), v, jnp.float32) for v in (mean, log_std, noise)))
    a = math.tanh(mean + math.exp(log_std) * noise)
    np.testing.assert_allclose(action, a, atol=2e-6)

    def cdf(action):
        return 0.5 * (1 + math.erf((math.atanh(action) - mean) / (math.exp(log_std) * math.sqrt(2))))

    step = 1e-4 * (1 - a * a) * math.exp(log_std)
    density = (cdf(a + step) - cdf(a - step)) / (2 * step)
    # The 1e-6 of the log-determinant shifts the log-density by at most 1e-6 / (1 - a^2).
    np.testing.assert_allclose(log_prob, math.log(density), atol=2e-3)


def test_density_integrates_to_one_and_dimensions_add():
    noise = jnp.linspace(-7, 7, 20001).reshape(-1, 1)
    ones = jnp.ones_like(noise)
    action, log_prob = sac.tanh_gaussian(0.3 * ones, -0.7 * ones, noise)
    area = np.trapezoid(np.exp(np.asarray(log_prob, np.float64)), np.asarray(action[:, 0], np.float64))
    assert area == pytest.approx(1.0, abs=2e-3)
    pair = sac.tanh_gaussian(0.3 * jnp.ones((1, 2)), -0.7 * jnp.ones((1, 2)), array(0.5, -1.0).reshape(1, 2))[1]
    single = [sac.tanh_gaussian(array([0.3]), array([-0.7]), array([e]))[1] for e in (0.5, -1.0)]
    np.testing.assert_allclose(pair, single[0] + single[1], rtol=1e-6)


def test_saturated_action_stays_finite():
    def value(mean):
        return jnp.sum(sac.tanh_gaussian(mean, array([-4.0]), array([0.0]))[1])

    log_prob, gradient = jax.value_and_grad(value)(array([50.0]))
    assert float(log_prob) == pytest.approx(4.0 - 0.5 * math.log(2 * math.pi) - math.log(1e-6), rel=1e-5)
    assert np.all(np.isfinite(gradient))


@both
def test_transition_loss(wrap):
    predicted, latent = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 4.0], [1.0, 0.0]])
    assert float(wrap(deepmdp.transition_loss)(predicted, latent)) == pytest.approx(0.5 * (1 + 4 + 1 + 0) / 4)
    by_predicted, by_latent = jax.grad(deepmdp.transition_loss, argnums=(0, 1))(predicted, latent)
    np.testing.assert_allclose(by_predicted, [[0.25, -0.5], [-0.25, 0.0]])
    assert not np.any(by_latent)


@both
def test_reward_loss(wrap):
    assert float(wrap(deepmdp.reward_loss)(array(1.0, -1.0), array(3.0, 0.0))) == pytest.approx((4 + 1) / 2)


A_V = jnp.array([[1.0, 0.0], [0.5, 0.5], [-1.0, 1.0]])
A_R = jnp.array([[0.0, 0.5], [0.5, 0.0], [1.0, -1.0]])
OK = array(1.0, 1.0, 0.0)


@both
def test_guidance_sums_dimensions_and_averages_over_labels(wrap):
    # squared norms 1.25, 0.25 and 8 (no label): two labels
    got = wrap(lambda a, v, ok: guidance.loss(a, v, ok, 2.0))(A_R, A_V, OK)
    assert float(got) == pytest.approx(2.0 * 1.5 / 2)
    got = wrap(lambda a, v, ok: guidance.loss(a, v, ok, 2.0, "mean"))(A_R, A_V, OK)
    assert float(got) == pytest.approx(1.0 * 1.5 / 2)


def test_guidance_gradient_by_hand():
    by_action, by_prior = jax.grad(guidance.loss, argnums=(0, 1))(A_R, A_V, OK, 3.0)
    np.testing.assert_allclose(by_action, [[-3.0, 1.5], [0.0, -1.5], [0.0, 0.0]], atol=1e-6)  # 3 * 2 (a - a_v) / 2
    assert not np.any(by_prior)


def test_guidance_without_labels_is_zero():
    assert float(guidance.loss(A_R, A_V, 0 * OK, 5.0)) == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (GuidanceConfig(action="stored"), "guidance.action 'stored' is unknown; allowed: sample, mean"),
        (GuidanceConfig(reduction="max"), "guidance.reduction 'max' is unknown; allowed: sum, mean"),
        (GuidanceConfig(every=0), "at least 1"),
    ],
)
def test_guidance_switches_that_do_not_exist(wrong, words):
    with pytest.raises(ValueError, match=words):
        guidance.check(wrong)


def test_shapes_are_asserted():
    with pytest.raises(AssertionError):
        sac.critic_loss(jnp.ones(3), jnp.ones(3), jnp.ones((3, 1)))
    with pytest.raises(AssertionError):
        guidance.loss(A_R, A_V[:2], OK, 1.0)
    with pytest.raises(AssertionError):
        deepmdp.reward_loss(jnp.ones((3, 1)), jnp.ones(3))


def test_annealed_guidance_ends_where_it_should():
    # LLM4Teach: 10 at 0, 10 - 0.005 i, the floor 0.1 from 1980 on, removed at 3000.
    for iteration, coefficient in [(0, 10), (660, 6.7), (1980, 0.1), (2500, 0.1), (2999, 0.1), (3000, 0), (9000, 0)]:
        share = guidance.annealed(jnp.int32(iteration), 3000)
        np.testing.assert_allclose(10 * share, coefficient, rtol=1e-4, atol=1e-6)
