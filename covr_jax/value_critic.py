"""ERPv's second critic C_V: fitted once by temporal differences to data of its own, then frozen.

Its network is the learner's critic with an encoder of its own (E17). It sees the same augmented views.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import struct

from covr_jax.agent import CRITIC, ENCODER, Agent, pick
from covr_jax.config import LearnerConfig
from covr_jax.losses import sac
from covr_jax.methods import BASES, row
from covr_jax.types import Array, Batch, Metrics, Params
from covr_jax.views import Look

TARGETS = ("sarsa", "sac_target")


@struct.dataclass
class FitState:
    params: Params  # what a critic's loss moves (``Agent.critic_parts``)
    target: Params  # EMA copies of conv, critic_head, critic
    opt: optax.OptState
    updates: Array  # int32 []
    key: Array  # root PRNG key, never changed


class ValueCriticFit:
    """TD updates of C_V with the sizes, rates and augmentation of a learner's configuration.

    ``target``: what the value of o' is (E18). ``sarsa``: the value of the action that was taken there next, so that the
    critic values the behaviour of the data; a transition without a next action, the last of an episode, counts for
    nothing. ``sac_target``: the soft value under the policy ``actor`` (parameters of a trained learner).

    Raises ValueError for an unknown target, or ``sac_target`` without an actor.
    """

    def __init__(
        self,
        config: LearnerConfig,
        action_dim: int,
        frame_stack: int,
        target: str = "sarsa",
        actor: Params | None = None,
    ) -> None:
        if target not in TARGETS:
            raise ValueError(f"target {target!r} is unknown; allowed: {', '.join(TARGETS)}")
        if target == "sac_target" and actor is None:
            raise ValueError("target sac_target needs the actor of a trained policy")
        self._config, self._target, self._actor = config, target, actor
        base = row(BASES, "base", config.base)
        self._look = Look(base.sight, config.augmentation, config.image_size)
        self._agent = Agent(config, action_dim, frame_stack, {}, base.networks, base.sight.pictures)
        self._adam = optax.adam(config.critic_lr)
        self.init = jax.jit(self._init)
        self.update = jax.jit(self._update, donate_argnums=0)

    def _init(self, seed: Array) -> FitState:
        root, key = jax.random.split(jax.random.PRNGKey(seed))
        params = pick(self._agent.create(key), self._agent.critic_parts)
        return FitState(
            params, jax.tree.map(jnp.copy, pick(params, CRITIC)), self._adam.init(params), jnp.int32(0), root
        )

    def _update(self, state: FitState, batch: Batch) -> tuple[FitState, Metrics]:
        """One update on B transitions whose ``prior_action`` is the action taken next, valid where ``prior_ok`` is 1.

        Metrics: td_loss, the squared error of both critics; q_mean, reward units.
        """
        config, agent = self._config, self._agent
        views_key, noise_key = jax.random.split(jax.random.fold_in(state.key, state.updates))
        views = self._look.draw(views_key, batch)
        y, weight = self._td_target(state, batch, views.next_o, noise_key)

        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            q1, q2 = agent.values(params, agent.features(params, views.o), batch.action)
            squared = (q1 - y) ** 2 + (q2 - y) ** 2
            value = jnp.sum(weight * squared) / jnp.maximum(jnp.sum(weight), 1.0)
            return value, {"td_loss": value, "q_mean": jnp.mean(0.5 * (q1 + q2))}

        gradient, metrics = jax.grad(loss, has_aux=True)(state.params)
        change, opt = self._adam.update(gradient, state.opt)
        params = optax.apply_updates(state.params, change)

        def moved(target: Params) -> Params:
            blended = optax.incremental_update(pick(params, ENCODER), pick(target, ENCODER), config.encoder_tau)
            return blended | {"critic": optax.incremental_update(params["critic"], target["critic"], config.critic_tau)}

        due = state.updates % config.target_period == 0
        target = jax.lax.cond(due, moved, lambda target: target, state.target)
        return state.replace(params=params, target=target, opt=opt, updates=state.updates + 1), metrics

    def _td_target(
        self, state: FitState, batch: Batch, next_view: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Target and weight, each [B]."""
        agent, discount = self._agent, self._config.discount
        copies = state.params | state.target
        features = agent.features(copies, next_view)
        if self._target == "sarsa":
            q1, q2 = agent.values(copies, features, batch.prior_action)
            nothing = jnp.zeros_like(batch.reward)
            value = sac.td_target(batch.reward, batch.not_done, q1, q2, nothing, jnp.float32(0), discount)
            return value, jnp.maximum(batch.prior_ok, 1.0 - batch.not_done)
        noise = jax.random.normal(key, batch.action.shape)
        following = agent.policy(self._actor, agent.features(self._actor, next_view), noise, batch.action)
        q1, q2 = agent.values(copies, features, following.action)
        alpha = jnp.exp(self._actor["log_alpha"])
        value = sac.td_target(batch.reward, batch.not_done, q1, q2, following.log_prob, alpha, discount)
        return value, jnp.ones_like(batch.reward)
