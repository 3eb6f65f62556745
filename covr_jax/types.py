"""Every array that crosses a room of the house: its shape, dtype and unit, written once.

Letters: B batch, S stacked frames, H and W pixels, A action dimensions. Actions are in [-1, 1] everywhere but
inside an environment. A *decision* is one action of the agent, a *frame* one step of the simulator.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from flax import struct

Array = Any  # np.ndarray or jax.Array
Params = dict[str, Any]
Metrics = dict[str, Array]


class Sequence(NamedTuple):
    """C runs of T consecutive observations, each within an episode."""

    frames: Array  # uint8 [C, S+T-1, H, W, 3]: the stack of o_k is [:, k:k+S]
    action: Array  # float32 [C, T-1, A], executed at o_0 to o_(T-2)
    reward: Array  # float32 [C, T-1], that followed


class Batch(NamedTuple):
    """B transitions as replay hands them to the learner."""

    frames: Array  # uint8 [B, S+1, H, W, 3]: the stack of o is [:, :S], the stack of o' is [:, 1:]; with one frame more
    # in front where ``previous_ok`` is given: the stack before o is then [:, :S]
    action: Array  # float32 [B, A], executed
    reward: Array  # float32 [B], summed over the repeated frames
    not_done: Array  # float32 [B], 1 where the return goes on (also at a time limit), 0 at a terminal state
    prior_action: Array  # float32 [B, A], the VLM's a_v; zeros where prior_ok is 0
    prior_ok: Array  # float32 [B], 1 where a valid label exists
    previous_action: Array | None = None  # float32 [B, A], of the decision before; zeros at an episode's start
    previous_ok: Array | None = None  # float32 [B], 0 at an episode's start
    weight: Array | None = None  # float32 [B], importance of each transition in the critic's loss (PER)
    sequence: Sequence | None = None  # for bases that predict several steps ahead
    prior_reliable: Array | None = None  # float32 [B], 1 where a teacher says that the label is right; None: not told


@struct.dataclass
class LearnerState:
    """All that learning changes; a pytree. Random keys are fold_in(root key, updates)."""

    params: Params
    target: Params  # EMA copies: conv, critic_head, critic, and the heads that an auxiliary loss names
    value_critic: Params  # ERPv's frozen C_V: conv, critic_head, critic; {} if the method has none
    opt: dict[str, Any]  # optimiser name -> optax state
    updates: Array  # int32 [], updates done
    key: Array  # root PRNG key, never changed
    actor_metrics: Metrics  # scalars of the latest actor update


class Before(NamedTuple):
    """What was seen and done in the decision before."""

    stack: np.ndarray  # uint8 [H, W, 3*S]
    action: np.ndarray  # float32 [A], executed


class Observation(NamedTuple):
    """What a prior may look at in one decision, and what a policy remembers."""

    frame: np.ndarray  # uint8 [H, W, 3], newest frame at render size
    stack: np.ndarray  # uint8 [H, W, 3*S], oldest frame first
    state: dict[str, float]  # named physical quantities of the environment; {} if it tells none
    before: Before | None = None  # None at the start of an episode


class Label(NamedTuple):
    """A prior's answer to one observation."""

    action: np.ndarray | None  # float32 [A]; None unless status is ok or clipped
    status: str  # ok | clipped | malformed | unavailable
    text: str  # raw reply; "" for teachers
    version: str  # adapter version that answered: "base", "v1", ...; teachers: their name
    digest: str  # of that version
    prompt: str = ""  # what was asked; "" for teachers
    reliable: bool = False  # a teacher that knows says that it is right (source.GradedPrior); else False


class Sample(NamedTuple):
    """One step of the agent's own experience, as the VLM is tuned on it."""

    frame: np.ndarray  # uint8 [H, W, 3]
    state: dict[str, float]  # as of Observation
    action: np.ndarray  # float32 [A], executed
    return_to_go: float  # g, reward units


class TuningReport(NamedTuple):
    """What one tuning round did (fields as in covr.prior.v1.TuningResult)."""

    version: str
    digest: str
    activated: bool
    train_loss_first: float
    train_loss_last: float
    holdout_loss_before: float
    holdout_loss_after: float
    train_samples: int
    holdout_samples: int
    weight_mean: float
    weight_positive_share: float
    seconds: float
