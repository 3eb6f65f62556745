"""Convolution of the pixel networks: NHWC pictures, HWIO kernels, float32; valid padding, or edges of zeros.

XLA's CPU backend has a slow path for valid padding and a very slow one for the gradient of the kernel, in which a
pixel update spends nearly all its time. ``convolve`` and ``convolve_same`` take faster routes to the same numbers there
and are lax's own convolution on every other backend.
"""

from __future__ import annotations

from functools import partial
from math import gcd

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_CHUNK = 2  # pictures whose patches fit a core's cache together


def plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """lax's convolution: x [N,H,W,I], kernel [k,k,I,O] -> [N,(H-k)//stride+1,(W-k)//stride+1,O]."""
    return lax.conv_general_dilated(x, kernel, (stride, stride), "VALID", dimension_numbers=_LAYOUT)


def _output_shape(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[int, int]:
    return (x.shape[1] - kernel.shape[0]) // stride + 1, (x.shape[2] - kernel.shape[1]) // stride + 1


def _patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [n,H,W,I] -> [n,H',W',k*k*I], the inputs of every output position, in the kernel's order."""
    rows, columns = _output_shape(x, kernel, stride)

    def tap(i: int, j: int) -> jax.Array:
        return x[:, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]

    return jnp.concatenate([tap(i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1])], axis=-1)


def _in_chunks(x: jax.Array, most: int = _CHUNK) -> jax.Array:
    size = gcd(x.shape[0], most)
    return x.reshape(x.shape[0] // size, size, *x.shape[1:])


def _forward_by_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    y = lax.map(lambda chunk: _patches(chunk, kernel, stride) @ matrix, _in_chunks(x))
    return y.reshape(x.shape[0], *y.shape[2:])


def _forward_by_taps(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Stride 1: every pixel times all taps in one product, then the sum of the shifted windows."""
    size, _, channels, filters = kernel.shape
    rows, columns = _output_shape(x, kernel, 1)
    matrix = kernel.transpose(2, 0, 1, 3).reshape(channels, size * size * filters)

    def convolve_chunk(chunk: jax.Array) -> jax.Array:
        products = (chunk @ matrix).reshape(*chunk.shape[:3], size, size, filters)
        taps = [(i, j) for i in range(size) for j in range(size)]
        return sum(products[:, i : i + rows, j : j + columns, i, j] for i, j in taps)

    y = lax.map(convolve_chunk, _in_chunks(x))
    return y.reshape(x.shape[0], *y.shape[2:])


def _input_gradient(shape: tuple[int, ...], kernel: jax.Array, stride: int, dy: jax.Array) -> jax.Array:
    """Every output's gradient times all taps in one product, then summed where they came from.

    Pixel stride * p + a was read by the taps a, a + stride, ...: a sum of shifted windows for each phase a of the rows
    and b of the columns; the phases are interleaved at the end.
    """
    size, _, channels, filters = kernel.shape
    height, width = (-(-side // stride) for side in shape[1:3])  # of a phase
    matrix = kernel.transpose(3, 0, 1, 2).reshape(filters, size * size * channels)

    def spread(chunk: jax.Array) -> jax.Array:
        count, rows, columns, _ = chunk.shape
        products = (chunk @ matrix).reshape(count, rows, columns, size, size, channels)

        def placed(i: int, j: int) -> jax.Array:
            above, left = i // stride, j // stride
            margins = (0, 0), (above, height - rows - above), (left, width - columns - left), (0, 0)
            return jnp.pad(products[:, :, :, i, j], margins)

        def phase(a: int, b: int) -> jax.Array:
            taps = [placed(i, j) for i in range(a, size, stride) for j in range(b, size, stride)]
            return sum(taps, jnp.zeros((count, height, width, channels), dy.dtype))

        phases = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], axis=3) for a in range(stride)], axis=2)
        whole = phases.reshape(count, height * stride, width * stride, channels)
        return whole[:, : shape[1], : shape[2]]

    dx = lax.map(spread, _in_chunks(dy))
    return dx.reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def on_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """As ``plain``, by the routes that are fast on XLA's CPU backend; differentiable once, in reverse."""
    if stride == 1:
        return _forward_by_taps(x, kernel)
    return _forward_by_patches(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return on_cpu(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    return _input_gradient(x.shape, kernel, stride, dy), _kernel_gradient(x, kernel, stride, dy)


def _kernel_gradient(x: jax.Array, kernel: jax.Array, stride: int, dy: jax.Array, most: int = _CHUNK) -> jax.Array:
    filters = kernel.shape[-1]

    def add(total: jax.Array, chunk: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        pictures, gradients = chunk
        patches = _patches(pictures, kernel, stride)
        return total + gradients.reshape(-1, filters).T @ patches.reshape(-1, patches.shape[-1]), None

    start = jnp.zeros((filters, kernel.size // filters), kernel.dtype)
    total, _ = lax.scan(add, start, (_in_chunks(x, most), _in_chunks(dy, most)))
    return total.T.reshape(kernel.shape)


on_cpu.defvjp(_forward, _backward)


def plain_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """lax's convolution with edges of zeros: x [N,H,W,I], kernel [k,k,I,O], k odd -> [N,H,W,O]."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_LAYOUT)


@jax.custom_vjp
def same_on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """As ``plain_same``, whose forward path is fast on XLA's CPU backend; so is this one's backward path."""
    return plain_same(x, kernel)


def _same_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return plain_same(x, kernel), (x, kernel)


def _same_backward(saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The input's gradient is a convolution of the same kind, by the kernel turned around."""
    x, kernel = saved
    dx = plain_same(dy, kernel[::-1, ::-1].swapaxes(2, 3))
    edge = (kernel.shape[0] // 2,) * 2
    padded = jnp.pad(x, [(0, 0), edge, edge, (0, 0)])
    # One picture at a time: unlike the encoder's maps these are as large as the picture.
    return dx, _kernel_gradient(padded, kernel, 1, dy, most=1)


same_on_cpu.defvjp(_same_forward, _same_backward)


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """x [N,H,W,I], kernel [k,k,I,O] -> [N,H',W',O]; the route is chosen when it is traced, by the default backend."""
    return (on_cpu if jax.default_backend() == "cpu" else plain)(x, kernel, stride)


def convolve_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [N,H,W,I], kernel [k,k,I,O], k odd -> [N,H,W,O], stride 1, edges of zeros; the route as of ``convolve``."""
    return (same_on_cpu if jax.default_backend() == "cpu" else plain_same)(x, kernel)
