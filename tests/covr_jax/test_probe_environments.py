"""Every base finds the known values and actions of tiny pixel tasks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.learner import Learner
from tests.covr_jax import probe_envs, tiny
from tests.covr_jax.probe_envs import BOTTOM, LEFT, RIGHT, TOP

DISCOUNT, BATCH, FUSED = 0.5, 32, 50
RENDER = {"sac": 12, "rad": 14, "deepmdp": 12}


@pytest.fixture(scope="module", params=tiny.BASES)
def learner(request) -> Learner:
    config = tiny.config(
        request.param,
        method="none",
        image_size=12,
        hidden_dim=64,
        discount=DISCOUNT,
        critic_tau=0.1,
        encoder_tau=0.1,
        target_period=1,
        actor_period=1,
        critic_lr=2e-3,
        actor_lr=2e-3,
        initial_temperature=1e-3,  # so that entropy does not count in the values
        alpha_lr=0.0,
    )
    return Learner(config, action_dim=1, frame_stack=1)


class Answer:
    """What a trained learner says of a state."""

    def __init__(self, learner: Learner, params) -> None:
        self.learner, self.params = learner, params

    def stack(self, state: int) -> np.ndarray:
        return probe_envs.pictures(np.array([state]), RENDER[self.learner.config.base])

    def action(self, state: int) -> float:
        return float(self.learner.mean_action(self.params, self.stack(state))[0, 0])

    def value(self, state: int, action: float) -> float:
        at = (RENDER[self.learner.config.base] - 12) // 2
        view = self.stack(state)[:, at : at + 12, at : at + 12]
        features = self.learner.agent.features(self.params, view)
        q1, q2 = self.learner.agent.values(self.params, features, np.array([[action]], np.float32))
        assert abs(float(q1[0] - q2[0])) < 0.3
        return float(q1[0] + q2[0]) / 2


def train(learner: Learner, task, updates: int) -> Answer:
    rng = np.random.default_rng(0)
    side = RENDER[learner.config.base]
    state = learner.init(0, side)
    for _ in range(updates // FUSED):
        state, metrics = learner.update_many(state, probe_envs.fill(task, rng, (FUSED, BATCH), side))
    assert all(np.all(np.isfinite(values)) for values in jax.tree.leaves(metrics))
    return Answer(learner, state.params)


def test_time_limits_bootstrap_and_terminals_do_not(learner):
    answer = train(learner, probe_envs.time_limit_or_terminal, 500)
    for action in (-0.7, 0.7):
        assert answer.value(LEFT, action) == pytest.approx(1 / (1 - DISCOUNT), abs=0.15)
        assert answer.value(RIGHT, action) == pytest.approx(1.0, abs=0.15)


def test_reward_by_action(learner):
    answer = train(learner, probe_envs.reward_by_action, 500)
    assert answer.action(LEFT) == pytest.approx(0.5, abs=0.15)
    assert answer.value(LEFT, 0.5) == pytest.approx(1.0, abs=0.15)
    assert answer.value(LEFT, -0.5) == pytest.approx(0.0, abs=0.2)


def test_reward_by_picture(learner):
    answer = train(learner, probe_envs.reward_by_picture, 600)
    assert answer.action(TOP) == pytest.approx(0.6, abs=0.2)
    assert answer.action(BOTTOM) == pytest.approx(-0.6, abs=0.2)
    assert answer.value(TOP, -0.6) == pytest.approx(-1.44, abs=0.25)


def test_two_step_credit(learner):
    answer = train(learner, probe_envs.two_steps, 600)
    assert answer.value(TOP, 0.0) == pytest.approx(1.0, abs=0.15)
    assert answer.value(LEFT, 0.8) == pytest.approx(DISCOUNT, abs=0.15)
    assert answer.value(LEFT, -0.8) == pytest.approx(-DISCOUNT, abs=0.15)
    assert answer.action(LEFT) > 0.3
