"""The floating-point work of an update, as XLA counts it."""

from __future__ import annotations

from unittest import mock

import jax

from covr_jax import conv
from covr_jax.learner import Learner
from covr_jax.types import Batch, LearnerState


def flops(learner: Learner, state: LearnerState, batch: Batch) -> float:
    """Operations of one update that moves all, before XLA's optimisations; NaN where XLA does not tell.

    Nothing is compiled: ``state`` and ``batch`` may be shapes (``jax.ShapeDtypeStruct``).
    """
    # By lax's own convolutions, whose work XLA can count.
    with mock.patch.multiple(conv, on_cpu=conv.plain, same_on_cpu=conv.plain_same):
        drawn = jax.eval_shape(learner.draw, state, batch)
        counted = jax.jit(learner.step).lower(state, batch, *drawn).cost_analysis() or {}
    return counted.get("flops") or float("nan")
