"""PlayVirtual's cycle, its weight, and its losses and gradients against PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.auxiliary import playvirtual
from tests.covr_jax import tiny
from tests.covr_jax.test_bases import drawn
from tests.covr_jax.test_learner import changed

torch = pytest.importorskip("torch")

from tests.covr_jax.torch_heads import Twin, mlp, model_head  # noqa: E402

HEADS = {"forward_model", "projection", "prediction", "backward_model"}


def test_the_cycles_weight_grows_to_one():
    weight = playvirtual.cycle_weight(jnp.array([0, 4, 9, 10, 500]), 10)
    np.testing.assert_allclose(weight, [np.exp(-5 * 0.81), np.exp(-1.25), 1, 1, 1], rtol=1e-6)


@pytest.mark.slow
def test_losses_and_gradients_are_torchs():
    learner, state, batch, seen, _ = drawn("playvirtual", method="none", cycle_warmup=10)
    state = state.replace(updates=jnp.int32(4))
    after, metrics = jax.jit(learner.auxiliary_step)(state, batch, seen)
    assert changed(state.params, after.params) == {"conv", "critic_head"} | HEADS
    key = jax.random.fold_in(jax.random.fold_in(state.key, 4), 3)
    actions = np.asarray(playvirtual.virtual_actions(key, 8, tiny.ACTION_DIM))
    assert actions.shape == (6, 10, 8, 2) and actions.min() < -0.99 and actions.max() > 0.99
    assert len(np.unique(actions)) > 0.99 * actions.size

    twin = Twin(learner, state, HEADS)

    def guess(z):
        return mlp(twin.heads["prediction"], mlp(twin.heads["projection"], z))

    def distance(p, t):
        return (2 - 2 * torch.cosine_similarity(p, t, dim=-1)).mean()

    start = z = twin.encode(seen.start)
    forward = 0.0
    for k, view in enumerate(seen.later):
        z = model_head(twin.heads["forward_model"], z, torch.tensor(batch.sequence.action[:, k]))
        forward = forward + distance(guess(z), twin.target(view)) / 6
    assert seen.again.shape[:2] == (10, 8) and not np.array_equal(seen.again[0], seen.again[1])
    cycle = 0.0
    for m in range(10):  # one walk after the other, there and back along the same actions
        z, steps = start, [torch.tensor(actions[k, m]) for k in range(6)]
        for a in steps:
            z = model_head(twin.heads["forward_model"], z, a)
        for a in reversed(steps):
            z = model_head(twin.heads["backward_model"], z, a)
        cycle = cycle + distance(guess(z), twin.target(seen.again[m])) / 10
    (6 * forward + np.exp(-5 * 0.25) * cycle).backward()
    assert float(metrics["prediction_loss"]) == pytest.approx(float(forward.detach()), rel=1e-4)
    assert float(metrics["cycle_loss"]) == pytest.approx(float(cycle.detach()), rel=1e-4)
    encoder = {"conv", "critic_head"}
    twin.assert_gradients(after.opt, {"encoder": encoder, "decoder": encoder | HEADS}, largest=10.0)
