"""A trained policy as StableHLO, by ``jax.export``: parameters inside, any number of observations, for the CPU."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from covr_jax.agent import ACTOR, MASKER, pick
from covr_jax.learner import Learner
from covr_jax.sight import Remembered
from covr_jax.types import Params


class Input(NamedTuple):
    """One array that the policy is fed."""

    name: str
    dtype: str
    shape: tuple[int, ...]  # of one observation, without N


def inputs(learner: Learner, render_size: int) -> tuple[Input, ...]:
    """What the policy is fed, in order: the stacks, for most bases."""
    picture = (render_size, render_size, 3 * learner.frame_stack)
    stacks = Input("stacks", "uint8", picture)
    if not learner.base.sight.remembers:
        return (stacks,)
    return (
        stacks,
        Input("previous_stacks", "uint8", picture),
        Input("previous_actions", "float32", (learner.action_dim,)),
    )


def policy_params(learner: Learner, params: Params) -> Params:
    """The parameters that the policy reads, as NumPy arrays."""
    names = ("conv", *ACTOR) + (MASKER if learner.base.networks.masker else ())
    return jax.tree.map(np.asarray, pick(params, names))


def serialise(learner: Learner, params: Params, render_size: int) -> bytes:
    """The mean action float32 [N,A] of ``inputs``; N is free. Read back by ``jax.export.deserialize``."""
    params = policy_params(learner, params)

    def of_one(*arrays: jax.Array) -> jax.Array:
        arrays = [array[None] for array in arrays]
        seen = Remembered(*arrays) if learner.base.sight.remembers else arrays[0]
        return learner.mean_action(params, seen)[0]

    # One by one under vmap: the CPU's convolution cuts a batch into chunks, which needs a number for N.
    policy = jax.jit(jax.vmap(of_one))
    (count,) = export.symbolic_shape("N")
    shapes = [
        jax.ShapeDtypeStruct((count, *each.shape), jnp.dtype(each.dtype)) for each in inputs(learner, render_size)
    ]
    return bytes(export.export(policy, platforms=("cpu",))(*shapes).serialize())
