"""Who acts: turns as functions of seed and counters, and what the prior's turns execute and store."""

from __future__ import annotations

import dataclasses
from contextlib import closing

import numpy as np
import pytest

from covr_jax import behaviour, envs
from covr_jax.config import RunConfig
from covr_jax.loop import Trainer
from covr_jax.priors import teachers
from covr_jax.types import Label
from tests.covr_jax.runs import TASK, Fixed, Records, change

RUN = RunConfig(random_decisions=4)


def turns(count: int, **fields) -> list[int]:
    run = dataclasses.replace(RUN, **fields)
    return [decision for decision in range(count) if behaviour.prior_acts(run, decision, decision // 125)]


def test_the_policy_acts_unless_told_otherwise():
    assert turns(300) == []


def test_every_third_decision_after_the_warm_up():
    assert turns(14, behaviour="hybrid_step", behaviour_every=3) == [5, 8, 11]
    assert turns(8, behaviour="hybrid_step", behaviour_every=1) == [4, 5, 6, 7]


def test_the_prior_alone_needs_no_warm_up():
    assert turns(6, behaviour="prior") == list(range(6))


def test_whole_episodes_with_the_given_probability():
    def driven(share, seed=1):
        run = dataclasses.replace(RUN, behaviour="hybrid_episode", behaviour_share=share, seed=seed)
        return [behaviour.prior_acts(run, 1000, episode) for episode in range(2000)]

    assert np.mean(driven(0.2)) == pytest.approx(0.2, abs=0.036)  # 4 standard errors
    assert driven(0.2) == driven(0.2) != driven(0.2, seed=2)
    assert not any(driven(0.0)) and all(driven(1.0))
    run = dataclasses.replace(RUN, behaviour="hybrid_episode", behaviour_share=0.5)
    for episode in range(20):  # one answer an episode
        assert len({behaviour.prior_acts(run, decision, episode) for decision in range(4, 129)}) == 1


class CountingTeacher:
    """The n-th answer is n / 100."""

    def __init__(self):
        self.asked = 0

    def predict(self, observations):
        labels = []
        for _ in observations:
            labels.append(Label(np.array([self.asked / 100], np.float32), "ok", "", "counting", ""))
            self.asked += 1
        return labels

    def close(self):
        pass


@pytest.fixture(scope="module")
def env():
    made = envs.make(change().env)
    yield made
    made.close()


def actions(env, source, steps, **sections):
    """Executed actions of the first decisions, all within one episode and before any update, and the counters."""
    run = {"steps": steps, "step_unit": "decisions", "random_decisions": 1000, "eval_every": 10**6, "log_every": steps}
    sections["run"] = run | sections["run"]
    records = Records()
    with Trainer(change(learner={"method": "ask"}, **sections), env, [env], records, source) as trainer:
        trainer._evaluate = lambda: None
        trainer.run()
        return trainer.replay.actions(np.arange(steps))[:, 0], trainer.counters, records.lines["metrics"]


def test_without_a_lag_the_answer_to_the_picture_is_executed_and_held(env):
    done, counters, metrics = actions(
        env, CountingTeacher(), 25, prior={"lag": 0, "group": 1, "period": 10}, run={"behaviour": "prior"}
    )
    np.testing.assert_allclose(done, np.repeat([0.0, 0.01, 0.02], [10, 10, 5]), rtol=1e-6)
    assert (counters.prior_driven, counters.prior_missed) == (25, 0)
    assert metrics[-1]["prior_driven_share"] == 1.0 and metrics[-1]["prior_missed"] == 0
    assert metrics[-1]["label_distance"] == 0.0  # the answer is what was done


def test_with_a_lag_the_newest_answer_of_then_is_executed(env):
    done, counters, _ = actions(
        env, CountingTeacher(), 25, prior={"lag": 3, "group": 1, "period": 10}, run={"behaviour": "prior"}
    )
    # Asked at 0, 10 and 20, answered at 3, 13 and 23; before the first answer the warm-up acts.
    np.testing.assert_allclose(done[3:], np.repeat([0.0, 0.01, 0.02], [10, 10, 2]), rtol=1e-6)
    assert (counters.prior_driven, counters.prior_missed) == (22, 3)


def test_an_answer_that_cannot_be_read_leaves_the_turn_to_the_policy(env):
    malformed = Fixed(Label(None, "malformed", "left", "base", ""))
    _, counters, metrics = actions(
        env, malformed, 20, prior={"lag": 0, "group": 1, "period": 10}, run={"behaviour": "prior"}
    )
    assert (counters.prior_driven, counters.prior_missed) == (0, 20)
    assert metrics[-1]["prior_driven_share"] == 0.0 and metrics[-1]["prior_missed"] == 20


def test_an_episode_is_the_priors_or_the_policys_to_its_end():
    run = {"steps": 80, "step_unit": "decisions", "random_decisions": 0, "eval_every": 10**6, "log_every": 80,
           "behaviour": "hybrid_episode", "behaviour_share": 0.5}  # fmt: skip
    config = change(
        env={"action_repeat": 100}, learner={"method": "ask"}, prior={"lag": 0, "group": 1, "period": 5}, run=run
    )
    driven = [behaviour.prior_acts(config.run, 0, episode) for episode in range(8)]
    assert {True, False} == set(driven)
    executed: list[float] = []
    records = Records()
    with closing(envs.make(config.env)) as env, Trainer(config, env, [env], records, CountingTeacher()) as trainer:
        step = env.step
        env.step = lambda action: (executed.append(float(action[0])), step(action))[1]
        trainer._evaluate = lambda: None
        trainer._learn = lambda drawn: drawn.result()
        trainer.run()
    assert trainer.counters.episodes == 8 and trainer.counters.prior_driven == 10 * sum(driven)
    assert trainer.counters.prior_missed == 0
    assert records.lines["metrics"][-1]["prior_driven_share"] == sum(driven) / 8
    answers = np.repeat(np.arange(16) / 100, 5).reshape(8, 10)  # asked twice an episode, whoever drives
    for acts, told, does in zip(np.reshape(executed, (8, 10)), answers, driven, strict=True):
        assert np.allclose(acts, told, rtol=1e-6) if does else not np.any(np.isclose(acts, told, rtol=1e-6))


def test_a_prior_cannot_act_for_a_method_that_asks_none(env):
    config = change(run={"behaviour": "hybrid_step"})
    with pytest.raises(ValueError, match="needs a method that asks"):
        Trainer(config, env, [env], Records(), teachers.make("zeros", TASK, 1))
