"""What each base adds to SAC, by oracles; whole updates are compared with PyTorch in test_torch_parity."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import augment, methods, views
from covr_jax.agent import HeadSpec, pick
from covr_jax.auxiliary import Auxiliary
from covr_jax.auxiliary.curl import info_nce
from covr_jax.losses import sac
from covr_jax.methods import BASES, Base
from covr_jax.networks import Masker
from tests.covr_jax import tiny
from tests.covr_jax.test_learner import assert_same_bits, changed, host


def drawn(base: str, seed: int = 0, **changes):
    """Learner, a state whose targets are not its online networks, a batch, views and noise."""
    learner = tiny.learner(base, **changes)
    state = learner.init(0, tiny.RENDER[base])
    state = state.replace(target=learner.init(1, tiny.RENDER[base]).target)
    batch = tiny.batch(base, seed)
    return learner, state, batch, *learner.draw(state, batch)


def test_drq_averages_the_target_over_two_views():
    learner, state, batch, seen, noise = drawn("drq")
    assert not np.array_equal(seen.o, seen.copies[0]) and not np.array_equal(seen.next_o, seen.next_copies[0])
    assert not np.array_equal(noise.target, noise.target_copies[0])
    swapped = seen._replace(next_o=seen.next_copies[0], next_copies=(seen.next_o,))
    turned = noise._replace(target=noise.target_copies[0], target_copies=(noise.target,))
    step = jax.jit(learner.critic_step)
    _, metrics = step(state, batch, seen, noise)
    _, other = step(state, batch, swapped, turned)
    assert float(metrics["q_target_mean"]) == pytest.approx(float(other["q_target_mean"]), rel=1e-5)
    singles = [learner._td_target(state, batch, seen.next_o, noise.target)]
    singles.append(learner._td_target(state, batch, seen.next_copies[0], noise.target_copies[0]))
    assert float(metrics["q_target_mean"]) == pytest.approx(float(np.mean(singles)), rel=1e-5)


def test_svea_with_equal_halves_is_one_loss_over_both_streams():
    learner, state, batch, seen, _ = drawn("svea")
    agent, target = learner.agent, np.linspace(-1, 1, 16, dtype=np.float32)

    def halves(critic):
        losses = []
        for weight, view in zip(learner.base.view_weights, (seen.o, *seen.copies), strict=True):
            values = agent.values(critic, agent.features(critic, view), batch.action)
            losses.append(weight * sac.critic_loss(*values, target))
        return sum(losses)

    def joint(critic):
        view = jnp.concatenate([seen.o.astype(jnp.float32), seen.copies[0]])
        twice = jnp.concatenate([batch.action] * 2)
        q1, q2 = agent.values(critic, agent.features(critic, view), twice)
        return sac.critic_loss(q1, q2, jnp.concatenate([target] * 2))

    critic = pick(state.params, agent.critic_parts)
    first, second = (jax.jit(jax.value_and_grad(loss))(critic) for loss in (halves, joint))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_random_convolution_is_torchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    view = rng.integers(0, 256, (3, 7, 7, 6), dtype=np.uint8)
    kernels = rng.normal(size=(3, 3, 3, 3, 3)).astype(np.float32)  # B, row, column, in, out
    filtered = np.asarray(augment.filtered(view, kernels))
    for sample, kernel, got in zip(view, kernels, filtered, strict=True):
        for frame in (0, 3):
            pixels = torch.tensor(sample[..., frame : frame + 3]).permute(2, 0, 1)[None].float() / 255
            padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
            want = torch.sigmoid(torch.nn.functional.conv2d(padded, torch.tensor(kernel).permute(3, 2, 0, 1))) * 255
            np.testing.assert_allclose(got[..., frame : frame + 3], want[0].permute(1, 2, 0), rtol=1e-4, atol=1e-2)
    strong = np.asarray(augment.random_conv(jax.random.PRNGKey(0), np.repeat(view[:1], 2, axis=0)))
    assert not np.allclose(strong[0], strong[1])  # a kernel a sample
    frames = np.concatenate([view[:1, ..., :3]] * 2, axis=-1)
    strong = np.asarray(augment.random_conv(jax.random.PRNGKey(0), frames))
    np.testing.assert_array_equal(strong[..., :3], strong[..., 3:])  # and one for all of its frames


def test_info_nce():
    logits = np.log(np.array([[1.0, 3.0], [2.0, 2.0]]))
    assert float(info_nce(logits)) == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-6)
    assert float(info_nce(logits + 7.0)) == pytest.approx((math.log(4) + math.log(2)) / 2, rel=1e-6)


def test_curl_contrasts_two_crops_and_steps_the_encoder_twice_after_the_targets():
    learner, state, batch, seen, _ = drawn("curl")
    assert not np.array_equal(seen.o, seen.positive)
    after, metrics = jax.jit(learner.auxiliary_step)(state, batch, seen)
    assert changed(state.params, after.params) == {"conv", "critic_head", "contrast"}
    weight = np.asarray(state.params["contrast"]["weight"])
    assert 0 <= weight.min() < 0.05 and 0.95 < weight.max() <= 1
    # A first step of Adam moves every weight by the learning rate, wherever the gradient is not tiny.
    for name, steps in (("critic_head", 2), ("contrast", 1)):
        for old, new in zip(jax.tree.leaves(state.params[name]), jax.tree.leaves(after.params[name]), strict=True):
            assert np.median(np.abs(np.asarray(new) - np.asarray(old))) == pytest.approx(steps * 1e-3, rel=0.02)
    assert metrics["contrast_loss"] > 0 and learner.base.auxiliary.last


def test_madi_masks_pixels_softly_and_frame_by_frame():
    pictures = np.random.default_rng(0).integers(1, 256, (2, 6, 6, 9), dtype=np.uint8)
    masker = Masker()
    params = masker.init(jax.random.PRNGKey(0), pictures)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 10_433
    share = np.asarray(masker.apply(params, pictures)) / pictures
    assert share.min() > 0 and share.max() < 1
    np.testing.assert_allclose(share[..., 0], share[..., 2], rtol=1e-4)  # one mask for R, G and B
    alone = np.asarray(masker.apply(params, pictures[..., 3:6]))
    np.testing.assert_allclose(np.asarray(masker.apply(params, pictures))[..., 3:6], alone, rtol=1e-4)


def test_madis_masker_follows_the_critics_loss_alone():
    learner, state, batch, seen, noise = drawn("madi")
    after, metrics = jax.jit(learner.critic_step)(state, batch, seen, noise)
    assert changed(state.params, after.params) == {"conv", "critic_head", "critic", "masker"}
    assert changed(state.params, jax.jit(learner.actor_step)(state, batch, seen, noise).params) == {
        "actor_head", "actor", "log_alpha",
    }  # fmt: skip
    assert "masker" not in state.target  # the targets look through the online one
    other = learner.init(5, 20).params["masker"]
    _, changed_metrics = jax.jit(learner.critic_step)(
        state.replace(params=state.params | {"masker": other}), batch, seen, noise
    )
    assert abs(float(metrics["q_target_mean"] - changed_metrics["q_target_mean"])) > 1e-4


def test_resacts_density_by_numerical_change_of_variables():
    """P(a <= x) is known: a = tanh(previous + mu + sigma eps). Its derivative at the sample is the density."""
    learner, state, batch, seen, noise = drawn("resact")
    agent, previous = learner.agent, 0.9 * batch.previous_action
    features = agent.features(state.params, seen.o)
    policy = agent.policy(state.params, features, 0.5 * noise.actor, previous)
    mean, log_std = (np.asarray(x, np.float64) for x in agent.distribution(state.params, features, previous))
    action, log_prob = np.asarray(policy.action, np.float64), np.zeros(16)
    for i in range(16):
        for j in range(2):
            normal, h = NormalDist(mean[i, j], math.exp(log_std[i, j])), 1e-6
            below, above = (normal.cdf(math.atanh(action[i, j] + s * h)) for s in (-1, 1))
            log_prob[i] += math.log((above - below) / (2 * h))
    np.testing.assert_allclose(policy.log_prob, log_prob, atol=0.02)
    # The network's mean is a change of the previous action: without one, the same features give another policy.
    np.testing.assert_allclose(policy.mean_action, np.tanh(mean), rtol=1e-5)
    _, still = agent.distribution(state.params, features, 0 * previous), agent.policy(
        state.params, features, noise.actor, 0 * previous
    )
    moved = np.abs(np.asarray(still.mean_action) - np.asarray(policy.mean_action)).max(axis=1)
    assert (moved[batch.previous_ok > 0] > 0.01).mean() > 0.8 and (moved[batch.previous_ok == 0] < 1e-6).all()


def test_resacts_encoder_sees_the_difference():
    learner, state, *_, seen, _ = drawn("resact")
    params = state.params | {"conv": {**state.params["conv"], "older": state.params["conv"]["newer"]}}
    still = jnp.concatenate([seen.o[..., :9]] * 2, axis=-1)
    np.testing.assert_allclose(learner.agent.features(params, still), 0, atol=1e-6)  # F - F
    assert np.abs(learner.agent.features(params, seen.o)).max() > 0.01
    assert np.abs(learner.agent.features(state.params, still)).max() > 0.01  # F and G are not tied


def test_the_vlms_term_pulls_the_actor_alone_on_other_bases_too():
    """On the one whose policy reads more than a view; the value of COVR's term on every base: test_torch_parity."""
    learner, state, batch, seen, noise = drawn("resact", method="none")
    plain = jax.jit(learner.actor_step)(state, batch, seen, noise)
    step = jax.jit(tiny.learner("resact", method="covr").actor_step)
    guided = step(state, batch, seen, noise)
    assert changed(plain.params, guided.params) == {"actor_head", "actor"}
    assert guided.actor_metrics["guidance_loss"] > 0
    silent = step(state, batch._replace(prior_ok=0 * batch.prior_ok), seen, noise)
    assert_same_bits(plain, silent)


