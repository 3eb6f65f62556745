"""TACO's three losses by NumPy, and they, the critic on tokens, and all gradients against PyTorch."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.auxiliary.curl import info_nce
from tests.covr_jax.test_bases import drawn
from tests.covr_jax.test_learner import changed

torch = pytest.importorskip("torch")

from tests.covr_jax.torch_heads import Twin, linear, mlp, norm, within  # noqa: E402


def test_contrast_by_numpy():
    logits = np.random.default_rng(0).normal(size=(6, 6))
    right = [np.exp(row[i]) / np.exp(row).sum() for i, row in enumerate(logits)]
    assert float(info_nce(logits)) == pytest.approx(-np.log(right).mean(), rel=1e-5)


@pytest.fixture(scope="module")
def setting():
    return drawn("taco", method="none")


@pytest.mark.slow
def test_losses_and_gradients_are_torchs(setting):
    learner, state, batch, seen, _ = setting
    after, metrics = jax.jit(learner.auxiliary_step)(state, batch, seen)
    assert changed(state.params, after.params) == {"conv", "tokens", "temporal"} and learner.base.auxiliary.last
    assert not np.array_equal(seen.start, seen.again[0]) and seen.later.shape == seen.again.shape == (1, 8, 20, 20, 9)

    twin = Twin(learner, state, {"temporal"})
    p, actions = twin.heads["temporal"], torch.tensor(batch.sequence.action)

    def state_of(view):
        return torch.tanh(norm(p, "state.norm", linear(p, "state.linear", twin.features(view))))

    z = state_of(seen.start)
    with torch.no_grad():
        again, later = state_of(seen.again[0]), state_of(seen.later[0])
    u = torch.cat([twin.agent.tokens(actions[:, k]) for k in range(3)], dim=-1)
    assert u.shape == (8, 9)  # three actions of int(1.25 * 2) + 1 = 3 numbers
    u = torch.tanh(norm(p, "actions.norm", linear(p, "actions.linear", u)))
    joined, rights = torch.cat([z, u], dim=-1), torch.arange(8)
    ahead = mlp(within(p, "ahead"), joined)
    cross_entropy = torch.nn.functional.cross_entropy
    wanted = torch.tensor(batch.sequence.reward) @ torch.tensor([1, 0.99, 0.99**2])
    losses = {
        "temporal_loss": cross_entropy(ahead @ p["contrast.weight"] @ later.T, rights),
        "contrast_loss": cross_entropy(z @ p["contrast.weight"] @ again.T, rights),
        "reward_loss": ((mlp(within(p, "reward"), joined)[:, 0] - wanted) ** 2).mean(),
    }
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert float(metrics[name]) == pytest.approx(float(loss.detach()), rel=1e-4), name
    twin.assert_gradients(after.opt, {"encoder": {"conv", "tokens", "temporal"}})


@pytest.mark.slow
def test_the_critic_on_tokens_is_torchs(setting):
    learner, state, batch, seen, noise = setting
    after, metrics = jax.jit(learner.critic_step)(state, batch, seen, noise)
    assert changed(state.params, after.params) == {"conv", "critic_head", "critic", "tokens"}
    assert "tokens" not in state.target  # the targets read the online ones
    twin = Twin(learner, state, ())
    loss = twin.agent.critic_loss(batch, seen, noise)
    loss.backward()
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    twin.assert_gradients(after.opt, {"critic": {"conv", "critic_head", "critic", "tokens"}})
