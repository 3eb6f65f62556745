"""THE table: what each base learner and each method is made of. The learner composes rows; it knows no name.

A new base is one row here, with a file of ``covr_jax/auxiliary`` where it brings a loss of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from covr_jax import networks, sight, views
from covr_jax.agent import PolicySample
from covr_jax.augment import Views
from covr_jax.auxiliary import Auxiliary
from covr_jax.auxiliary.curl import CURL
from covr_jax.auxiliary.deepmdp import DEEPMDP
from covr_jax.auxiliary.mlr import MLR, OBSERVATIONS
from covr_jax.auxiliary.playvirtual import PLAYVIRTUAL, VIRTUAL
from covr_jax.auxiliary.spr import SPR, STEPS
from covr_jax.auxiliary.taco import STEPS_AHEAD, TACO
from covr_jax.config import LearnerConfig
from covr_jax.losses import guidance, vpg
from covr_jax.networks import ChangeConvStack, Networks
from covr_jax.replay.samplers import Prioritised, Recent, Sampler, Uniform
from covr_jax.sight import Sight
from covr_jax.types import Batch
from covr_jax.views import Look


@dataclass(frozen=True)
class Base:
    """A learner without any VLM. What a column does not say is SAC's."""

    augmentations: tuple[str, ...]  # names in augment; the first is the default
    auxiliary: Auxiliary | None = None
    views: Callable[[Look, jax.Array, Batch], Views] = views.once
    view_weights: tuple[float, ...] = (1.0,)  # of the critic's loss on the first view of o and on each copy
    sight: Sight = sight.NOW
    networks: Networks = networks.PLAIN
    sampler: type[Sampler] = Uniform
    sequence: int = 0  # consecutive observations that the auxiliary loss sees; 0: none


class Pull(NamedTuple):
    """What an actor term may look at; gradients flow through ``policy`` alone."""

    policy: PolicySample
    batch: Batch
    q_rl: jax.Array  # float32 [B], the smaller online value of the policy's sample
    q_vlm: jax.Array  # float32 [B], the gate's value of the prior's action (``vpg.gate``); zeros if none is asked for
    uniform: jax.Array  # float32 [B] in [0, 1)
    updates: jax.Array  # int32 [], done before this one


@dataclass(frozen=True)
class ActorTerm:
    """A loss that pulls on the actor in batches that hold a label."""

    loss: Callable[[Pull, LearnerConfig], tuple[jax.Array, dict[str, jax.Array]]]  # scalar, metrics
    weight: Callable[[LearnerConfig], float]  # 0: the term is not there
    metrics: tuple[str, ...] = ()
    gated: bool = False  # reads q_vlm
    phased: bool = False  # ends with the teaching phase, guidance.phase
    graded_metrics: tuple[str, ...] = ()  # those told besides where labels say whether they are right


@dataclass(frozen=True)
class Method:
    """What a VLM adds to a base. Terms are on only in batches that hold a label: without one, a method is its base."""

    actor_term: ActorTerm | None = None
    ver: bool = False  # ERPv's temperature term
    asks_prior: bool = False  # labels transitions with the VLM's actions
    tunes_prior: bool = False  # COVR's rounds


def _labelled_mean(values: jax.Array, batch: Batch) -> jax.Array:
    return jnp.sum(batch.prior_ok * values) / jnp.maximum(jnp.sum(batch.prior_ok), 1.0)


