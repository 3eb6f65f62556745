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

from tests.covr_jax.test_torch_parity import moments, relative  # noqa: E402
from tests.covr_jax.torch_twin import TorchTwin  # noqa: E402


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

    twin = TorchTwin(learner.config, tiny.ACTION_DIM, tiny.STACK)
    twin.load(state.params, state.target, {})
    leaves = {name: _tensors(state.params[name]) for name in heads}

    def mlp(p, x):
        return torch.relu(x @ p["linear_0.kernel"] + p["linear_0.bias"]) @ p["linear_1.kernel"] + p["linear_1.bias"]

    def forward_model(p, z, a):
        x = torch.cat([z, a], -1) @ p["linear_0.kernel"] + p["linear_0.bias"]
        x = torch.relu(torch.layer_norm(x, x.shape[-1:], p["norm.scale"], p["norm.bias"]))
        return x @ p["linear_1.kernel"] + p["linear_1.bias"]

    with torch.no_grad():
        copy = _tensors(state.target["projection"])
        targets = [
            mlp(copy, twin.target["critic_head"](twin.target["conv"](twin.pixels(view)))) for view in seen.later
        ]
    z, loss = twin.critic_head(twin.conv(twin.pixels(seen.start))), 0.0
    for k, target in enumerate(targets):
        z = forward_model(leaves["forward_model"], z, torch.tensor(batch.sequence.action[:, k]))
        p = mlp(leaves["prediction"], mlp(leaves["projection"], z))
        loss = loss + (2 - 2 * torch.cosine_similarity(p, target)).mean() / len(targets)
    loss.backward()
    assert float(metrics["prediction_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)

    encoder = jax.tree.map(lambda m: m / 0.1, moments(after.opt["encoder"]))
    assert set(encoder) == {"conv", "critic_head"}
    for layer, node in twin.layers(encoder, twin):
        for want, parameter in zip(twin.to_torch(layer, node), (layer.weight, layer.bias), strict=True):
            assert relative(parameter.grad, want) < 1e-3
    decoder = moments(after.opt["decoder"])
    assert set(decoder) == heads
    for name in heads:
        for key, leaf in leaves[name].items():
            layer, part = key.split(".")
            assert relative(leaf.grad, np.asarray(decoder[name][layer][part]) / 0.1) < 1e-3, (name, key)


def _tensors(tree):
    return {
        f"{layer}.{part}": torch.tensor(np.array(leaf), requires_grad=True)
        for layer, node in tree.items()
        for part, leaf in node.items()
    }


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
