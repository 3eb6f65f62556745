"""TACO (Zheng et al. 2023): which state do these actions lead to? Contrast trains the encoder and the action's tokens.

C sequences of K actions: z = P(f(o_0)), u = tokens of a_0 to a_(K-1) in one vector. Of all sequences' last states
P(f(o_K)) the one that z and u lead to must be found (``temporal``), of all first states' second views z's own
(``contrast``), and the sum of the discounted rewards on the way is predicted. The critic reads the same tokens.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from covr_jax.agent import TOKENS, HeadSpec
from covr_jax.auxiliary import Auxiliary, Mover, Scene
from covr_jax.auxiliary.curl import Bilinear, info_nce
from covr_jax.config import LearnerConfig
from covr_jax.networks import Head, orthogonal
from covr_jax.types import Metrics, Params

STEPS_AHEAD = 3  # K


class Mlp(nn.Module):
    """[B,.] -> [B,width]: linear, ReLU, linear."""

    hidden: int
    width: int

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        x = jnp.concatenate(inputs, axis=-1)
        x = nn.relu(nn.Dense(self.hidden, kernel_init=orthogonal, name="linear_0")(x))
        return nn.Dense(self.width, kernel_init=orthogonal, name="linear_1")(x)


class Temporal(nn.Module):
    """Features [B,D] of o_0, of o_0 once more and of o_K, and K tokens [B,u] -> two tables of similarities [B,B], the
    temporal one and the contrast's, and rewards [B]. No gradient flows through the last two features.
    """

    features: int
    hidden: int

    @nn.compact
    def __call__(
        self, now: jax.Array, again: jax.Array, later: jax.Array, *tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        state, bilinear = Head(self.features, tanh=True, name="state"), Bilinear(name="contrast")
        joined = jnp.concatenate(tokens, axis=-1)
        actions = Head(joined.shape[-1], tanh=True, name="actions")(joined)
        z = state(now)
        again, later = (jax.lax.stop_gradient(state(x)) for x in (again, later))
        ahead = Mlp(self.hidden, self.features, name="ahead")(z, actions)
        reward = Mlp(self.hidden, 1, name="reward")(z, actions)[:, 0]
        return bilinear(ahead, later), bilinear(z, again), reward


def _heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    inputs = ("features",) * 3 + ("token",) * STEPS_AHEAD
    return {"temporal": HeadSpec(Temporal(config.feature_dim, config.hidden_dim), inputs)}


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    agent, views, sequence = scene.agent, scene.views, scene.batch.sequence
    held = jax.lax.stop_gradient(moved)
    again, later = jnp.split(agent.features(held, jnp.concatenate([views.again[0], views.later[0]])), 2)
    tokens = [agent.token(moved, sequence.action[:, k]) for k in range(STEPS_AHEAD)]
    now = agent.features(moved, views.start)
    temporal, contrast, reward = agent.predict(moved, "temporal", now, again, later, *tokens)
    wanted = sequence.reward @ (scene.config.discount ** jnp.arange(STEPS_AHEAD))
    losses = {
        "temporal_loss": info_nce(temporal),
        "contrast_loss": info_nce(contrast),
        "reward_loss": jnp.mean((reward - wanted) ** 2),
    }
    return sum(losses.values()), losses


def _movers(config: LearnerConfig, heads: tuple[str, ...]) -> dict[str, Mover]:
    return {"encoder": Mover(optax.adam(config.encoder_lr), ("conv", *TOKENS, *heads))}


TACO = Auxiliary(_heads, _loss, ("temporal_loss", "contrast_loss", "reward_loss"), _movers, last=True)