def _guidance(pull: Pull, config: LearnerConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
    pulled = {"sample": pull.policy.action, "mean": pull.policy.mean_action}[config.guidance.action]
    batch, chosen = pull.batch, config.guidance
    return guidance.loss(pulled, batch.prior_action, batch.prior_ok, chosen.weight, chosen.reduction), {}


def _annealed(pull: Pull, config: LearnerConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
    value, metrics = _guidance(pull, config)
    share = guidance.annealed(pull.updates, config.guidance.phase)
    return share * value, metrics | {"guidance_weight": share * config.guidance.weight}


def _through(gate: jax.Array, pull: Pull, config: LearnerConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
    batch, chosen = pull.batch, config.vpg
    value = guidance.loss(
        pull.policy.action, batch.prior_action, batch.prior_ok, chosen.weight, chosen.reduction, gate
    )
    opened = (gate > 0).astype(jnp.float32)
    metrics = {"gate_mean": _labelled_mean(gate, batch), "gate_open": _labelled_mean(opened, batch)}
    return value, metrics | _precision(opened, batch)


def _precision(opened: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """Share of reliable labels among those that the gate opens for (NaN: it opens for none), and among all labels."""
    if batch.prior_reliable is None:
        return {}
    hits = _labelled_mean(opened * batch.prior_reliable, batch)
    return {
        "gate_precision": hits / _labelled_mean(opened, batch),
        "reliable_share": _labelled_mean(batch.prior_reliable, batch),
    }


def _vpg(pull: Pull, config: LearnerConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
    if config.vpg.gate == "ones":
        return _through(jnp.ones_like(pull.q_rl), pull, config)
    return _through(vpg.gate(pull.q_rl, pull.q_vlm, config.vpg.scale, pull.batch.prior_ok), pull, config)


def _rsf(pull: Pull, config: LearnerConfig) -> tuple[jax.Array, dict[str, jax.Array]]:
    return _through(pull.uniform, pull, config)


GATE_METRICS = ("gate_mean", "gate_open")
GRADED_METRICS = ("gate_precision", "reliable_share")  # of teachers that know where they are right
GUIDANCE = ActorTerm(_guidance, lambda config: config.guidance.weight)
ANNEALED = ActorTerm(_annealed, lambda config: config.guidance.weight, ("guidance_weight",), phased=True)
VPG = ActorTerm(_vpg, lambda config: config.vpg.weight, GATE_METRICS, gated=True, graded_metrics=GRADED_METRICS)
RSF = ActorTerm(_rsf, lambda config: config.vpg.weight, GATE_METRICS, graded_metrics=GRADED_METRICS)

BASES: dict[str, Base] = {
    "sac": Base(augmentations=("none",)),
    "rad": Base(augmentations=("translate", "crop")),
    "deepmdp": Base(augmentations=("none", "translate", "crop"), auxiliary=DEEPMDP),
    "drq": Base(
        augmentations=("shift",), views=views.twice, view_weights=(1.0, 1.0), networks=Networks(tanh=True)
    ),
    "svea": Base(
        augmentations=("shift",), views=views.with_strong, view_weights=(0.5, 0.5), networks=Networks(tanh=True)
    ),
    "madi": Base(
        augmentations=("shift",),
        views=views.with_strong,
        view_weights=(0.5, 0.5),
        networks=Networks(tanh=True, masker=True),
    ),
    "curl": Base(augmentations=("crop",), auxiliary=CURL, views=views.with_positive),
    "spr": Base(augmentations=("crop",), auxiliary=SPR, views=views.ahead, sequence=STEPS + 1),
    "playvirtual": Base(
        augmentations=("crop",),
        auxiliary=PLAYVIRTUAL,
        views=partial(views.and_back, again=VIRTUAL),
        sequence=STEPS + 1,
    ),
    "mlr": Base(augmentations=("crop",), auxiliary=MLR, views=views.masked, sequence=OBSERVATIONS),
    "taco": Base(
        augmentations=("shift",),
        auxiliary=TACO,
        views=views.first_and_last,
        networks=Networks(tanh=True, tokens=True),
        sequence=STEPS_AHEAD + 1,
    ),
    "per": Base(augmentations=("none", "translate", "crop"), sampler=Prioritised),
    "ere": Base(augmentations=("none", "translate", "crop"), sampler=Recent),
    "resact": Base(
        augmentations=("translate", "none"),
        auxiliary=DEEPMDP,
        sight=sight.CHANGE,
        networks=Networks(conv=ChangeConvStack, residual=True),
    ),
}

METHODS: dict[str, Method] = {
    "none": Method(),
    "dpl": Method(GUIDANCE, asks_prior=True),
    "ask": Method(asks_prior=True),  # the base, with a prior that may act (run.behaviour); VBE is --preset=vbe
    "apl": Method(ANNEALED, asks_prior=True),
    "rsf": Method(RSF, asks_prior=True),
    "covr": Method(GUIDANCE, asks_prior=True, tunes_prior=True),
    "erpv": Method(VPG, ver=True, asks_prior=True),
    # Combinations that neither paper tries: COVR's tuned VLM behind ERPv's gate, temperature term, or both.
    "covr_vpg": Method(VPG, asks_prior=True, tunes_prior=True),
    "covr_ver": Method(GUIDANCE, ver=True, asks_prior=True, tunes_prior=True),
    "covr_erpv": Method(VPG, ver=True, asks_prior=True, tunes_prior=True),
}


def row(table: dict, kind: str, name: str):
    """The row of that name; ValueError that lists the table where there is none."""
    if name not in table:
        raise ValueError(f"{kind} {name!r} is unknown; allowed: {', '.join(table)}")
    return table[name]
