"""The composed update: what moves what, and what must be equal bit for bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.config import GuidanceConfig, VerConfig
from covr_jax.learner import Learner
from covr_jax.methods import BASES, METHODS
from tests.covr_jax import tiny

EVERY_BASE = pytest.mark.parametrize("base", tiny.BASES)


def assert_same_bits(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for (path, a), b in zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), jax.tree_util.keystr(path)


def changed(before, after) -> set[str]:
    """Top-level names whose arrays differ."""
    return {
        name
        for name in before
        if any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        )
    }


def host(tree):
    """A copy that survives donation."""
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


def run(learner, base, batches):
    state, metrics = learner.init(0, tiny.RENDER[base]), None
    for i in range(batches.reward.shape[0]):
        state, metrics = learner.update(state, jax.tree.map(lambda array, i=i: array[i], batches))
    return state, metrics


@EVERY_BASE
def test_many_updates_equal_single_ones_bit_for_bit(base):
    learner = tiny.learner(base)
    batches = tiny.batch(base, 0, leading=(5,))
    single, last = run(learner, base, batches)
    many, history = learner.update_many(learner.init(0, tiny.RENDER[base]), batches)
    assert_same_bits(single, many)
    assert all(values.shape == (5,) for values in history.values())
    assert_same_bits(last, {name: values[-1] for name, values in history.items()})


@EVERY_BASE
def test_without_labels_a_method_is_its_base_bit_for_bit(base):
    batches = tiny.batch(base, 1, leading=(5,))
    silent = batches._replace(prior_ok=0 * batches.prior_ok)
    baseline, _ = run(tiny.learner(base, method="none"), base, batches)
    learner = tiny.learner(base, method="covr")
    without, metrics = run(learner, base, silent)
    assert_same_bits(baseline, without)
    assert metrics["guidance_loss"] == 0 and metrics["prior_share"] == 0
    guided, metrics = run(learner, base, batches)
    assert metrics["guidance_loss"] > 0
    assert "actor" in changed(baseline.params, guided.params)


@EVERY_BASE
def test_guidance_moves_the_actor_alone(base):
    batches = tiny.batch(base, 2, leading=(1,))
    baseline, plain = run(tiny.learner(base, method="none"), base, batches)
    guided, metrics = run(tiny.learner(base, method="dpl"), base, batches)
    assert changed(baseline.params, guided.params) == {"actor_head", "actor"}
    assert changed(baseline.opt, guided.opt) == {"actor"}
    assert changed(baseline.target, guided.target) == set()
    assert plain["guidance_gradient_norm"] == 0 < metrics["guidance_gradient_norm"]
    for name in set(plain) - {"guidance_loss", "guidance_gradient_norm"}:
        np.testing.assert_array_equal(plain[name], metrics[name], err_msg=name)


def test_guidance_is_on_in_every_nth_actor_update():
    learner = tiny.learner("sac", guidance=GuidanceConfig(every=2), actor_period=2)
    _, metrics = learner.update_many(learner.init(0, 20), tiny.batch("sac", 3, leading=(8,)))
    # Actor updates 0, 2, 4, 6; the metric is that of the latest one.
    np.testing.assert_array_equal(metrics["guidance_loss"] > 0, [1, 1, 0, 0, 1, 1, 0, 0])


def test_guidance_pulls_the_policy_to_the_label():
    learner = tiny.learner("sac", guidance=GuidanceConfig(weight=100.0, action="mean"), actor_period=1)
    batch = tiny.batch("sac", 4)
    batch = batch._replace(
        prior_action=np.full_like(batch.prior_action, 0.5), prior_ok=np.ones_like(batch.prior_ok)
    )
    many = jax.tree.map(lambda array: np.stack([array] * 100), batch)
    state, _ = learner.update_many(learner.init(0, 20), many)
    stack = np.moveaxis(batch.frames[:, :3], 1, 3).reshape(16, 20, 20, 9)
    np.testing.assert_allclose(learner.mean_action(state.params, stack), 0.5, atol=0.15)


@EVERY_BASE
def test_each_step_moves_its_own_parameters(base):
    learner = tiny.learner(base)
    state = learner.init(0, tiny.RENDER[base])
    batch = tiny.batch(base, 5)
    views, noise = learner.draw(state, batch)
    after, _ = jax.jit(learner.critic_step)(state, batch, views, noise)
    assert changed(state.params, after.params) == {"conv", "critic_head", "critic"}
    assert changed(state.opt, after.opt) == {"critic"}
    after = jax.jit(learner.actor_step)(state, batch, views, noise)
    assert changed(state.params, after.params) == {"actor_head", "actor", "log_alpha"}
    assert changed(state.opt, after.opt) == {"actor", "alpha"}
    if base == "deepmdp":
        after, _ = jax.jit(learner.auxiliary_step)(state, batch, views)
        assert changed(state.params, after.params) == {"conv", "critic_head", "transition", "reward"}
        assert changed(state.opt, after.opt) == {"encoder", "decoder"}


def test_periods_of_actor_and_targets():
    learner = tiny.learner("sac", actor_period=3, target_period=2)
    state = learner.init(0, 20)
    moved = {"actor": [], "target": [], "critic": []}
    for seed in range(6):
        before = host(state)
        state, _ = learner.update(state, tiny.batch("sac", seed))
        parts = changed(before.params, state.params)
        assert ("actor" in parts) == ("log_alpha" in parts) == ("actor_head" in parts)
        moved["actor"].append("actor" in parts)
        moved["critic"].append("critic" in parts)
        moved["target"].append(changed(before.target, state.target) == {"conv", "critic_head", "critic"})
    assert moved == {"actor": [1, 0, 0, 1, 0, 0], "target": [1, 0, 1, 0, 1, 0], "critic": [1] * 6}
    assert int(state.updates) == 6


def test_targets_are_exponential_averages():
    learner = tiny.learner("sac", critic_tau=0.25, encoder_tau=0.5)
    state = learner.init(0, 20)
    state = state.replace(target=learner.init(1, 20).target)
    after = learner.target_step(state)
    for name, tau in (("conv", 0.5), ("critic_head", 0.5), ("critic", 0.25)):
        for old, online, new in zip(
            *(jax.tree.leaves(tree[name]) for tree in (state.target, state.params, after.target)), strict=True
        ):
            want = (1 - tau) * np.asarray(old) + tau * np.asarray(online)
            np.testing.assert_allclose(new, want, rtol=1e-5, atol=1e-7)


@EVERY_BASE
def test_metrics(base):
    learner = tiny.learner(base)
    batch = tiny.batch(base, 6)
    _, metrics = learner.update(learner.init(0, tiny.RENDER[base]), batch)
    expected = {
        "critic_loss", "actor_loss", "alpha_loss", "alpha", "entropy", "q_mean", "q_target_mean", "reward_mean",
        "guidance_loss", "prior_share", "actor_gradient_norm", "guidance_gradient_norm",
    }  # fmt: skip
    if base == "deepmdp":
        expected |= {"transition_loss", "reward_loss"}
    assert set(metrics) == expected
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
    assert all(np.isfinite(value) for value in metrics.values())
    assert float(metrics["reward_mean"]) == pytest.approx(batch.reward.mean(), rel=1e-5)
    assert float(metrics["prior_share"]) == pytest.approx(batch.prior_ok.mean())
    assert float(metrics["alpha"]) == pytest.approx(0.1)


def test_update_compiles_once_and_gives_the_old_state_away():
    learner = tiny.learner("rad")
    first = state = learner.init(0, 24)
    for seed in range(3):
        state, _ = learner.update(state, tiny.batch("rad", seed))
    assert learner.update._cache_size() == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))


def test_a_saved_state_goes_on_as_if_never_stopped():
    learner = tiny.learner("deepmdp")
    batches = tiny.batch("deepmdp", 7, leading=(4,))
    through, _ = run(learner, "deepmdp", batches)
    half, _ = run(learner, "deepmdp", jax.tree.map(lambda array: array[:2], batches))
    restored = jax.tree.map(jnp.asarray, host(half))
    other = tiny.learner("deepmdp")
    for i in (2, 3):
        restored, _ = other.update(restored, jax.tree.map(lambda array, i=i: array[i], batches))
    assert_same_bits(through, restored)


def test_seeds_and_counters_decide_the_random_numbers():
    learner = tiny.learner("rad")
    states = [learner.init(seed, 24) for seed in (0, 0, 1)]
    assert_same_bits(states[0], states[1])
    assert "actor" in changed(states[0].params, states[2].params)
    batch = tiny.batch("rad", 0)
    draws = [learner.draw(state, batch) for state in (states[0], states[1], states[2])]
    later = learner.draw(states[0].replace(updates=jnp.int32(1)), batch)
    assert_same_bits(draws[0], draws[1])
    for other in (draws[2], later):
        assert not np.array_equal(draws[0][1].actor, other[1].actor)
        assert not np.array_equal(draws[0][0].o, other[0].o)
    assert not np.array_equal(draws[0][1].actor, draws[0][1].target)


def test_actions():
    learner = tiny.learner("rad")
    state = learner.init(0, 24)
    stack = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 9), dtype=np.uint8)
    mean = np.asarray(learner.mean_action(state.params, stack))
    first, second = (np.asarray(learner.sample_action(state.params, stack, jax.random.PRNGKey(k))) for k in (0, 1))
    for actions in (mean, first, second):
        assert actions.shape == (3, 2) and actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, learner.sample_action(state.params, stack, jax.random.PRNGKey(0)))
    # Crop acts on the centre: the two-pixel border is not seen.
    border = stack.copy()
    border[:, :2], border[:, -2:], border[:, :, :2], border[:, :, -2:] = 0, 0, 0, 0
    np.testing.assert_array_equal(mean, learner.mean_action(state.params, border))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": "planet"}, "base 'planet' is unknown; allowed: sac, rad, deepmdp, drq"),
        ({"method": "magic"}, "method 'magic' is unknown; allowed: none, dpl, ask, apl, rsf, covr, erpv, "),
        ({"augmentation": "none"}, "augmentation 'none' is none of base 'rad'; allowed: translate, crop"),
        ({"guidance": GuidanceConfig(action="stored")}, "allowed: sample, mean"),
        ({"method": "erpv"}, "base rad has not: take base deepmdp, or learner.ver.distance=action"),
        ({"method": "erpv", "ver": VerConfig(distance="action", low=2.0)}, "ver.low=2.0 must not be above"),
        ({"image_size": 4}, "image_size 4 is too small"),
        ({"image_size": None}, "image_size is not set"),
    ],
)
def test_choices_that_do_not_exist(changes, words):
    with pytest.raises(ValueError, match=words):
        tiny.learner(**{"base": "rad", **changes})


def test_frames_that_do_not_fit():
    with pytest.raises(ValueError, match="render_size 19"):
        tiny.learner("rad").init(0, 19)


def test_the_table():
    assert {"sac", "rad", "deepmdp", "drq", "svea", "madi", "curl", "per", "ere", "resact"} <= set(BASES)
    assert not METHODS["none"].asks_prior and METHODS["none"].actor_term is None
    assert METHODS["dpl"].asks_prior and not METHODS["dpl"].tunes_prior
    assert METHODS["covr"].asks_prior and METHODS["covr"].tunes_prior
    assert isinstance(tiny.learner("sac", augmentation="none"), Learner)
    assert tiny.learner("rad", augmentation=None).augmentation == "translate"
    assert tiny.learner("rad", augmentation="crop").augmentation == "crop"
