"""Layer sizes, parameter counts worked out by hand, and initialisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import networks


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_conv_sizes():
    assert networks.conv_output_size(84, (3, 3, 3, 3), (2, 1, 1, 1)) == 35
    assert networks.conv_output_size(108, (3, 3, 3, 3), (2, 1, 1, 1)) == 47
    assert networks.conv_output_size(128, (5, 3, 3, 3), (2, 2, 2, 2)) == 6
    with pytest.raises(ValueError, match="image_size 8 is too small"):
        networks.conv_output_size(8, (3, 3, 3, 3), (2, 1, 1, 1))


def test_carla_encoder_has_the_printed_number_of_parameters():
    """ERPv's encoder: conv 64@5, 128@3, 256@3, 256@3, linear 50, LayerNorm: 1,434,518 parameters."""
    stack = networks.ConvStack((64, 128, 256, 256), (5, 3, 3, 3), (2, 2, 2, 2))
    shapes = jax.eval_shape(stack.init, jax.random.PRNGKey(0), jnp.zeros((1, 128, 128, 9), jnp.uint8))
    head = jax.eval_shape(networks.Head(50).init, jax.random.PRNGKey(0), jnp.zeros((1, 6 * 6 * 256)))
    assert count(shapes) + count(head) == 1_434_518


def test_transition_head_has_the_printed_number_of_parameters():
    """ERPv's transition model for two action dimensions: 53,810 parameters."""
    head = networks.ModelHead(50, 512)
    shapes = jax.eval_shape(head.init, jax.random.PRNGKey(0), jnp.zeros((1, 50)), jnp.zeros((1, 2)))
    assert count(shapes) == 53_810


def test_encoder_scales_pixels_and_flattens_row_by_row():
    stack = networks.ConvStack((1,), (1,), (1,))
    params = {"layer_0": {"kernel": jnp.ones((1, 1, 1, 1)), "bias": jnp.array([-0.2])}}
    pixels = np.array([[0, 255], [51, 102]], np.uint8).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(stack.apply({"params": params}, pixels), [[0.0, 0.8, 0.0, 0.2]], atol=1e-6)


def test_conv_init_is_delta_orthogonal_with_relu_gain():
    kernel = np.asarray(networks.delta_orthogonal(jax.random.PRNGKey(0), (3, 3, 9, 32)))
    centre = kernel[1, 1]
    np.testing.assert_allclose(centre @ centre.T, 2.0 * np.eye(9), atol=1e-5)
    assert np.count_nonzero(kernel) == np.count_nonzero(centre)


def test_linear_init_is_orthogonal_with_zero_bias():
    params = networks.Actor(2, 16, -10.0, 2.0).init(jax.random.PRNGKey(0), jnp.zeros((1, 6)))["params"]
    kernel = np.asarray(params["linear_1"]["kernel"])
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(16), atol=1e-5)
    assert not np.any(params["linear_0"]["bias"])
    out = np.asarray(params["linear_2"]["kernel"])
    np.testing.assert_allclose(out.T @ out, np.eye(4), atol=1e-5)


def test_model_head_init_is_torch_uniform():
    params = networks.ModelHead(50, 512).init(jax.random.PRNGKey(0), jnp.zeros((1, 50)), jnp.zeros((1, 4)))["params"]
    for layer, fan_in in (("linear_0", 54), ("linear_1", 512)):
        bound = fan_in**-0.5
        for part in ("kernel", "bias"):
            values = np.asarray(params[layer][part])
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.85 * bound  # 50 draws at least
        assert abs(np.asarray(params[layer]["kernel"]).std() - bound / 3**0.5) < 0.02 * bound


def test_head_normalises_without_a_nonlinearity():
    head = networks.Head(2)
    params = {
        "linear": {"kernel": jnp.array([[1.0, 3.0]]), "bias": jnp.zeros(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.array([0.0, 5.0])},
    }
    # (1, 3): mean 2, variance 1 -> (-1, 1) up to the epsilon, then the bias.
    np.testing.assert_allclose(head.apply({"params": params}, jnp.ones((1, 1))), [[-1.0, 6.0]], atol=1e-4)


def test_initial_log_std_is_the_middle_of_its_bounds():
    actor = networks.Actor(1, 4, -10.0, 2.0)
    variables = actor.init(jax.random.PRNGKey(0), jnp.zeros((1, 3)))
    _, log_std = actor.apply(variables, jnp.zeros((1, 3)))
    np.testing.assert_allclose(log_std, [[-4.0]])


def test_twin_critics_differ():
    critic = networks.TwinCritic(8)
    variables = critic.init(jax.random.PRNGKey(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)))
    q1, q2 = critic.apply(variables, jnp.ones((4, 3)), jnp.ones((4, 2)))
    assert q1.shape == q2.shape == (4,)
    assert not np.allclose(q1, q2)