@pytest.mark.parametrize("base", ["playvirtual", "mlr", "taco"])
def test_a_whole_update_moves_every_part(base):
    learner = tiny.learner(base, method="none", filters=(4, 4), feature_dim=6, hidden_dim=8, model_hidden_dim=8)
    before = learner.init(0, tiny.RENDER[base])
    params, target = host(before.params), host(before.target)
    batch = tiny.batch(base, 0, size=4)
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # compiled, that is
    after, metrics = learner.update.lower(before, batch).compile(quickly)(before, batch)
    assert changed(params, after.params) == set(params) and changed(target, after.target) == set(target)
    assert set(metrics) == set(learner.metric_names)
    assert [name for name, value in metrics.items() if not np.isfinite(value)] == []


@pytest.mark.parametrize("rate", ["encoder_lr", "decoder_lr"])
def test_the_document_says_which_rate_counts_for_which_base(rate):
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:4] for line in text.partition("## Rates")[2].partition("\n## ")[0].splitlines()]
    told = {
        base.strip(" `"): "not used" not in cells[rate == "decoder_lr"]
        for bases, *cells in (row for row in rows if len(row) == 3 and row[0].startswith(" `") and "--" not in row[0])
        for base in bases.split(",")
    }

    def steps(row, value):
        movers = row.auxiliary.movers(tiny.config("sac", **{rate: value}), ("head",))
        ones = {name: jnp.ones(1) for mover in movers.values() for name in mover.parts}
        given = [(mover.optimiser, pick(ones, mover.parts)) for mover in movers.values()]
        return [optimiser.update(part, optimiser.init(part), part)[0] for optimiser, part in given]

    with_loss = {name: row for name, row in BASES.items() if row.auxiliary is not None}
    assert {name: steps(row, 1.0) != steps(row, 2.0) for name, row in with_loss.items()} == told


