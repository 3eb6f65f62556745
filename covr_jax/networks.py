"""Layers of SAC from pixels (SAC-AE lineage, as in RAD): encoders, actors, twin critic, heads of auxiliary losses.

Linen modules over plain dict parameters; nothing but layers. Letters as in ``covr_jax.types``; D is the width of the
flattened convolution output, F ``feature_dim``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from covr_jax import conv
from covr_jax.losses import sac

LAYER_NORM_EPSILON = 1e-5  # torch's; Linen's own default is 1e-6
orthogonal = nn.initializers.orthogonal()


def delta_orthogonal(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
    """Kernel [k,k,I,O]: zero but for the centre tap, an orthogonal [I,O] matrix with the gain of ReLU, sqrt 2."""
    height, width, fan_in, fan_out = shape
    centre = nn.initializers.orthogonal(scale=2**0.5)(key, (fan_in, fan_out), dtype)
    return jnp.zeros(shape, dtype).at[height // 2, width // 2].set(centre)


def torch_uniform(fan_in: int):
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)): Kaiming-uniform with a = sqrt 5, for weight and bias alike."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: Sequence[int], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def conv_output_size(image_size: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Side in pixels of the last feature map; ValueError if a layer's picture is smaller than its kernel."""
    size = image_size
    for kernel, stride in zip(kernels, strides, strict=True):
        if size < kernel:
            raise ValueError(
                f"image_size {image_size} is too small for kernels {tuple(kernels)} with strides {tuple(strides)}"
            )
        size = (size - kernel) // stride + 1
    return size


def _layer_norm(name: str) -> nn.Module:
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, name=name)


def _dense(width: int, name: str) -> nn.Module:
    return nn.Dense(width, kernel_init=orthogonal, name=name)


class ConvLayer(nn.Module):
    """One convolution with bias, valid padding: [N,H,W,I] -> [N,H',W',filters]."""

    filters: int
    kernel: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", delta_orthogonal, (self.kernel, self.kernel, x.shape[-1], self.filters))
        bias = self.param("bias", nn.initializers.zeros, (self.filters,))
        return conv.convolve(x, kernel, self.stride) + bias


class ConvStack(nn.Module):
    """Pictures uint8 [N,h,w,3S] -> flattened ReLU features float32 [N,D]. Owned by the critic, shared by all."""

    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        x = pixels.astype(jnp.float32) / 255.0
        for i, (filters, kernel, stride) in enumerate(zip(self.filters, self.kernels, self.strides, strict=True)):
            x = nn.relu(ConvLayer(filters, kernel, stride, name=f"layer_{i}")(x))
        return x.reshape(x.shape[0], -1)


class ChangeConvStack(nn.Module):
    """ResAct: two stacks F and G side by side, uint8 [N,h,w,6S] -> F(newer) - G(older), float32 [N,D].

    F and G share no weights; the newer picture comes first in the channels.
    """

    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        newer, older = jnp.split(pixels, 2, axis=-1)
        sizes = self.filters, self.kernels, self.strides
        return ConvStack(*sizes, name="newer")(newer) - ConvStack(*sizes, name="older")(older)


class Masker(nn.Module):
    """MaDi: pictures [N,h,w,3S] -> the same times a soft mask in (0,1) a pixel, one network for every frame.

    Three 3x3 convolutions with edges padded by zeros, ReLU between them, sigmoid; torch's init.
    """

    filters: int = 32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        count, height, width, channels = pixels.shape
        frames = pixels.astype(jnp.float32).reshape(count, height, width, channels // 3, 3).transpose(0, 3, 1, 2, 4)
        x = frames.reshape(-1, height, width, 3) / 255.0
        for i, filters in enumerate((self.filters, self.filters, 1)):
            init = torch_uniform(9 * x.shape[-1])
            kernel = self.param(f"kernel_{i}", init, (3, 3, x.shape[-1], filters))
            bias = self.param(f"bias_{i}", init, (filters,))
            x = conv.convolve_same(x, kernel) + bias
            x = nn.relu(x) if i < 2 else nn.sigmoid(x)
        masked = frames * x.reshape(*frames.shape[:4], 1)
        return masked.transpose(0, 2, 3, 1, 4).reshape(pixels.shape)


class Head(nn.Module):
    """Conv features [N,D] -> latent [N,F]: linear, LayerNorm, then nothing (RAD, CURL) or tanh (SAC-AE, DrQ)."""

    features: int
    tanh: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = _layer_norm("norm")(_dense(self.features, "linear")(x))
        return jnp.tanh(x) if self.tanh else x


class Actor(nn.Module):
    """Latent [N,F] -> mean and log standard deviation [N,A] of the Gaussian before tanh.

    ``residual`` (ResAct): the network also reads the previous action [N,A], and its mean is a change of that action.
    """

    action_dim: int
    hidden: int
    log_std_min: float
    log_std_max: float
    residual: bool = False

    @nn.compact
    def __call__(self, latent: jax.Array, previous: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        if self.residual:
            mean, log_std = self._gaussian(jnp.concatenate([latent, previous], axis=-1))
            return previous + mean, log_std
        return self._gaussian(latent)

    def _gaussian(self, latent: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.relu(_dense(self.hidden, "linear_0")(latent))
        x = nn.relu(_dense(self.hidden, "linear_1")(x))
        mean, raw = jnp.split(_dense(2 * self.action_dim, "linear_2")(x), 2, axis=-1)
        return mean, sac.bounded_log_std(raw, self.log_std_min, self.log_std_max)


class TwinCritic(nn.Module):
    """Latent [N,F] and action [N,A] (or its token) -> two values [N]."""

    hidden: int

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        joint = jnp.concatenate([latent, action], axis=-1)
        values = []
        for name in ("q1", "q2"):
            x = nn.relu(_dense(self.hidden, f"{name}_linear_0")(joint))
            x = nn.relu(_dense(self.hidden, f"{name}_linear_1")(x))
            values.append(_dense(1, f"{name}_linear_2")(x)[:, 0])
        return values[0], values[1]


class ModelHead(nn.Module):
    """DeepMDP's head: latent [N,F] and action [N,A] -> [N,width]; linear, LayerNorm, ReLU, linear, torch's init."""

    width: int
    hidden: int

    @nn.compact
    def __call__(self, latent: jax.Array, action: jax.Array) -> jax.Array:
        x = jnp.concatenate([latent, action], axis=-1)
        first, second = torch_uniform(x.shape[-1]), torch_uniform(self.hidden)
        x = nn.Dense(self.hidden, kernel_init=first, bias_init=first, name="linear_0")(x)
        x = nn.relu(_layer_norm("norm")(x))
        return nn.Dense(self.width, kernel_init=second, bias_init=second, name="linear_1")(x)


class ActionTokens(nn.Module):
    """TACO: actions [...,A] -> tokens [...,u], u = int(1.25 A) + 1; linear, tanh, linear."""

    hidden: int = 64

    @nn.compact
    def __call__(self, action: jax.Array) -> jax.Array:
        width = int(1.25 * action.shape[-1]) + 1
        return _dense(width, "linear_1")(jnp.tanh(_dense(self.hidden, "linear_0")(action)))


@dataclass(frozen=True)
class Networks:
    """Which layers an agent is made of."""

    conv: type[ConvStack] | type[ChangeConvStack] = ConvStack
    tanh: bool = False  # after the encoder's LayerNorm
    residual: bool = False  # the policy changes the previous action
    masker: bool = False  # MaDi's, before every convolution; trained by the critic's loss alone
    tokens: bool = False  # the critic reads TACO's tokens of an action


PLAIN = Networks()
