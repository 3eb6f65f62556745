"""The learner: init, act, one pure update, and K updates in one call. Composes the rows of ``covr_jax.methods``.

Order of an update (RAD, DeepMDP): critic, auxiliary loss, actor and temperature every ``actor_period`` updates, EMA
copies every ``target_period``. Convolution features carry no gradient into any actor-side loss.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from covr_jax import augment
from covr_jax.augment import Views
from covr_jax.config import LearnerConfig
from covr_jax.losses import guidance, sac
from covr_jax.methods import BASES, METHODS, ActorTerm, PolicySample, row
from covr_jax.networks import Actor, ConvStack, Head, TwinCritic, conv_output_size
from covr_jax.types import Array, Batch, LearnerState, Metrics, Params

ENCODER = ("conv", "critic_head")
CRITIC = (*ENCODER, "critic")
ACTOR = ("actor_head", "actor")
CRITIC_METRICS = ("critic_loss", "q_mean", "q_target_mean")
ACTOR_METRICS = ("actor_loss", "alpha_loss", "alpha", "entropy", "guidance_loss")
BATCH_METRICS = ("reward_mean", "prior_share")


class Noise(NamedTuple):
    """Standard normal draws of one update."""

    target: jax.Array  # float32 [B,A], of a' in the TD target
    actor: jax.Array  # float32 [B,A], of a in the actor loss


def _pick(tree: Params, names: tuple[str, ...]) -> Params:
    return {name: tree[name] for name in names}


def _blend(target: Params, online: Params, tau: float) -> Params:
    return jax.tree.map(lambda old, new: (1.0 - tau) * old + tau * new, target, online)


class Learner:
    """Static description of a learner; all that changes lives in ``LearnerState``.

    Raises ValueError for an unknown base, method, augmentation or guidance switch, and for an image that is too small.
    """

    def __init__(self, config: LearnerConfig, action_dim: int, frame_stack: int) -> None:
        self.config = config
        self.action_dim = action_dim
        self.frame_stack = frame_stack
        self.base = row(BASES, "base", config.base)
        self.method = row(METHODS, "method", config.method)
        self.augmentation = config.augmentation or self.base.augmentations[0]
        if self.augmentation not in self.base.augmentations:
            allowed = ", ".join(self.base.augmentations)
            raise ValueError(f"augmentation {self.augmentation!r} is none of base {config.base!r}; allowed: {allowed}")
        guidance.check(config.guidance)
        if config.image_size is None:
            raise ValueError("image_size is not set; the learner needs the side in pixels that its encoder sees")
        conv_output_size(config.image_size, config.kernels, config.strides)
        self.target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy

        self._conv = ConvStack(config.filters, config.kernels, config.strides)
        self._head = Head(config.feature_dim)
        self._actor = Actor(action_dim, config.hidden_dim, config.log_std_min, config.log_std_max)
        self._critic = TwinCritic(config.hidden_dim)
        self._aux_heads = self.base.auxiliary.heads(config) if self.base.auxiliary else {}
        self._optimisers = {
            "critic": optax.adam(config.critic_lr),
            "actor": optax.adam(config.actor_lr),
            "alpha": optax.adam(config.alpha_lr, b1=config.alpha_beta1),
        }
        if self.base.auxiliary:
            self._optimisers["encoder"] = optax.adam(config.encoder_lr)
            self._optimisers["decoder"] = optax.chain(
                optax.add_decayed_weights(config.decoder_weight_decay), optax.adam(config.decoder_lr)
            )

        self.metric_names = (*CRITIC_METRICS, *ACTOR_METRICS, *BATCH_METRICS)
        if self.base.auxiliary:
            self.metric_names += self.base.auxiliary.metrics
        self._init = jax.jit(self._new_state)
        self.update = jax.jit(self._update, donate_argnums=0)
        self.update_many = jax.jit(self._update_many, donate_argnums=0)
        self.sample_action = jax.jit(self._sample_action)
        self.mean_action = jax.jit(self._mean_action)

    # -- init and act ------------------------------------------------------------------------------------------

    def init(self, seed: int, render_size: int) -> LearnerState:
        """A new state, a pure function of the seed. ValueError if frames of render_size give no image_size view."""
        augment.check(self.augmentation, render_size, self.config.image_size)
        return self._init(jax.random.PRNGKey(seed))

    def _new_state(self, key: jax.Array) -> LearnerState:
        config = self.config
        root, key = jax.random.split(key)
        keys = iter(jax.random.split(key, 5 + len(self._aux_heads)))

        def create(module, *inputs):
            return module.init(next(keys), *inputs)["params"]

        conv = create(self._conv, jnp.zeros((1, config.image_size, config.image_size, 3 * self.frame_stack), jnp.uint8))
        side = conv_output_size(config.image_size, config.kernels, config.strides)
        features = jnp.zeros((1, side * side * config.filters[-1]))
        latent, action = jnp.zeros((1, config.feature_dim)), jnp.zeros((1, self.action_dim))
        params = {
            "conv": conv,
            "critic_head": create(self._head, features),
            "critic": create(self._critic, latent, action),
            "actor_head": create(self._head, features),
            "actor": create(self._actor, latent),
            "log_alpha": jnp.log(jnp.float32(config.initial_temperature)),
            **{name: create(module, latent, action) for name, module in self._aux_heads.items()},
        }
        moved = {
            "critic": _pick(params, CRITIC),
            "actor": _pick(params, ACTOR),
            "alpha": params["log_alpha"],
            "encoder": _pick(params, ENCODER),
            "decoder": _pick(params, tuple(self._aux_heads)),
        }
        return LearnerState(
            params=params,
            target=jax.tree.map(jnp.copy, _pick(params, CRITIC)),
            opt={name: optimiser.init(moved[name]) for name, optimiser in self._optimisers.items()},
            updates=jnp.int32(0),
            key=root,
            actor_metrics={name: jnp.zeros(()) for name in ACTOR_METRICS},
        )

    def _policy(self, params: Params, stack: jax.Array) -> tuple[jax.Array, jax.Array]:
        view = augment.centre_view(self.augmentation, stack, self.config.image_size)
        return self._actor_from_features(params, self.features(params, view))

    def _sample_action(self, params: Params, stack: Array, key: Array) -> jax.Array:
        """Stochastic actions float32 [N,A] for stacks uint8 [N,H,W,3S] of render size."""
        mean, log_std = self._policy(params, stack)
        return sac.tanh_gaussian(mean, log_std, jax.random.normal(key, mean.shape))[0]

    def _mean_action(self, params: Params, stack: Array) -> jax.Array:
        """tanh of the mean, float32 [N,A], for stacks uint8 [N,H,W,3S] of render size."""
        return jnp.tanh(self._policy(params, stack)[0])

    # -- networks ----------------------------------------------------------------------------------------------

    def features(self, params: Params, view: jax.Array) -> jax.Array:
        return self._conv.apply({"params": params["conv"]}, view)

    def _latent(self, head: Params, features: jax.Array) -> jax.Array:
        return self._head.apply({"params": head}, features)

    def _actor_from_features(self, params: Params, features: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self._actor.apply({"params": params["actor"]}, self._latent(params["actor_head"], features))

    def values(self, params: Params, features: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        latent = self._latent(params["critic_head"], features)
        return self._critic.apply({"params": params["critic"]}, latent, action)

    # -- update ------------------------------------------------------------------------------------------------

    def draw(self, state: LearnerState, frames: jax.Array) -> tuple[Views, Noise]:
        """Random views and noise of the state's next update, from fold_in(state.key, state.updates)."""
        views_key, target_key, actor_key = jax.random.split(jax.random.fold_in(state.key, state.updates), 3)
        views = augment.random_views(self.augmentation, views_key, frames, self.config.image_size)
        # Cut once: else XLA fuses the cutting into each of the encoder's reads (a quarter of an update on the CPU).
        views = jax.lax.optimization_barrier(views)
        shape = (frames.shape[0], self.action_dim)
        return views, Noise(jax.random.normal(target_key, shape), jax.random.normal(actor_key, shape))

    def step(
        self, state: LearnerState, batch: Batch, views: Views, noise: Noise
    ) -> tuple[LearnerState, Metrics]:
        """One update with given views and noise: pure, not jitted. ``batch.frames`` is not looked at."""
        state, metrics = self.critic_step(state, batch, views, noise)
        if self.base.auxiliary:
            state, auxiliary_metrics = self.auxiliary_step(state, batch, views)
            metrics |= auxiliary_metrics
        state = self.actor_step(state, batch, views, noise)
        state = self.target_step(state)
        metrics |= {"reward_mean": jnp.mean(batch.reward), "prior_share": jnp.mean(batch.prior_ok)}
        return state.replace(updates=state.updates + 1), metrics | state.actor_metrics

    def _update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        """One update on a batch of B transitions; donates the state."""
        state, metrics = self._update_many(state, jax.tree.map(lambda array: jnp.asarray(array)[None], batch))
        return state, jax.tree.map(lambda array: array[0], metrics)

    def _update_many(self, state: LearnerState, batches: Batch) -> tuple[LearnerState, Metrics]:
        """K updates on batches with a leading K, bit for bit K single ones; metrics get a leading K; donates the state.

        The loop's length is hidden from the compiler: told that it is 1 it would unroll the loop and fuse the body
        otherwise, so that one update would differ from K in the last bit.
        """
        length = batches.reward.shape[0]

        def body(i: jax.Array, carry: tuple[LearnerState, Metrics]) -> tuple[LearnerState, Metrics]:
            state, history = carry
            batch = jax.tree.map(lambda array: jax.lax.dynamic_index_in_dim(array, i, keepdims=False), batches)
            state, metrics = self.step(state, batch, *self.draw(state, batch.frames))
            return state, jax.tree.map(lambda array, value: array.at[i].set(value), history, metrics)

        history = {name: jnp.zeros(length, jnp.float32) for name in self.metric_names}
        return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(length)), body, (state, history))

    def _apply(self, state: LearnerState, name: str, gradient: Params, moved: Params) -> tuple[Params, dict]:
        updates, opt = self._optimisers[name].update(gradient, state.opt[name], moved)
        return optax.apply_updates(moved, updates), {**state.opt, name: opt}

    def critic_step(
        self, state: LearnerState, batch: Batch, views: Views, noise: Noise
    ) -> tuple[LearnerState, Metrics]:
        params = state.params
        mean, log_std = self._actor_from_features(params, self.features(params, views.next_o))
        next_action, next_log_prob = sac.tanh_gaussian(mean, log_std, noise.target)
        next_q1, next_q2 = self.values(state.target, self.features(state.target, views.next_o), next_action)
        alpha = jnp.exp(params["log_alpha"])
        target = sac.td_target(
            batch.reward, batch.not_done, next_q1, next_q2, next_log_prob, alpha, self.config.discount
        )

        def loss(moved: Params) -> tuple[jax.Array, Metrics]:
            q1, q2 = self.values(moved, self.features(moved, views.o), batch.action)
            value = sac.critic_loss(q1, q2, target)
            return value, {
                "critic_loss": value,
                "q_mean": jnp.mean(0.5 * (q1 + q2)),
                "q_target_mean": jnp.mean(target),
            }

        moved = _pick(params, CRITIC)
        gradient, metrics = jax.grad(loss, has_aux=True)(moved)
        moved, opt = self._apply(state, "critic", gradient, moved)
        return state.replace(params=params | moved, opt=opt), metrics

    def auxiliary_step(self, state: LearnerState, batch: Batch, views: Views) -> tuple[LearnerState, Metrics]:
        params = state.params

        def encode(encoder: Params, view: jax.Array) -> jax.Array:
            return self._latent(encoder["critic_head"], self.features(encoder, view))

        def loss(encoder: Params, decoder: Params) -> tuple[jax.Array, Metrics]:
            latent, next_latent = encode(encoder, views.o), jax.lax.stop_gradient(next_encoding)
            predictions = {
                name: head.apply({"params": decoder[name]}, latent, batch.action)
                for name, head in self._aux_heads.items()
            }
            losses = self.base.auxiliary.losses(predictions, next_latent, batch.reward)
            return sum(losses.values()), losses

        encoder, decoder = _pick(params, ENCODER), _pick(params, tuple(self._aux_heads))
        next_encoding = encode(encoder, views.next_o)
        gradients, metrics = jax.grad(loss, argnums=(0, 1), has_aux=True)(encoder, decoder)
        encoder, opt = self._apply(state, "encoder", gradients[0], encoder)
        state = state.replace(opt=opt)
        decoder, opt = self._apply(state, "decoder", gradients[1], decoder)
        return state.replace(params=params | encoder | decoder, opt=opt), metrics

    def actor_step(self, state: LearnerState, batch: Batch, views: Views, noise: Noise) -> LearnerState:
        """Actor and temperature, in every actor_period-th update; the method's terms only where a label exists.

        Base and guided update are branches of their own, so that a batch without labels runs the base's program.
        """
        branches = [lambda state: state, partial(self._actor_update, batch, views, noise, ())]
        index = (state.updates % self.config.actor_period == 0).astype(jnp.int32)
        if self.method.actor_terms:
            branches.append(partial(self._actor_update, batch, views, noise, self.method.actor_terms))
            turn = (state.updates // self.config.actor_period) % self.config.guidance.every == 0
            index += index * (turn & jnp.any(batch.prior_ok > 0))
        return jax.lax.switch(index, branches, state)

    def _actor_update(
        self, batch: Batch, views: Views, noise: Noise, terms: tuple[ActorTerm, ...], state: LearnerState
    ) -> LearnerState:
        params = state.params
        features = jax.lax.stop_gradient(self.features(params, views.o))
        alpha = jnp.exp(params["log_alpha"])

        def loss(moved: Params) -> tuple[jax.Array, tuple]:
            mean, log_std = self._actor_from_features(moved, features)
            action, log_prob = sac.tanh_gaussian(mean, log_std, noise.actor)
            value = sac.actor_loss(log_prob, *self.values(params, features, action), alpha)
            policy = PolicySample(action, jnp.tanh(mean), log_prob)
            guidance_loss = sum((term(policy, batch, self.config) for term in terms), jnp.float32(0))
            return value + guidance_loss, (value, guidance_loss, log_prob)

        def temperature_loss(log_alpha: jax.Array) -> jax.Array:
            return sac.alpha_loss(log_alpha, log_prob, self.target_entropy)

        moved = _pick(params, ACTOR)
        gradient, (actor_loss, guidance_loss, log_prob) = jax.grad(loss, has_aux=True)(moved)
        moved, opt = self._apply(state, "actor", gradient, moved)
        state = state.replace(opt=opt)
        alpha_loss, gradient = jax.value_and_grad(temperature_loss)(params["log_alpha"])
        log_alpha, opt = self._apply(state, "alpha", gradient, params["log_alpha"])
        metrics = {
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha": alpha,
            "entropy": -jnp.mean(log_prob),
            "guidance_loss": guidance_loss,
        }
        return state.replace(params=params | moved | {"log_alpha": log_alpha}, opt=opt, actor_metrics=metrics)

    def target_step(self, state: LearnerState) -> LearnerState:
        config = self.config

        def moved(target: Params) -> Params:
            encoder = _blend(_pick(target, ENCODER), _pick(state.params, ENCODER), config.encoder_tau)
            return encoder | {"critic": _blend(target["critic"], state.params["critic"], config.critic_tau)}

        due = state.updates % config.target_period == 0
        return state.replace(target=jax.lax.cond(due, moved, lambda target: target, state.target))
