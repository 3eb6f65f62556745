"""ERPv's temperature term. Numbers by hand or in float64 NumPy.

Ledger rows held here (docs/fidelity.md): E4, E5, E6, E10.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.losses import ver


def array(*values):
    return jnp.array(values, jnp.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_distances_by_hand():
    got = ver.latent_distance(array([1.0, 2.0], [0.0, 0.0]), array([0.0, 0.0], [0.0, 3.0]))
    np.testing.assert_allclose(got, [(1 + 4) / 4, 9 / 4])
    got = ver.action_distance(array([1.0, -1.0], [0.5, 0.5]), array([0.0, 0.0], [0.5, 0.0]))
    np.testing.assert_allclose(got, [1.0, 0.125])


def test_distances_have_no_gradient():
    for distance in (ver.latent_distance, ver.action_distance):
        both = jax.grad(lambda a, b, d=distance: jnp.sum(d(a, b)), argnums=(0, 1))(array([1.0]), array([2.0]))
        assert not np.any(both)


def test_confidence_is_bounded():
    # 1 / 0.5; 1 / 0.1; then the floor 1e-3 of the distance would give 1000: the bound is 20.
    np.testing.assert_allclose(ver.confidence(array(0.5, 0.1, 0.0, 1e-9)), [2.0, 10.0, 20.0, 20.0], rtol=1e-6)


def test_targets_by_hand():
    distance = array(0.5, 1.0, 10.0)
    np.testing.assert_allclose(ver.alpha_target(distance), sigmoid([-2, -1, -0.1]), rtol=1e-6)
    np.testing.assert_allclose(ver.alpha_target(distance, "literal"), sigmoid([2, 1, 0.1]), rtol=1e-6)
    got = ver.alpha_target(distance, "affine", low=0.05, high=0.2, slope=2.0, centre=1.0)
    np.testing.assert_allclose(got, 0.05 + 0.15 * sigmoid([-2, 0, 1.8]), rtol=1e-6)


def test_targets_fall_with_confidence_as_meant_and_rise_as_printed():
    distance = jnp.logspace(-4, 3, 200)
    certain = np.asarray(ver.confidence(distance))
    assert np.all(np.diff(certain) <= 0)
    meant, printed = (np.asarray(ver.alpha_target(distance, rule)) for rule in ("intended", "literal"))
    assert np.all(np.diff(meant) >= 0) and np.all(np.diff(printed) <= 0)
    assert meant.min() > 0 and meant.max() <= 0.5
    assert printed.min() >= 0.5 and printed.max() <= 1.0
    assert float(ver.alpha_target(array(1.0), "literal")[0]) < 1.0


def test_the_papers_temperatures_need_distances_around_0_37():
    """ERPv, Table 18 reports temperatures of 0.060 to 0.073."""
    targets = np.asarray(ver.alpha_target(array(0.36, 0.39)))
    assert 0.058 < targets[0] < targets[1] < 0.072
    np.testing.assert_allclose(targets, sigmoid([-1 / 0.36, -1 / 0.39]), rtol=1e-5)


def test_unknown_rule():
    with pytest.raises(ValueError, match="allowed: intended, literal, affine"):
        ver.alpha_target(array(1.0), "printed")


def test_penalty_is_the_mean_over_labelled_samples():
    target, prior_ok = array(0.2, 0.4, 0.9), array(1.0, 1.0, 0.0)
    # ((0.1 - 0.2)^2 + (0.1 - 0.4)^2) / 2 = 0.05, times 10
    assert float(ver.penalty(jnp.float32(0.1), target, prior_ok, 10.0)) == pytest.approx(0.5)
    assert float(ver.penalty(jnp.float32(0.1), target, 0 * prior_ok, 10.0)) == 0
    # Twice the mean of (0.1 - 0.2, 0.1 - 0.4), times 10
    gradients = jax.grad(ver.penalty, argnums=(0, 1))(jnp.float32(0.1), target, prior_ok, 10.0)
    assert float(gradients[0]) == pytest.approx(2 * 10 * (-0.1 - 0.3) / 2)
    assert not np.any(gradients[1])
