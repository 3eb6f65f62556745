"""The learner and a plain PyTorch agent with the same weights, batch, views and noise.

Ledger rows held here (docs/fidelity.md): S12, S13, S19, E11, E23.
"""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from covr_jax.config import GuidanceConfig  # noqa: E402
from tests.covr_jax import tiny  # noqa: E402
from tests.covr_jax.torch_twin import TorchTwin  # noqa: E402

torch.set_num_threads(1)
CASES = {
    "sac": {"guidance": GuidanceConfig(weight=2.0, every=2)},
    "rad": {},
    "deepmdp": {"guidance": GuidanceConfig(action="mean", reduction="mean")},
    "erpv": {"base": "deepmdp", "method": "erpv"},
    "drq": {},
    "svea": {},
    "madi": {},
    "curl": {},
    "per": {},
    "resact": {"guidance": GuidanceConfig(action="mean")},
}
# MaDi's masker convolves every pixel: slow.
EVERY_CASE = pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "madi" else ()) for case in CASES]
)
# The others' losses and gradients are held above; what follows is SAC's, or DeepMDP's, which ERPv's case has.
STEPPED = [
    pytest.param(case, marks=() if case in ("sac", "erpv", "curl") else pytest.mark.slow) for case in CASES
]


def pair(case):
    """Learner, a state whose targets are other weights than the online ones, and the twin with the same weights."""
    changes = {"base": case, "decoder_weight_decay": 1e-3} | CASES[case]
    learner = tiny.learner(**changes)
    first, second, third = (learner.init(seed=s, render_size=tiny.RENDER[changes["base"]]) for s in (3, 4, 5))
    state = first.replace(target=second.target, value_critic=third.target if learner.needs_value_critic else {})
    twin = TorchTwin(learner.config, tiny.ACTION_DIM, tiny.STACK)
    twin.load(state.params, state.target, state.value_critic)
    return learner, state, twin


def relative(got, want) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-8))


def moments(opt):
    """Adam's first moments: 1 - beta1 times the gradient after one step."""
    return next(part.mu for part in jax.tree.leaves(opt, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(part, "mu"))


def compare_trees(twin, tree, owner, read, tolerance):
    pairs = twin.layers(tree, owner)
    assert pairs
    for layer, node in pairs:
        for want, parameter in zip(twin.to_torch(layer, node), (layer.weight, layer.bias), strict=True):
            got = read(parameter)
            assert relative(got, want) < tolerance, (layer, node.keys())


@EVERY_CASE
def test_losses_and_gradients_agree(case):
    learner, state, twin = pair(case)
    batch = tiny.batch(learner.config.base, seed=1)
    views, noise = learner.draw(state, batch)

    def gradient(parameter):
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def clear():
        for optimiser in twin.optimisers.values():
            optimiser.zero_grad()

    after, metrics = jax.jit(learner.critic_step)(state, batch, views, noise)
    loss = twin.critic_loss(batch, views, noise)
    loss.backward()
    assert float(metrics["critic_loss"]) == pytest.approx(float(loss.detach()), rel=1e-4)
    mean = jax.tree.map(lambda m: m / 0.1, moments(after.opt["critic"]))
    assert set(mean) == {"conv", "critic_head", "critic"} | ({"masker"} if case == "madi" else set())
    compare_trees(twin, mean, twin, gradient, 1e-4)

    if learner.base.auxiliary:
        clear()
        after, metrics = jax.jit(learner.auxiliary_step)(state, batch, views)
        losses = twin.auxiliary_losses(batch, views)
        sum(losses.values()).backward()
        for name, loss in losses.items():
            assert float(metrics[name]) == pytest.approx(float(loss.detach()), rel=1e-4)
        mean = jax.tree.map(lambda m: m / 0.1, moments(after.opt["encoder"]))
        assert set(mean) == {"conv", "critic_head"}
        compare_trees(twin, mean, twin, gradient, 1e-4)
        heads = moments(after.opt["decoder"])
        decay = 0.0 if case == "curl" else learner.config.decoder_weight_decay
        mean = jax.tree.map(lambda m, p: m / 0.1 - decay * p, heads, {name: state.params[name] for name in heads})
        compare_trees(twin, mean, twin, gradient, 1e-4)
        if case == "curl":
            assert set(heads) == {"conv", "critic_head", "contrast"}
            assert relative(twin.contrast.grad, mean["contrast"]["weight"]) < 1e-4
        else:
            assert set(heads) == {"transition", "reward"}

    clear()
    after = jax.jit(learner.actor_step)(state, batch, views, noise)
    if case == "erpv":
        assert 0 < float(after.actor_metrics["gate_open"]) < 1
    losses = twin.actor_losses(batch, views, noise)
    for metric, loss in (("actor_gradient_norm", "actor_loss"), ("guidance_gradient_norm", "guidance_loss")):
        moved = [*twin.actor_head.parameters(), *twin.actor.parameters()]
        gradients = torch.autograd.grad(losses[loss], moved, retain_graph=True)
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        assert float(after.actor_metrics[metric]) == pytest.approx(norm, rel=1e-4)
    (losses["actor_loss"] + losses["guidance_loss"]).backward(retain_graph=True)
    for name, loss in losses.items():
        assert float(after.actor_metrics[name]) == pytest.approx(float(loss.detach()), rel=1e-4), name
    mean = jax.tree.map(lambda m: m / 0.1, moments(after.opt["actor"]))
    assert set(mean) == {"actor_head", "actor"}
    compare_trees(twin, mean, twin, gradient, 1e-4)
    assert all(parameter.grad is None for parameter in twin.conv.parameters()) or not any(
        parameter.grad.any() for parameter in twin.conv.parameters()
    )

    clear()
    losses["alpha_loss"].backward()
    assert float(moments(after.opt["alpha"])) / 0.5 == pytest.approx(float(twin.log_alpha.grad), rel=1e-4)


@pytest.mark.parametrize("case", STEPPED)
def test_five_updates_agree(case):
    learner, state, twin = pair(case)
    step = jax.jit(learner.step)
    for seed in range(5):
        batch = tiny.batch(learner.config.base, seed)
        views, noise = learner.draw(state, batch)
        state, metrics = step(state, batch, views, noise)
        for name, loss in twin.update(batch, views, noise).items():
            assert float(metrics[name]) == pytest.approx(loss, rel=1e-3), name
    compare_trees(twin, state.params, twin, lambda p: p.detach(), 1e-3)
    compare_trees(twin, state.target, twin.target, lambda p: p.detach(), 1e-3)
    if case == "curl":
        assert relative(twin.contrast.detach(), state.params["contrast"]["weight"]) < 1e-3
    assert float(state.params["log_alpha"]) == pytest.approx(float(twin.log_alpha.detach()), rel=1e-3)


def test_actions_agree():
    learner, state, twin = pair("sac")
    stack = tiny.batch("sac", 0).frames[:4, 0].repeat(3, axis=-1)
    np.testing.assert_allclose(learner.mean_action(state.params, stack), twin.act(stack), atol=1e-5)
    key = jax.random.PRNGKey(5)
    noise = np.asarray(jax.random.normal(key, (4, tiny.ACTION_DIM)))
    np.testing.assert_allclose(learner.sample_action(state.params, stack, key), twin.act(stack, noise), atol=1e-5)
