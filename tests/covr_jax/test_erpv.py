"""ERPv in the learner: what it needs, what it moves, and each of its switches. Losses: test_vpg, test_ver, parity.

Ledger rows held here (docs/fidelity.md): E9, E15, E17.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import methods
from covr_jax.config import GuidanceConfig, VerConfig, VpgConfig
from covr_jax.learner import Learner
from covr_jax.losses import ver, vpg
from tests.covr_jax import tiny
from tests.covr_jax.test_learner import assert_same_bits, changed

BASE = "deepmdp"
SIZE = tiny.RENDER[BASE]


def learner_and_state(seed: int = 0, **changes):
    learner = tiny.learner(BASE, **{"method": "erpv", **changes})
    critic = learner.init(9, SIZE).target if learner.needs_value_critic else None
    return learner, learner.init(seed, SIZE, critic)


@cache
def after_actor_step(**changes):
    learner, state = learner_and_state(**changes)
    batch = tiny.batch(BASE, 1)
    views, noise = learner.draw(state, batch)
    return learner, state, jax.jit(learner.actor_step)(state, batch, views, noise), (batch, views, noise)


def updated(batches, **changes):
    learner, state = learner_and_state(**changes)
    return learner.update_many(state, batches)[0]


def test_with_both_weights_at_zero_it_is_its_base_bit_for_bit():
    batches = tiny.batch(BASE, 0, leading=(4,))
    off = updated(batches, vpg=VpgConfig(weight=0.0), ver=VerConfig(weight=0.0))
    assert_same_bits(updated(batches, method="none"), off)


def test_without_labels_it_learns_as_its_base_bit_for_bit():
    batches = tiny.batch(BASE, 0, leading=(4,))
    base = updated(batches, method="none")
    silent = updated(batches._replace(prior_ok=0 * batches.prior_ok))
    for name in ("params", "target", "opt"):
        assert_same_bits(getattr(base, name), getattr(silent, name))


def test_it_moves_actor_and_temperature_alone_and_never_its_value_critic():
    _, before, after, _ = after_actor_step()
    assert changed(before.params, after.params) == {"actor_head", "actor", "log_alpha"}
    assert changed(before.opt, after.opt) == {"actor", "alpha"}
    for name in ("target", "value_critic"):
        assert_same_bits(getattr(before, name), getattr(after, name))


def test_each_term_can_be_taken_away():
    plain = after_actor_step(method="none")[2]
    both = after_actor_step()[2]
    no_ver = after_actor_step(ver=VerConfig(weight=0.0))[2]  # M3
    no_vpg = after_actor_step(vpg=VpgConfig(weight=0.0))[2]  # M1
    assert changed(plain.opt, no_ver.opt) == {"actor"}
    assert changed(plain.opt, no_vpg.opt) == {"alpha"}
    assert_same_bits(no_ver.params["actor"], both.params["actor"])
    assert_same_bits(no_vpg.params["log_alpha"], both.params["log_alpha"])


@pytest.mark.parametrize("gate", ["value_critic", "advantage", "online_critic", "ones"])
def test_whose_value_the_gate_compares(gate):
    choice = {} if gate == "value_critic" else {"vpg": VpgConfig(gate=gate)}
    learner, state, after, (batch, views, noise) = after_actor_step(**choice)
    agent, params = learner.agent, state.params
    assert learner.needs_value_critic == (gate in ("value_critic", "advantage"))
    features = agent.features(params, views.o)
    q_rl = agent.value(params, features, agent.policy(params, features, noise.actor).action)
    expected = np.ones(16)
    if gate != "ones":
        critic = params if gate == "online_critic" else state.value_critic
        seen = agent.features(critic, views.o)
        q_vlm = agent.value(critic, seen, batch.prior_action)
        if gate == "advantage":
            q_vlm += agent.value(params, features, batch.action) - agent.value(critic, seen, batch.action)
        expected = np.asarray(vpg.gate(q_rl, q_vlm, "joint", batch.prior_ok))
    labelled = batch.prior_ok > 0
    metrics = after.actor_metrics
    assert float(metrics["gate_mean"]) == pytest.approx(expected[labelled].mean(), rel=1e-4)
    assert float(metrics["gate_open"]) == pytest.approx((expected[labelled] > 0).mean(), rel=1e-6)


def test_calibration_takes_the_value_critics_bias_away():
    plain = after_actor_step()[2].actor_metrics["value_critic_bias"]
    fitted = after_actor_step(vpg=VpgConfig(calibrate=True))[2].actor_metrics["value_critic_bias"]
    assert abs(float(plain)) > 1e-2 and abs(float(fitted)) < 1e-5


DISTANCES = {
    "real": {},
    "predicted": {"ver": VerConfig(next="predicted")},  # M8
    "action": {"ver": VerConfig(distance="action")},  # M4
    "policy": {"ver": VerConfig(other="policy")},  # M5
}


@pytest.mark.parametrize("case", DISTANCES)
def test_what_the_temperature_term_compares(case):
    learner, state, after, (batch, views, noise) = after_actor_step(**DISTANCES[case])
    agent, params = learner.agent, state.params
    features = agent.features(params, views.o)
    latent = agent.latent(params["critic_head"], features)
    theirs = batch.prior_action
    if case == "policy":
        theirs = agent.policy(params, features, noise.other).action
    if case == "action":
        distance = ver.action_distance(theirs, batch.action)
    else:
        following = agent.encode(params, views.next_o)
        if case == "predicted":
            ours = agent.policy(params, features, noise.actor).action
            following = agent.predict(params, "transition", latent, ours)
        distance = ver.latent_distance(agent.predict(params, "transition", latent, theirs), following)
    targets = np.asarray(ver.alpha_target(jnp.asarray(distance)))[batch.prior_ok > 0]
    for part, level in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
        got = float(after.actor_metrics[f"alpha_target_{part}"])
        assert got == pytest.approx(float(np.quantile(targets, level)), rel=1e-3), part


def test_the_temperature_follows_its_target_and_m7_drops_sacs_own_loss():
    low = VerConfig(rule="affine", low=0.0, high=0.0, entropy_loss=False)
    high = VerConfig(rule="affine", low=1.0, high=1.0, entropy_loss=False)
    start = np.log(0.1)
    assert float(after_actor_step(ver=low)[2].params["log_alpha"]) < start
    assert float(after_actor_step(ver=high)[2].params["log_alpha"]) > start
    # (0.1 - 1)^2 times 10; with SAC's own loss beside it the value differs.
    alone = float(after_actor_step(ver=high)[2].actor_metrics["alpha_loss"])
    beside = float(after_actor_step(ver=VerConfig(rule="affine", low=1.0))[2].actor_metrics["alpha_loss"])
    assert alone == pytest.approx(8.1, rel=1e-5) and beside != pytest.approx(8.1, rel=1e-3)


def test_m6_sets_the_temperature_to_zero_late():
    learner, state = learner_and_state(alpha_zero_after=3)
    alphas = []
    for seed in range(6):
        state, metrics = learner.update(state, tiny.batch(BASE, seed))
        alphas.append(float(metrics["alpha"]))
    assert min(alphas[:3]) > 0.09 and alphas[4] == alphas[5] == 0.0


def test_rsf_draws_its_gate_anew_in_every_update():
    first = after_actor_step(method="rsf")
    assert not first[0].needs_value_critic
    labelled = first[3][0].prior_ok > 0
    uniform = np.asarray(first[3][2].uniform)
    assert float(first[2].actor_metrics["gate_mean"]) == pytest.approx(uniform[labelled].mean(), rel=1e-5)
    later = first[0].draw(first[1].replace(updates=jnp.int32(1)), first[3][0])[1].uniform
    assert not np.array_equal(uniform, later)


@pytest.mark.parametrize("method", ["covr_vpg", "covr_ver", "covr_erpv"])
def test_combinations_have_the_terms_of_both(method):
    _, _, after, _ = after_actor_step(method=method)
    assert ("gate_open" in after.actor_metrics) == (method != "covr_ver")
    assert ("alpha_target_p50" in after.actor_metrics) == (method != "covr_vpg")
    assert float(after.actor_metrics["guidance_loss"]) > 0


def test_a_gates_precision_is_the_reliable_share_of_what_it_opens_for():
    # Six labelled samples, three reliable; open for four labelled ones, one of them reliable, and one without a label.
    batch = tiny.batch(BASE, 0, size=8)._replace(
        prior_ok=np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32),
        prior_reliable=np.array([1, 1, 1, 0, 0, 0, 0, 0], np.float32),
    )
    told = methods._precision(jnp.array([1.0, 0, 0, 1, 1, 1, 1, 0]), batch)
    assert {name: float(value) for name, value in told.items()} == {"gate_precision": 0.25, "reliable_share": 0.5}
    assert np.isnan(methods._precision(jnp.zeros(8), batch)["gate_precision"])
    assert methods._precision(jnp.zeros(8), batch._replace(prior_reliable=None)) == {}


def test_precision_is_a_metric_where_labels_say_whether_they_are_right():
    names = {"gate_precision", "reliable_share"}
    for method, graded, expected in (("erpv", True, names), ("erpv", False, set()), ("dpl", True, set())):
        learner = Learner(tiny.config(BASE, method=method), tiny.ACTION_DIM, tiny.STACK, graded)
        assert names & set(learner.metric_names) == expected


def test_annealed_guidance_is_guidance_at_first_and_the_base_after_its_phase():
    batch = tiny.batch("rad", 1)

    def moved(updates, **changes):
        learner = tiny.learner("rad", **changes)
        state = learner.init(0, tiny.RENDER["rad"]).replace(updates=jnp.int32(updates))
        views, noise = learner.draw(state, batch)
        return jax.jit(learner.actor_step)(state, batch, views, noise)

    annealed = {"method": "apl", "guidance": GuidanceConfig(phase=100)}
    assert_same_bits(moved(0, **annealed).params, moved(0, method="dpl").params)
    after = moved(100, **annealed)
    assert float(after.actor_metrics["guidance_weight"]) == float(after.actor_metrics["guidance_loss"]) == 0
    for ours, bases in zip(*(jax.tree.leaves(s.params) for s in (after, moved(100, method="none"))), strict=True):
        np.testing.assert_allclose(ours, bases, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"needs learner\.guidance\.phase=N"):
        tiny.learner("rad", method="apl")
