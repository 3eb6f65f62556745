"""ERPv's gate: its sign, its scales, and what may not flow through it. Numbers by hand.

Ledger rows held here (docs/fidelity.md): E12, E13, E14.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from covr_jax.losses import guidance, vpg

VALUES = st.floats(-100, 100, width=32).map(lambda value: round(value, 2))
BATCHES = arrays(np.float32, (2, 8), elements=VALUES)


def array(*values):
    return jnp.array(values, jnp.float32)


def test_joint_scaling_by_hand():
    # The range of both is [0, 10]: differences of 4, -1 and 0 become 0.4, 0 and 0.
    got = vpg.gate(array(2.0, 10.0, 0.0), array(6.0, 9.0, 0.0))
    np.testing.assert_allclose(got, [0.4, 0.0, 0.0], atol=1e-6)


def test_separate_scaling_by_hand():
    # [2, 10] and [0, 9] each become [0, 1]: 0, 1, 0.5 against 2/3, 1, 0.
    got = vpg.gate(array(2.0, 10.0, 6.0), array(6.0, 9.0, 0.0), "separate")
    np.testing.assert_allclose(got, [2 / 3, 0.0, 0.0], atol=1e-6)


def test_no_scaling_by_hand():
    np.testing.assert_allclose(vpg.gate(array(2.0, -3.0), array(6.0, -4.0), "none"), [4.0, 0.0])


@settings(deadline=None, max_examples=100)
@given(BATCHES)
def test_joint_scaling_opens_exactly_where_the_prior_is_valued_higher(q):
    assume(np.ptp(q) > 1e-2)
    gate = np.asarray(vpg.gate(q[0], q[1]))
    np.testing.assert_array_equal(gate > 0, q[1] > q[0])
    assert gate.max() <= 1


def test_a_prior_that_is_worse_everywhere_opens_joint_scaling_nowhere_but_separate_scaling_often():
    q = np.random.default_rng(0).normal(100, 8, 4096).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 3, 4096).astype(np.float32)
    worse = np.minimum(q - 10 + noise, q - 0.01)
    assert not np.any(vpg.gate(q, q - 10))
    assert not np.any(vpg.gate(q, worse))
    assert np.mean(np.asarray(vpg.gate(q, worse, "separate")) > 0) > 0.25


def test_samples_without_a_label_neither_open_nor_stretch_the_range():
    labelled = vpg.gate(array(2.0, 10.0), array(6.0, 9.0))
    got = vpg.gate(array(2.0, 10.0, 5.0), array(6.0, 9.0, 1e4), prior_ok=array(1.0, 1.0, 0.0))
    np.testing.assert_allclose(got, [*labelled, 0.0], atol=1e-7)
    assert not np.any(vpg.gate(array(1.0), array(2.0), prior_ok=array(0.0)))


def test_equal_values_give_a_closed_gate():
    np.testing.assert_array_equal(vpg.gate(array(3.0, 3.0), array(3.0, 3.0)), [0.0, 0.0])


def test_no_gradient_flows_through_the_gate():
    def total(q_rl, q_vlm):
        return jnp.sum(vpg.gate(q_rl, q_vlm))

    for gradient in jax.grad(total, argnums=(0, 1))(array(1.0, 2.0), array(3.0, 1.0)):
        assert not np.any(gradient)


def test_unknown_scale():
    with pytest.raises(ValueError, match="allowed: joint, separate, none"):
        vpg.gate(array(1.0), array(1.0), "both")


def test_gated_guidance_weighs_every_sample_by_its_own_gate():
    # Mean over the two labelled samples of gate times the mean square: (0.5 * 1 + 2 * (0.25 + 0) / 2) / 2, times 10.
    got = guidance.loss(
        array([0.0, 0.0], [0.5, 0.0], [0.0, 0.0]),
        array([1.0, -1.0], [0.0, 0.0], [9.0, 9.0]),
        array(1.0, 1.0, 0.0),
        10.0,
        "mean",
        array(0.5, 2.0, 7.0),
    )
    assert float(got) == pytest.approx(10 * (0.5 + 0.25) / 2)


def test_calibration_is_the_least_squares_line():
    rng = np.random.default_rng(2)
    measured, wanted, q = rng.normal(size=(3, 50)).astype(np.float32)
    wanted = 3 * measured + 7 + 0.1 * wanted
    slope, intercept = np.polyfit(measured.astype(np.float64), wanted.astype(np.float64), 1)
    np.testing.assert_allclose(vpg.calibrated(q, measured, wanted), slope * q + intercept, rtol=1e-4)
    constant = jnp.ones(50)
    np.testing.assert_allclose(vpg.calibrated(q, constant, wanted), np.full(50, wanted.mean()), rtol=1e-4)
    np.testing.assert_allclose(vpg.calibrated(q, measured, -wanted), np.full(50, -wanted.mean()), rtol=1e-4)


def test_an_anchored_value_does_not_depend_on_what_the_second_critic_thinks_of_the_state():
    got = vpg.anchored(array(7.0, -2.0), array(5.0, -1.0), array(30.0, 40.0))
    np.testing.assert_allclose(got, [32.0, 39.0])
    np.testing.assert_allclose(vpg.anchored(array(107.0, -502.0), array(105.0, -501.0), array(30.0, 40.0)), got)
