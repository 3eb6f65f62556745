"""Every base finds the known values and actions of tiny pixel tasks."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.config import ReplayConfig
from covr_jax.learner import Learner
from covr_jax.methods import BASES
from covr_jax.replay import ReplayBuffer
from covr_jax.types import Observation
from tests.covr_jax import probe_envs, tiny
from tests.covr_jax.probe_envs import BOTTOM, LEFT, RIGHT, TOP

DISCOUNT, BATCH, FUSED = 0.5, 32, 50
RENDER = dict.fromkeys(BASES, 12) | dict.fromkeys(tiny.CROPPED, 14) | {"resact": 10}
SLOW = [base for base in BASES if base not in tiny.BASES]


def learner_of(base: str) -> Learner:
    config = tiny.config(
        base,
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


@pytest.fixture(scope="module", params=[*tiny.BASES, *(pytest.param(base, marks=pytest.mark.slow) for base in SLOW)])
def learner(request) -> Learner:
    return learner_of(request.param)


class Answer:
    """What a trained learner says of a state."""

    def __init__(self, learner: Learner, params) -> None:
        self.learner, self.params = learner, params

    def seen(self, state: int):
        frame = probe_envs.pictures(np.array(state), RENDER[self.learner.config.base])
        return self.learner.seen([Observation(frame, frame, {})])

    def action(self, state: int) -> float:
        return float(self.learner.mean_action(self.params, self.seen(state))[0, 0])

    def value(self, state: int, action: float) -> float:
        view, _ = self.learner.base.sight.acting(self.learner.augmentation, self.seen(state), 12)
        features = self.learner.agent.features(self.params, view)
        q1, q2 = self.learner.agent.values(self.params, features, np.array([[action]], np.float32))
        assert abs(float(q1[0] - q2[0])) < 0.3
        return float(q1[0] + q2[0]) / 2


def train(learner: Learner, task, updates: int) -> Answer:
    rng = np.random.default_rng(0)
    side = RENDER[learner.config.base]
    state = learner.init(0, side)
    for _ in range(updates // FUSED):
        batches = probe_envs.fill(task, rng, (FUSED, BATCH), side, learner.base)
        state, metrics = learner.update_many(state, batches)
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
    # Every positive action is a best one: beyond the step in its value nothing pulls on the policy any more.
    action = answer.action(LEFT)
    assert action > 0.05 and answer.value(LEFT, action) == pytest.approx(DISCOUNT, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["per", "ere"])
def test_reward_by_picture_through_the_replays_sampler(base):
    learner, side, rng = learner_of(base), RENDER[base], np.random.default_rng(0)
    replay = ReplayBuffer(5000, (side, side, 3), 1, 1, sampler=learner.base.sampler(ReplayConfig(ere_minimum=500)))
    state = learner.init(0, side)
    for i in range(600):
        probe_envs.replayed(probe_envs.reward_by_picture, rng, replay, 10, side)
        batch = replay.sample(BATCH, np.random.default_rng(i), i / 600)
        assert (batch.weight is not None) == learner.base.sampler.wants_errors
        state, metrics = learner.update(state, batch)
        if learner.base.sampler.wants_errors:
            replay.feed_back(np.asarray(metrics["td_error"])[None])
    answer = Answer(learner, state.params)
    assert answer.action(TOP) == pytest.approx(0.6, abs=0.2)
    assert answer.action(BOTTOM) == pytest.approx(-0.6, abs=0.2)
