"""The learner: init, act, one pure update, and K updates in one call. Composes the rows of ``covr_jax.methods``.

Order of an update (RAD, DeepMDP): critic, auxiliary loss, actor and temperature every ``actor_period`` updates, EMA
copies every ``target_period``; a base may have its auxiliary loss last (CURL). Convolution features carry no gradient
into any actor-side loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from itertools import chain
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from covr_jax import augment, parallel
from covr_jax.agent import ACTOR, CRITIC, ENCODER, Agent, pick
from covr_jax.augment import Views
from covr_jax.auxiliary import Scene
from covr_jax.config import LearnerConfig
from covr_jax.losses import guidance, sac, ver, vpg
from covr_jax.methods import BASES, METHODS, Pull, row
from covr_jax.sight import Seen
from covr_jax.types import Array, Batch, LearnerState, Metrics, Observation, Params
from covr_jax.views import Look

CRITIC_METRICS = ("critic_loss", "q_mean", "q_target_mean")
ACTOR_METRICS = ("actor_loss", "alpha_loss", "alpha", "entropy", "guidance_loss")
GRADIENT_METRICS = ("actor_gradient_norm", "guidance_gradient_norm")  # of the plain actor loss, of the term (S19)
BIAS_METRICS = ("value_critic_bias",)
VER_METRICS = tuple(f"{name}_{part}" for name in ("confidence", "alpha_target") for part in ("p10", "p50", "p90"))
BATCH_METRICS = ("reward_mean", "prior_share")


class Noise(NamedTuple):
    """Random draws of one update; standard normal where nothing else is said."""

    target: jax.Array  # float32 [B,A], of a' in the TD target
    actor: jax.Array  # float32 [B,A], of a in the actor loss
    other: jax.Array  # float32 [B,A], of the second sample that M5 compares
    uniform: jax.Array  # float32 [B] in [0, 1), RSF's random gate
    target_copies: tuple[jax.Array, ...] = ()  # float32 [B,A] each, of a' in further views of o'


def _mean(arrays: Sequence[jax.Array]) -> jax.Array:
    return arrays[0] if len(arrays) == 1 else reduce(jnp.add, arrays) / len(arrays)


def _blend(target: Params, online: Params, tau: float) -> Params:
    return jax.tree.map(lambda old, new: (1.0 - tau) * old + tau * new, target, online)


class Learner:
    """Static description of a learner; all that changes lives in ``LearnerState``.

    ``graded``: labels say whether they are right (``Batch.prior_reliable``), and metrics tell a gate's precision.
    ``mesh``: devices over which updates split their batches (``covr_jax.parallel``).

    Raises ValueError for an unknown base, method, augmentation or guidance switch, and for an image that is too small.
    """

    def __init__(
        self,
        config: LearnerConfig,
        action_dim: int,
        frame_stack: int,
        graded: bool = False,
        mesh: Mesh | None = None,
    ) -> None:
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
        term = self.method.actor_term
        self._actor_term = term if term and term.weight(config) > 0 else None
        if self._actor_term and self._actor_term.phased and config.guidance.phase < 1:
            raise ValueError(f"method {config.method} needs learner.guidance.phase=N: updates of its teaching phase")
        self._ver = self.method.ver and config.ver.weight > 0
        heads = self.base.auxiliary.heads(config) if self.base.auxiliary else {}
        if self._ver and config.ver.distance == "transition" and "transition" not in heads:
            raise ValueError(
                f"method {config.method} compares actions by a transition model, which base {config.base} has not: "
                "take base deepmdp, or learner.ver.distance=action"
            )
        if self._ver and config.ver.low > config.ver.high:
            raise ValueError(f"ver.low={config.ver.low} must not be above ver.high={config.ver.high}")
        self.target_entropy = -float(action_dim) if config.target_entropy is None else config.target_entropy

        self.agent = Agent(config, action_dim, frame_stack, heads, self.base.networks, self.base.sight.pictures)
        self._look = Look(self.base.sight, self.augmentation, config.image_size, config.mask_block)
        self._optimisers = {
            "critic": optax.adam(config.critic_lr),
            "actor": optax.adam(config.actor_lr),
            "alpha": optax.adam(config.alpha_lr, b1=config.alpha_beta1),
        }
        movers = self.base.auxiliary.movers(config, tuple(heads)) if self.base.auxiliary else {}
        self._optimisers |= {name: mover.optimiser for name, mover in movers.items()}
        self._moved = {name: mover.parts for name, mover in movers.items()}
        self._auxiliary_parts = tuple(dict.fromkeys(chain.from_iterable(self._moved.values())))
        self._averaged = self.base.auxiliary.averaged if self.base.auxiliary else ()

        self._actor_metric_names = ACTOR_METRICS + GRADIENT_METRICS
        if self._actor_term:
            self._actor_metric_names += self._actor_term.metrics
        self._graded_metrics = self._actor_term.graded_metrics if graded and self._actor_term else ()
        if self.needs_value_critic:
            self._actor_metric_names += BIAS_METRICS
        if self._ver:
            self._actor_metric_names += VER_METRICS
        self._actor_metric_names += self._graded_metrics
        self.metric_names = (*CRITIC_METRICS, *self._actor_metric_names, *BATCH_METRICS)
        if self.base.auxiliary:
            self.metric_names += self.base.auxiliary.metrics
        # For samplers that want them: arrays [B] beside the scalars.
        self._errors = ("td_error",) if self.base.sampler.wants_errors else ()
        # Apart, for all methods on a base share the first program. It runs once: LLVM's optimisation of its many random
        # numbers would take three times as long as all the rest of its compilation.
        quick = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        self._create = jax.jit(self.agent.create, compiler_options=quick)
        self._start = parallel.jit_init(self._new_state, mesh)
        self.update = parallel.jit_update(self._update, mesh, batch_axis=0)
        self.update_many = parallel.jit_update(self._update_many, mesh, batch_axis=1)
        self.sample_action = jax.jit(self._sample_action)
        self.mean_action = jax.jit(self._mean_action)
        self.value = jax.jit(self._value)

    @property
    def needs_value_critic(self) -> bool:
        """Whether the method's gate asks the frozen second critic C_V."""
        term = self._actor_term
        return term is not None and term.gated and self.config.vpg.gate in ("value_critic", "advantage")

    # -- init and act ------------------------------------------------------------------------------------------

    def init(self, seed: int, render_size: int, value_critic: Params | None = None) -> LearnerState:
        """A new state, a pure function of the seed (and of C_V's parts of the critic, which never change).

        Without a value critic a learner that needs one can act, but not update. ValueError if frames of render_size
        give no image_size view.
        """
        augment.check(self.augmentation, render_size, self.config.image_size)
        root, key = jax.random.split(jax.random.PRNGKey(seed))
        return self._start(root, self._create(key), value_critic or {})

    def shapes(self) -> LearnerState:
        """Shapes and dtypes of a state, without a value critic; nothing is compiled."""
        return jax.eval_shape(lambda key: self._new_state(key, self.agent.create(key), {}), jax.random.PRNGKey(0))

    def _new_state(self, root: jax.Array, params: Params, value_critic: Params) -> LearnerState:
        moved = {
            "critic": pick(params, self.agent.critic_parts),
            "actor": pick(params, ACTOR),
            "alpha": params["log_alpha"],
            **{name: pick(params, parts) for name, parts in self._moved.items()},
        }
        return LearnerState(
            params=params,
            target=jax.tree.map(jnp.copy, pick(params, CRITIC + self._averaged)),
            value_critic=value_critic,
            opt={name: optimiser.init(moved[name]) for name, optimiser in self._optimisers.items()},
            updates=jnp.int32(0),
            key=root,
            actor_metrics=self._no_metrics(),
        )

    def seen(self, observations: Sequence[Observation]) -> Seen:
        """What the policy looks at: stacks uint8 [N,H,W,3S] of render size, for most bases."""
        return self.base.sight.seen(observations, self.action_dim)

    def _no_metrics(self) -> Metrics:
        """Those of an actor update without a term: zero, but NaN where zero would be a statement about a gate."""
        return {
            name: jnp.float32(jnp.nan if name in self._graded_metrics else 0) for name in self._actor_metric_names
        }

    def _policy(self, params: Params, seen: Seen) -> tuple[jax.Array, jax.Array]:
        view, previous = self.base.sight.acting(self.augmentation, seen, self.config.image_size)
        return self.agent.distribution(params, self.agent.features(params, view), previous)

    def _sample_action(self, params: Params, seen: Seen, key: Array) -> jax.Array:
        """Stochastic actions float32 [N,A] for what is ``seen``."""
        mean, log_std = self._policy(params, seen)
        return sac.tanh_gaussian(mean, log_std, jax.random.normal(key, mean.shape))[0]

    def _mean_action(self, params: Params, seen: Seen) -> jax.Array:
        """tanh of the mean, float32 [N,A], for what is ``seen``."""
        return jnp.tanh(self._policy(params, seen)[0])

    def _value(self, params: Params, seen: Seen, action: Array) -> jax.Array:
        """Smaller online value of actions [N,A], float32 [N], for what is ``seen``."""
        view, _ = self.base.sight.acting(self.augmentation, seen, self.config.image_size)
        return self.agent.value(params, self.agent.features(params, view), action)

    # -- update ------------------------------------------------------------------------------------------------

    def draw(self, state: LearnerState, batch: Batch) -> tuple[Views, Noise]:
        """Random views and noise of the state's next update, from fold_in(state.key, state.updates)."""
        views_key, target_key, actor_key = jax.random.split(jax.random.fold_in(state.key, state.updates), 3)
        views = self.base.views(self._look, views_key, batch)
        # Cut once: else XLA fuses the cutting into each of the encoder's reads (a quarter of an update on the CPU).
        views = jax.lax.optimization_barrier(views)
        shape = (batch.frames.shape[0], self.action_dim)
        other_key, uniform_key = (jax.random.fold_in(actor_key, i) for i in (1, 2))
        return views, Noise(
            target=jax.random.normal(target_key, shape),
            actor=jax.random.normal(actor_key, shape),
            other=jax.random.normal(other_key, shape),
            uniform=jax.random.uniform(uniform_key, shape[:1]),
            target_copies=tuple(
                jax.random.normal(jax.random.fold_in(target_key, i), shape) for i in range(len(views.next_copies))
            ),
        )

    def step(
        self, state: LearnerState, batch: Batch, views: Views, noise: Noise
    ) -> tuple[LearnerState, Metrics]:
        """One update with given views and noise: pure, not jitted. ``batch.frames`` is not looked at."""
        state, metrics = self.critic_step(state, batch, views, noise)
        auxiliary = self.base.auxiliary
        if auxiliary and not auxiliary.last:
            state, auxiliary_metrics = self.auxiliary_step(state, batch, views)
            metrics |= auxiliary_metrics
        state = self.actor_step(state, batch, views, noise)
        state = self.target_step(state)
        if auxiliary and auxiliary.last:
            state, auxiliary_metrics = self.auxiliary_step(state, batch, views)
            metrics |= auxiliary_metrics
        metrics |= {"reward_mean": jnp.mean(batch.reward), "prior_share": jnp.mean(batch.prior_ok)}
        return state.replace(updates=state.updates + 1), metrics | state.actor_metrics

    def _update(self, state: LearnerState, batch: Batch) -> tuple[LearnerState, Metrics]:
        """One update on a batch of B transitions; donates the state.

        Metrics are scalars, but for ``td_error`` float32 [B], which is there if the base's sampler wants it.
        """
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
            state, metrics = self.step(state, batch, *self.draw(state, batch))
            return state, jax.tree.map(lambda array, value: array.at[i].set(value), history, metrics)

        history = {name: jnp.zeros(length, jnp.float32) for name in self.metric_names}
        history |= {name: jnp.zeros(batches.reward.shape, jnp.float32) for name in self._errors}
        return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(length)), body, (state, history))

    def _apply(self, state: LearnerState, name: str, gradient: Params, moved: Params) -> tuple[Params, dict]:
        updates, opt = self._optimisers[name].update(gradient, state.opt[name], moved)
        return optax.apply_updates(moved, updates), {**state.opt, name: opt}

    def critic_step(
        self, state: LearnerState, batch: Batch, views: Views, noise: Noise
    ) -> tuple[LearnerState, Metrics]:
        params, agent = state.params, self.agent
        next_views, noises = (views.next_o, *views.next_copies), (noise.target, *noise.target_copies)
        target = _mean(
            [self._td_target(state, batch, view, draw) for view, draw in zip(next_views, noises, strict=True)]
        )

        def loss(moved: Params) -> tuple[jax.Array, Metrics]:
            losses = []
            for weight, view in zip(self.base.view_weights, (views.o, *views.copies), strict=True):
                q1, q2 = agent.values(moved, agent.features(moved, view), batch.action)
                losses.append((weight * sac.critic_loss(q1, q2, target, batch.weight), 0.5 * (q1 + q2)))
            value, q = reduce(jnp.add, [each for each, _ in losses]), losses[0][1]
            return value, {
                "critic_loss": value,
                "q_mean": jnp.mean(q),
                "q_target_mean": jnp.mean(target),
                **{name: q - target for name in self._errors},
            }

        moved = pick(params, agent.critic_parts)
        gradient, metrics = jax.grad(loss, has_aux=True)(moved)
        moved, opt = self._apply(state, "critic", gradient, moved)
        return state.replace(params=params | moved, opt=opt), metrics

    def _td_target(self, state: LearnerState, batch: Batch, next_view: jax.Array, noise: jax.Array) -> jax.Array:
        """y [B] from one view of o'. EMA copies value it; what has none (a masker) is online."""
        params, agent = state.params, self.agent
        seen, copies = agent.masked(params, next_view), params | state.target
        following = agent.policy(params, agent.convolved(params, seen), noise, batch.action)
        next_q1, next_q2 = agent.values(copies, agent.convolved(copies, seen), following.action)
        return sac.td_target(
            batch.reward,
            batch.not_done,
            next_q1,
            next_q2,
            following.log_prob,
            self._alpha(state),
            self.config.discount,
        )

    def auxiliary_step(self, state: LearnerState, batch: Batch, views: Views) -> tuple[LearnerState, Metrics]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.updates), 3)  # 0 to 2 are those of ``draw``
        scene = Scene(self.agent, state.params, state.target, batch, views, self.config, state.updates, key)
        moved = pick(state.params, self._auxiliary_parts)
        gradient, metrics = jax.grad(partial(self.base.auxiliary.loss, scene=scene), has_aux=True)(moved)
        for name, parts in self._moved.items():
            after, opt = self._apply(state, name, pick(gradient, parts), pick(state.params, parts))
            state = state.replace(params=state.params | after, opt=opt)
        return state, metrics

    def actor_step(self, state: LearnerState, batch: Batch, views: Views, noise: Noise) -> LearnerState:
        """Actor and temperature, in every actor_period-th update; the method's terms only where a label exists.

        Base and guided update are branches of their own, so that a batch without labels runs the base's program.
        """
        branches = [lambda state: state, partial(self._actor_update, batch, views, noise, False)]
        index = (state.updates % self.config.actor_period == 0).astype(jnp.int32)
        if self._actor_term or self._ver:
            branches.append(partial(self._actor_update, batch, views, noise, True))
            turn = (state.updates // self.config.actor_period) % self.config.guidance.every == 0
            index += index * (turn & jnp.any(batch.prior_ok > 0))
        return jax.lax.switch(index, branches, state)

    def _alpha(self, state: LearnerState) -> jax.Array:
        """The temperature in force; M6 sets it to 0 late in a run."""
        alpha = jnp.exp(state.params["log_alpha"])
        if self.config.alpha_zero_after:
            alpha = jnp.where(state.updates >= self.config.alpha_zero_after, 0.0, alpha)
        return alpha

    def _actor_update(
        self, batch: Batch, views: Views, noise: Noise, guided: bool, state: LearnerState
    ) -> LearnerState:
        params, agent = state.params, self.agent
        features = jax.lax.stop_gradient(agent.features(params, views.o))
        alpha = self._alpha(state)
        metrics = self._no_metrics()

        def loss(moved: Params) -> tuple[jax.Array, tuple]:
            policy = agent.policy(moved, features, noise.actor, batch.previous_action)
            q1, q2 = agent.values(params, features, policy.action)
            return sac.actor_loss(policy.log_prob, q1, q2, alpha), (policy.log_prob, jnp.minimum(q1, q2))

        moved = pick(params, ACTOR)
        (actor_loss, (log_prob, q_rl)), gradient = jax.value_and_grad(loss, has_aux=True)(moved)
        metrics |= {"actor_loss": actor_loss, "actor_gradient_norm": optax.tree.norm(gradient)}
        if guided and self._actor_term:
            q_vlm, bias = self._prior_value(state, features, batch, views)

            def pull(moved: Params) -> tuple[jax.Array, Metrics]:
                policy = agent.policy(moved, features, noise.actor, batch.previous_action)
                looked_at = Pull(policy, batch, q_rl, q_vlm, noise.uniform, state.updates)
                return self._actor_term.loss(looked_at, self.config)

            (value, term_metrics), pulled = jax.value_and_grad(pull, has_aux=True)(moved)
            metrics |= term_metrics | bias
            metrics |= {"guidance_loss": value, "guidance_gradient_norm": optax.tree.norm(pulled)}
            gradient = jax.tree.map(jnp.add, gradient, pulled)
        moved, opt = self._apply(state, "actor", gradient, moved)

        regularised = guided and self._ver
        if regularised:
            distance = self._prior_distance(params, features, batch, views, noise)
            target = self._alpha_target(distance)
            metrics |= _quantiles("confidence", ver.confidence(distance), batch.prior_ok)
            metrics |= _quantiles("alpha_target", target, batch.prior_ok)

        def temperature_loss(log_alpha: jax.Array) -> jax.Array:
            value = jnp.float32(0)
            if self.config.ver.entropy_loss or not regularised:
                value += sac.alpha_loss(log_alpha, log_prob, self.target_entropy)
            if regularised:
                value += ver.penalty(jnp.exp(log_alpha), target, batch.prior_ok, self.config.ver.weight)
            return value

        state = state.replace(opt=opt)
        alpha_loss, gradient = jax.value_and_grad(temperature_loss)(params["log_alpha"])
        log_alpha, opt = self._apply(state, "alpha", gradient, params["log_alpha"])
        metrics |= {"alpha_loss": alpha_loss, "alpha": alpha, "entropy": -jnp.mean(log_prob)}
        return state.replace(params=params | moved | {"log_alpha": log_alpha}, opt=opt, actor_metrics=metrics)

    def _prior_value(
        self, state: LearnerState, features: jax.Array, batch: Batch, views: Views
    ) -> tuple[jax.Array, Metrics]:
        """The gate's value of the prior's action [B] in the same views, and how far C_V is off on replayed actions."""
        agent, chosen = self.agent, self.config.vpg
        if not self._actor_term.gated or chosen.gate == "ones":
            return jnp.zeros_like(batch.reward), {}
        if chosen.gate == "online_critic":
            return agent.value(state.params, features, batch.prior_action), {}
        own = agent.features(state.value_critic, views.o)
        value = agent.value(state.value_critic, own, batch.prior_action)
        measured = agent.value(state.value_critic, own, batch.action)
        wanted = agent.value(state.params, features, batch.action)
        if chosen.calibrate:
            value, measured = (vpg.calibrated(q, measured, wanted) for q in (value, measured))
        bias = {"value_critic_bias": jnp.mean(measured - wanted)}
        return vpg.anchored(value, measured, wanted) if chosen.gate == "advantage" else value, bias

    def _prior_distance(
        self, params: Params, features: jax.Array, batch: Batch, views: Views, noise: Noise
    ) -> jax.Array:
        """How far the agent's and the prior's action are apart [B] (E7, E8, M4, M5, M8); no gradient into anything."""
        agent, chosen = self.agent, self.config.ver
        ours = batch.action
        if chosen.next == "predicted":
            ours = agent.policy(params, features, noise.actor, batch.previous_action).action
        theirs = batch.prior_action
        if chosen.other == "policy":
            theirs = agent.policy(params, features, noise.other, batch.previous_action).action
        if chosen.distance == "action":
            return ver.action_distance(theirs, ours)
        latent = agent.latent(params["critic_head"], features)
        if chosen.next == "predicted":
            next_latent = agent.predict(params, "transition", latent, ours)
        else:
            next_latent = agent.encode(params, views.next_o)
        return ver.latent_distance(agent.predict(params, "transition", latent, theirs), next_latent)

    def _alpha_target(self, distance: jax.Array) -> jax.Array:
        chosen = self.config.ver
        return ver.alpha_target(distance, chosen.rule, chosen.low, chosen.high, chosen.slope, chosen.centre)

    def target_step(self, state: LearnerState) -> LearnerState:
        config = self.config

        def moved(target: Params) -> Params:
            slow = ENCODER + self._averaged
            encoder = _blend(pick(target, slow), pick(state.params, slow), config.encoder_tau)
            return encoder | {"critic": _blend(target["critic"], state.params["critic"], config.critic_tau)}

        due = state.updates % config.target_period == 0
        return state.replace(target=jax.lax.cond(due, moved, lambda target: target, state.target))


def _quantiles(name: str, values: jax.Array, prior_ok: jax.Array) -> Metrics:
    """10, 50 and 90 % quantiles over the samples that have a label."""
    levels = jnp.nanquantile(jnp.where(prior_ok > 0, values, jnp.nan), jnp.array([0.1, 0.5, 0.9]))
    return {f"{name}_p10": levels[0], f"{name}_p50": levels[1], f"{name}_p90": levels[2]}
