"""An agent's networks put together: parameters, features, policy, values. No learning here."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from covr_jax.config import LearnerConfig
from covr_jax.losses import sac
from covr_jax.networks import PLAIN, ActionTokens, Actor, Head, Masker, Networks, TwinCritic, conv_output_size
from covr_jax.types import Params

ENCODER = ("conv", "critic_head")
CRITIC = (*ENCODER, "critic")
MASKER = ("masker",)
TOKENS = ("tokens",)
ACTOR = ("actor_head", "actor")


class PolicySample(NamedTuple):
    """One reparameterised sample of the policy; gradients flow into the actor."""

    action: jax.Array  # float32 [B,A]
    mean_action: jax.Array  # float32 [B,A], tanh of the Gaussian's mean
    log_prob: jax.Array  # float32 [B], nats


class HeadSpec(NamedTuple):
    """A network of an auxiliary loss, and what it is called with.

    ``latent`` [B,F], ``action`` [B,A], ``features`` [B,D], ``token`` [B,u]: the action as the critic reads it.
    """

    module: nn.Module
    inputs: tuple[str, ...] = ("latent", "action")


def pick(tree: Params, names: tuple[str, ...]) -> Params:
    return {name: tree[name] for name in names}


class Agent:
    """Static description of the networks; parameters are handed in. Letters as in ``covr_jax.types``.

    ``pictures``: stacks side by side in a view (``sight.Sight``). ``critic_parts``: what the critic's loss moves.

    Raises ValueError for an image that is too small for the convolutions, or not set.
    """

    def __init__(
        self,
        config: LearnerConfig,
        action_dim: int,
        frame_stack: int,
        model_heads: dict[str, HeadSpec],
        networks: Networks = PLAIN,
        pictures: int = 1,
    ):
        if config.image_size is None:
            raise ValueError("image_size is not set; the learner needs the side in pixels that its encoder sees")
        self._side = conv_output_size(config.image_size, config.kernels, config.strides)
        self._config, self.action_dim, self._channels = config, action_dim, 3 * frame_stack * pictures
        self.model_heads = model_heads
        self.critic_parts = CRITIC + (MASKER if networks.masker else ()) + (TOKENS if networks.tokens else ())
        self._masker = Masker() if networks.masker else None
        self._tokens = ActionTokens() if networks.tokens else None
        self._conv = networks.conv(config.filters, config.kernels, config.strides)
        self._head = Head(config.feature_dim, networks.tanh)
        self._actor = Actor(
            action_dim, config.hidden_dim, config.log_std_min, config.log_std_max, networks.residual
        )
        self._critic = TwinCritic(config.hidden_dim)

    def create(self, key: jax.Array) -> Params:
        """New parameters: conv, critic_head, critic, actor_head, actor, log_alpha, model heads, masker, tokens."""
        config = self._config
        keys = iter(jax.random.split(key, 5 + len(self.model_heads)))

        def create(module: nn.Module, *inputs: jax.Array) -> Params:
            return module.init(next(keys), *inputs)["params"]

        view = jnp.zeros((1, config.image_size, config.image_size, self._channels), jnp.uint8)
        conv = create(self._conv, view)
        features = jnp.zeros((1, self._side**2 * config.filters[-1]))
        latent, action = jnp.zeros((1, config.feature_dim)), jnp.zeros((1, self.action_dim))
        tokens = {}
        if self._tokens is not None:
            tokens["tokens"] = self._tokens.init(jax.random.fold_in(key, 2), action)["params"]
        token = self.token(tokens, action)
        inputs = {"latent": latent, "action": action, "features": features, "token": token}
        params = {
            "conv": conv,
            "critic_head": create(self._head, features),
            "critic": create(self._critic, latent, token),
            "actor_head": create(self._head, features),
            "actor": create(self._actor, latent, action),
            "log_alpha": jnp.log(jnp.float32(config.initial_temperature)),
            **{
                name: create(head.module, *(inputs[kind] for kind in head.inputs))
                for name, head in self.model_heads.items()
            },
            **tokens,
        }
        if self._masker is not None:
            params["masker"] = self._masker.init(jax.random.fold_in(key, 1), view)["params"]
        return params

    def features(self, params: Params, view: jax.Array) -> jax.Array:
        """float32 [B,D] of views uint8 (or float32, 0 to 255) [B,v,v,3S]."""
        return self.convolved(params, self.masked(params, view))

    def masked(self, params: Params, view: jax.Array) -> jax.Array:
        """What the convolutions see of a view: itself, or what a masker leaves of it."""
        return view if self._masker is None else self._masker.apply({"params": params["masker"]}, view)

    def convolved(self, params: Params, seen: jax.Array) -> jax.Array:
        """``features`` of a view that is ``masked`` already."""
        return self._conv.apply({"params": params["conv"]}, seen)

    def latent(self, head: Params, features: jax.Array) -> jax.Array:
        """float32 [B,F]; ``head`` is params["critic_head"] or params["actor_head"]."""
        return self._head.apply({"params": head}, features)

    def encode(self, params: Params, view: jax.Array) -> jax.Array:
        """The critic's latent float32 [B,F] of views uint8 [B,v,v,3S]."""
        return self.latent(params["critic_head"], self.features(params, view))

    def distribution(
        self, params: Params, features: jax.Array, previous: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and log standard deviation [B,A] of the policy's Gaussian before tanh.

        ``previous``: the action of the decision before, float32 [B,A]; residual policies alone read it.
        """
        latent = self.latent(params["actor_head"], features)
        return self._actor.apply({"params": params["actor"]}, latent, previous)

    def policy(
        self, params: Params, features: jax.Array, noise: jax.Array, previous: jax.Array | None = None
    ) -> PolicySample:
        mean, log_std = self.distribution(params, features, previous)
        action, log_prob = sac.tanh_gaussian(mean, log_std, noise)
        return PolicySample(action, jnp.tanh(mean), log_prob)

    def values(self, params: Params, features: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The two critics' values [B]."""
        latent = self.latent(params["critic_head"], features)
        return self._critic.apply({"params": params["critic"]}, latent, self.token(params, action))

    def token(self, params: Params, action: jax.Array) -> jax.Array:
        """Actions [...,A] as the critic reads them: themselves, or tokens [...,u] (TACO)."""
        return action if self._tokens is None else self._tokens.apply({"params": params["tokens"]}, action)

    def value(self, params: Params, features: jax.Array, action: jax.Array) -> jax.Array:
        """The smaller one of the two critics' values [B]."""
        return jnp.minimum(*self.values(params, features, action))

    def predict(self, heads: Params, name: str, *inputs: jax.Array) -> Any:
        """A model head's output, float32 [B,width] for most; ``inputs`` as it names them."""
        return self.model_heads[name].module.apply({"params": heads[name]}, *inputs)
