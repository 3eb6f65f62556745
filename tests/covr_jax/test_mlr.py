"""MLR's masks, positions and rate by hand; its transformer, loss and gradients against PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import augment, views
from covr_jax.auxiliary import mlr
from covr_jax.sight import NOW
from tests.covr_jax import tiny
from tests.covr_jax.test_bases import drawn
from tests.covr_jax.test_learner import changed

torch = pytest.importorskip("torch")

from tests.covr_jax.torch_heads import Twin, linear, mlp, norm, within  # noqa: E402

HEADS = {"reconstruction", "projection", "prediction"}


def test_a_mask_hides_half_of_the_squares_and_lasts_a_block():
    hidden = np.asarray(augment.cube_mask(jax.random.PRNGKey(0), 16, 100, 8))
    assert hidden.shape == (16, 100, 100) and hidden.dtype == bool
    squares = hidden.reshape(16, 10, 10, 10, 10)
    assert (squares == squares[:, :, :1, :, :1]).all()  # 10 x 10 pixels each
    assert (hidden.mean(axis=(1, 2)) == 0.5).all()
    assert (hidden[:8] == hidden[0]).all() and (hidden[8:] == hidden[8]).all()
    assert 0.3 < (hidden[0] != hidden[8]).mean() < 0.7
    small = np.asarray(augment.cube_mask(jax.random.PRNGKey(0), 5, 24, 2))  # squares of two or three pixels
    assert small.shape == (5, 24, 24) and (small[0] == small[1]).all() and (small[1] != small[2]).any()
    np.testing.assert_array_equal(small[:, 3:5, :2], small[:, 3:4, :1].repeat(2, 1).repeat(2, 2))  # 24/10 = 2.4


def test_all_sequences_share_a_mask_and_every_view_is_its_own():
    batch = tiny.batch("mlr", 0)
    white = batch._replace(sequence=batch.sequence._replace(frames=np.full_like(batch.sequence.frames, 255)))
    look = views.Look(NOW, "crop", 24, mask_block=8)  # a window as large as the frame: masks stay where they are
    seen = views.masked(look, jax.random.PRNGKey(0), white)
    assert seen.masked.shape == seen.later.shape == (16, 8, 24, 24, 9)
    dark = np.asarray(seen.masked) == 0
    assert (dark == dark[:1, :1, :, :, :1])[:8].all() and (dark[:8] != dark[8:]).any()
    assert np.asarray(seen.later).min() > 0.89 * 255
    brightness = np.asarray(seen.masked).max(axis=(2, 3, 4))
    assert len(np.unique(brightness.round(4))) > 100 and np.abs(brightness / 255 - 1).max() <= 0.1001
    assert not np.allclose(brightness, np.asarray(seen.later).max(axis=(2, 3, 4)))


def test_positions_are_sines_and_cosines_in_turn():
    got = np.asarray(mlr.positions(16, 10))
    for place in (0, 1, 15):
        for pair in range(5):
            angle = place / 10_000 ** (2 * pair / 10)
            assert got[place, 2 * pair : 2 * pair + 2] == pytest.approx([np.sin(angle), np.cos(angle)], abs=1e-5)
    assert mlr.positions(3, 5).shape == (3, 5)


def test_the_rate_rises_and_falls():
    rate = mlr.learning_rate(0.5e-3)
    shares = [float(rate(jnp.int32(n))) / 0.5e-3 for n in (0, 3000, 6000, 24_000)]
    assert shares == pytest.approx([5e-4, 0.50025, 1.0, 0.5], rel=1e-5)


@pytest.mark.slow
def test_loss_and_gradients_are_torchs():
    learner, state, batch, seen, _ = drawn("mlr", method="none")
    key, params = jax.random.PRNGKey(9), dict(state.params)
    for name in HEADS:  # larger weights than MLR's first ones, so that no part of the transformer is almost idle
        leaves, shape = jax.tree.flatten(params[name])
        noise = [0.3 * jax.random.normal(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
        params[name] = jax.tree.unflatten(shape, [a + b for a, b in zip(leaves, noise, strict=True)])
    state = state.replace(params=params, target=state.target | {"projection": params["prediction"]})
    after, metrics = jax.jit(learner.auxiliary_step)(state, batch, seen)
    assert changed(state.params, after.params) == {"conv", "critic_head"} | HEADS

    twin = Twin(learner, state, HEADS)
    p = twin.heads["reconstruction"]
    place = torch.tensor(np.asarray(mlr.positions(16, 10)))
    latents = torch.stack([twin.encode(view) for view in seen.masked], dim=1)  # C, T, F
    tokens = torch.zeros(8, 31, 10)
    tokens[:, ::2] = latents + place
    tokens[:, 1::2] = linear(p, "action", torch.tensor(batch.sequence.action)) + place[:15]
    for i in range(2):
        block = within(p, f"block_{i}")
        q, k, v = linear(block, "qkv", norm(block, "norm_0", tokens)).chunk(3, dim=-1)
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + linear(block, "output", attended)
        hidden = torch.nn.functional.gelu(linear(block, "mlp_0", norm(block, "norm_1", tokens)))
        tokens = tokens + linear(block, "mlp_1", hidden)
    guess = mlp(twin.heads["prediction"], mlp(twin.heads["projection"], tokens[:, ::2]))
    whole = torch.stack([twin.target(view) for view in seen.later], dim=1)
    loss = (2 - 2 * torch.cosine_similarity(guess, whole, dim=-1)).mean()
    loss.backward()
    assert float(metrics["reconstruction_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    twin.assert_gradients(after.opt, {"encoder": {"conv", "critic_head"} | HEADS}, largest=10.0)
