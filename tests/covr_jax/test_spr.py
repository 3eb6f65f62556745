"""SPR's loss against cosines and against PyTorch, its views, and what it moves."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax import views
from covr_jax.auxiliary.spr import prediction_loss
from covr_jax.sight import NOW
from tests.covr_jax import tiny
from tests.covr_jax.test_learner import changed

torch = pytest.importorskip("torch")

from tests.covr_jax.torch_heads import Twin, mlp, model_head  # noqa: E402


def test_loss_is_two_minus_two_cosines():
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, 5, 7, 4)).astype(np.float32)
    cosines = np.sum(p * t, -1) / np.linalg.norm(p, axis=-1) / np.linalg.norm(t, axis=-1)
    assert float(prediction_loss(p, t)) == pytest.approx(np.mean(2 - 2 * cosines), rel=1e-5)
    assert float(prediction_loss(p, 3 * p)) == pytest.approx(0, abs=1e-6)
    assert float(prediction_loss(p, -p)) == pytest.approx(4, rel=1e-6)
    assert np.isfinite(jax.grad(prediction_loss)(0 * p, t)).all()


def test_every_observation_has_a_view_of_its_own():
    batch = tiny.batch("spr", 0)
    frames = np.zeros_like(batch.sequence.frames)
    frames[:] = 10 * (1 + np.arange(frames.shape[1]))[:, None, None, None]  # a frame tells its place in the sequence
    batch = batch._replace(sequence=batch.sequence._replace(frames=frames))
    seen = views.ahead(views.Look(NOW, "crop", 20), jax.random.PRNGKey(0), batch)
    assert seen.start.shape == (8, 20, 20, 9) and seen.later.shape == (6, 8, 20, 20, 9)
    for k, shown in enumerate([seen.start, *seen.later]):
        shown = np.asarray(shown)
        shades = shown[:, 0, 0, ::3] / (10 * (k + np.array([1, 2, 3])))
        np.testing.assert_allclose(shades, shades[:, :1].repeat(3, 1), rtol=1e-5)  # one brightness a stack
        assert np.abs(shades - 1).max() <= 0.1001 and len(np.unique(shades.round(5)[:, 0])) == 8
    again = views.ahead(views.Look(NOW, "crop", 20), jax.random.PRNGKey(0), tiny.batch("spr", 0))
    np.testing.assert_array_equal(again.o, NOW.views("crop", jax.random.PRNGKey(0), tiny.batch("spr", 0), 20).o)


def test_loss_and_gradients_are_torchs():
    learner = tiny.learner("spr", method="none")
    first, second = (learner.init(seed, tiny.RENDER["spr"]) for seed in (0, 1))
    state, batch = first.replace(target=second.target), tiny.batch("spr", 2)
    seen, _ = learner.draw(state, batch)
    after, metrics = jax.jit(learner.auxiliary_step)(state, batch, seen)
    heads = {"forward_model", "projection", "prediction"}
    assert changed(state.params, after.params) == {"conv", "critic_head"} | heads

    twin = Twin(learner, state, heads)
    z, loss = twin.encode(seen.start), 0.0
    for k, view in enumerate(seen.later):
        z = model_head(twin.heads["forward_model"], z, torch.tensor(batch.sequence.action[:, k]))
        p = mlp(twin.heads["prediction"], mlp(twin.heads["projection"], z))
        loss = loss + (2 - 2 * torch.cosine_similarity(p, twin.target(view))).mean() / len(seen.later)
    loss.backward()
    assert float(metrics["prediction_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    twin.assert_gradients(after.opt, {"encoder": {"conv", "critic_head"}, "decoder": heads})


def test_the_projections_copy_follows_as_the_encoders():
    learner = tiny.learner("spr", encoder_tau=0.5)
    state = learner.init(0, tiny.RENDER["spr"])
    assert set(state.target) == {"conv", "critic_head", "critic", "projection"}
    state = state.replace(target=learner.init(1, tiny.RENDER["spr"]).target)
    after = learner.target_step(state)
    for old, online, new in zip(
        *(jax.tree.leaves(tree["projection"]) for tree in (state.target, state.params, after.target)), strict=True
    ):
        np.testing.assert_allclose(new, (np.asarray(old) + np.asarray(online)) / 2, rtol=1e-5, atol=1e-7)
