"""The CPU routes of the convolution against lax's own: forward, input gradient, kernel gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import conv

# batch, picture side, input channels, filters, kernel, stride: the sizes in use, with batches cut down.
SIZES = [
    (4, 84, 9, 32, 3, 2),
    (4, 41, 32, 32, 3, 1),
    (8, 64, 9, 32, 3, 2),
    (8, 31, 32, 32, 3, 2),
    (8, 15, 32, 32, 3, 1),
    (6, 48, 9, 32, 3, 2),
    (3, 128, 9, 64, 5, 2),
    (1, 12, 3, 8, 3, 1),
    (5, 11, 4, 6, 2, 3),
]


def _inputs(n, side, channels, filters, kernel, stride):
    rng = np.random.default_rng(side + channels)
    x = rng.normal(size=(n, side, side, channels)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, channels, filters)).astype(np.float32)
    out = (side - kernel) // stride + 1
    return jnp.asarray(x), jnp.asarray(w), jnp.asarray(rng.normal(size=(n, out, out, filters)).astype(np.float32))


def _assert_close(got, want):
    scale = np.max(np.abs(want))
    np.testing.assert_allclose(np.asarray(got) / scale, np.asarray(want) / scale, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cpu_route_equals_lax_forward_and_in_both_gradients(size):
    x, w, dy = _inputs(*size)
    stride = size[-1]

    def all_three(route):
        y, pull = jax.vjp(lambda x, w: route(x, w, stride), x, w)
        return (y, *pull(dy))

    for got, want in zip(
        jax.jit(lambda: all_three(conv.on_cpu))(), jax.jit(lambda: all_three(conv.plain))(), strict=True
    ):
        assert got.shape == want.shape
        _assert_close(got, want)


def test_edges_of_zeros_equal_lax_forward_and_in_both_gradients():
    rng = np.random.default_rng(0)
    for channels, filters, kernel in ((3, 8, 3), (8, 1, 5)):
        x = rng.normal(size=(3, 11, 11, channels)).astype(np.float32)
        w = rng.normal(size=(kernel, kernel, channels, filters)).astype(np.float32)
        dy = rng.normal(size=(3, 11, 11, filters)).astype(np.float32)
        got, want = (jax.vjp(route, x, w) for route in (conv.same_on_cpu, conv.plain_same))
        for a, b in zip((got[0], *got[1](dy)), (want[0], *want[1](dy)), strict=True):
            assert a.shape == b.shape
            _assert_close(a, b)


def test_edges_of_zeros_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    right = jnp.zeros((3, 3, 1, 1)).at[1, 2].set(2.0)  # twice the right neighbour
    np.testing.assert_array_equal(conv.same_on_cpu(x, right)[0, :, :, 0], [[2, 4, 0], [8, 10, 0], [14, 16, 0]])


def test_forward_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    corner = jnp.zeros((2, 2, 1, 1)).at[0, 1].set(2.0).at[1, 0].set(1.0)  # 2 * right neighbour + 1 * below
    want_stride_2 = [[2 * 1 + 4, 2 * 3 + 6], [2 * 9 + 12, 2 * 11 + 14]]
    np.testing.assert_array_equal(conv.on_cpu(x, corner, 2)[0, :, :, 0], want_stride_2)
    np.testing.assert_array_equal(conv.on_cpu(x, corner, 1)[0, ::2, ::2, 0], want_stride_2)
    assert conv.on_cpu(x, corner, 1).shape == (1, 3, 3, 1)


def test_two_runs_agree_bit_for_bit():
    x, w, dy = _inputs(8, 31, 32, 32, 3, 1)
    gradient = jax.jit(lambda x, w: jax.vjp(lambda x, w: conv.on_cpu(x, w, 1), x, w)[1](dy))
    for first, second in zip(gradient(x, w), gradient(x, w), strict=True):
        np.testing.assert_array_equal(first, second)


def test_route_follows_the_backend(monkeypatch):
    x, w, _ = _inputs(1, 12, 3, 8, 3, 1)
    taken = []
    monkeypatch.setattr(conv, "on_cpu", lambda *_: taken.append("cpu"))
    monkeypatch.setattr(conv, "plain", lambda *_: taken.append("plain"))
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        conv.convolve(x, w, 1)
    assert taken == ["cpu", "plain", "plain"]
    monkeypatch.setattr(conv, "same_on_cpu", lambda *_: taken.append("same cpu"))
    monkeypatch.setattr(conv, "plain_same", lambda *_: taken.append("plain same"))
    for backend in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        conv.convolve_same(x, w)
    assert taken[3:] == ["same cpu", "plain same", "plain same"]
