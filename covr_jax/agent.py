"""An agent's networks put together: parameters, features, policy, values. No learning here."""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from covr_jax.config import LearnerConfig
from covr_jax.losses import sac
from covr_jax.networks import Actor, ConvStack, Head, TwinCritic, conv_output_size
from covr_jax.types import Params

ENCODER = ("conv", "critic_head")
CRITIC = (*ENCODER, "critic")
ACTOR = ("actor_head", "actor")


class PolicySample(NamedTuple):
    """One reparameterised sample of the policy; gradients flow into the actor."""

    action: jax.Array  # float32 [B,A]
    mean_action: jax.Array  # float32 [B,A], tanh of the Gaussian's mean
    log_prob: jax.Array  # float32 [B], nats


def pick(tree: Params, names: tuple[str, ...]) -> Params:
    return {name: tree[name] for name in names}


class Agent:
    """Static description of the networks; parameters are handed in. Letters as in ``covr_jax.types``.

    Raises ValueError for an image that is too small for the convolutions, or not set.
    """

    def __init__(self, config: LearnerConfig, action_dim: int, frame_stack: int, model_heads: dict[str, nn.Module]):
        if config.image_size is None:
            raise ValueError("image_size is not set; the learner needs the side in pixels that its encoder sees")
        self._side = conv_output_size(config.image_size, config.kernels, config.strides)
        self._config, self.action_dim, self._frame_stack = config, action_dim, frame_stack
        self.model_heads = model_heads
        self._conv = ConvStack(config.filters, config.kernels, config.strides)
        self._head = Head(config.feature_dim)
        self._actor = Actor(action_dim, config.hidden_dim, config.log_std_min, config.log_std_max)
        self._critic = TwinCritic(config.hidden_dim)

    def create(self, key: jax.Array) -> Params:
        """New parameters: conv, critic_head, critic, actor_head, actor, log_alpha and the model heads."""
        config = self._config
        keys = iter(jax.random.split(key, 5 + len(self.model_heads)))

        def create(module: nn.Module, *inputs: jax.Array) -> Params:
            return module.init(next(keys), *inputs)["params"]

        size = config.image_size
        conv = create(self._conv, jnp.zeros((1, size, size, 3 * self._frame_stack), jnp.uint8))
        features = jnp.zeros((1, self._side**2 * config.filters[-1]))
        latent, action = jnp.zeros((1, config.feature_dim)), jnp.zeros((1, self.action_dim))
        return {
            "conv": conv,
            "critic_head": create(self._head, features),
            "critic": create(self._critic, latent, action),
            "actor_head": create(self._head, features),
            "actor": create(self._actor, latent),
            "log_alpha": jnp.log(jnp.float32(config.initial_temperature)),
            **{name: create(module, latent, action) for name, module in self.model_heads.items()},
        }

    def features(self, params: Params, view: jax.Array) -> jax.Array:
        """float32 [B,D] of views uint8 [B,v,v,3S]."""
        return self._conv.apply({"params": params["conv"]}, view)

    def latent(self, head: Params, features: jax.Array) -> jax.Array:
        """float32 [B,F]; ``head`` is params["critic_head"] or params["actor_head"]."""
        return self._head.apply({"params": head}, features)

    def encode(self, params: Params, view: jax.Array) -> jax.Array:
        """The critic's latent float32 [B,F] of views uint8 [B,v,v,3S]."""
        return self.latent(params["critic_head"], self.features(params, view))

    def distribution(self, params: Params, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation [B,A] of the policy's Gaussian before tanh."""
        return self._actor.apply({"params": params["actor"]}, self.latent(params["actor_head"], features))

    def policy(self, params: Params, features: jax.Array, noise: jax.Array) -> PolicySample:
        mean, log_std = self.distribution(params, features)
        action, log_prob = sac.tanh_gaussian(mean, log_std, noise)
        return PolicySample(action, jnp.tanh(mean), log_prob)

    def values(self, params: Params, features: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The two critics' values [B]."""
        latent = self.latent(params["critic_head"], features)
        return self._critic.apply({"params": params["critic"]}, latent, action)

    def value(self, params: Params, features: jax.Array, action: jax.Array) -> jax.Array:
        """The smaller one of the two critics' values [B]."""
        return jnp.minimum(*self.values(params, features, action))

    def predict(self, heads: Params, name: str, latent: jax.Array, action: jax.Array) -> jax.Array:
        """A model head's output float32 [B,width]."""
        return self.model_heads[name].apply({"params": heads[name]}, latent, action)