class _Brightness(nn.Module):
    """The toy's head: latent [B,F] -> one number a picture [B,1]."""

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        return nn.Dense(1)(latent)


def _brightness_loss(moved, scene):
    latent = scene.agent.encode(moved, scene.views.o)
    wanted = jnp.mean(scene.views.o.astype(jnp.float32) / 255.0, axis=(1, 2, 3))
    value = jnp.mean((scene.agent.predict(moved, "brightness", latent)[:, 0] - wanted) ** 2)
    return value, {"brightness_loss": value}


def test_a_toy_method_is_one_loss_and_one_row(monkeypatch):
    """What WORKSPACE.md says of adding a base: this is all of it."""
    heads = {"brightness": HeadSpec(_Brightness(), ("latent",))}
    toy = Auxiliary(lambda config: heads, _brightness_loss, ("brightness_loss",))
    row = Base(augmentations=("shift",), auxiliary=toy, views=views.twice, view_weights=(1.0, 1.0))
    monkeypatch.setitem(BASES, "toy", row)
    monkeypatch.setitem(tiny.RENDER, "toy", 20)
    assert methods.row(BASES, "base", "toy").auxiliary is toy
    learner = tiny.learner("toy", method="covr")
    state, batch = learner.init(0, 20), tiny.batch("toy", 0)
    before, losses = jax.device_get(state.params), []
    for _ in range(20):
        state, metrics = learner.update(state, batch)
        losses.append(float(metrics["brightness_loss"]))
    assert "brightness" in changed(before, state.params)
    assert set(metrics) == set(learner.metric_names) and metrics["guidance_loss"] > 0
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
