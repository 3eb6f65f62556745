"""Episodes in lock step: the order of seeds, padding, and who acts."""

from __future__ import annotations

import gymnasium
import numpy as np

from covr_jax.evaluation import PriorPolicy, run_episodes
from covr_jax.types import Label


class Countdown(gymnasium.Env):
    """An episode of as many decisions as its seed; each is rewarded by its action."""

    def reset(self, *, seed=None, options=None):
        self.left = seed
        return self._frame(), {"state": {}, "frames": 0}

    def step(self, action):
        self.left -= 1
        return self._frame(), float(action[0]), False, self.left == 0, {"state": {}, "frames": 1}

    def _frame(self):
        return np.full((2, 2, 3), self.left, np.uint8)


def test_returns_come_in_the_order_of_seeds_whatever_the_number_of_environments():
    seeds = [3, 1, 4, 2, 5]
    for count in (1, 2, 5):
        sizes = set()

        def policy(observations, sizes=sizes):
            sizes.add(len(observations))
            return np.ones((len(observations), 1), np.float32)

        episodes = run_episodes([Countdown() for _ in range(count)], policy, 2, seeds, traced=2)
        assert [episode.episode_return for episode in episodes] == seeds
        assert [episode.decisions for episode in episodes] == seeds
        assert sizes == {count}  # one shape, so that a compiled policy compiles once
        assert [len(episode.observations) for episode in episodes] == [3, 1, 0, 0, 0]
        assert [o.frame[0, 0, 0] for o in episodes[0].observations] == [3, 2, 1]
        assert episodes[0].observations[1].stack[0, 0].tolist() == [3, 3, 3, 2, 2, 2]


class Scripted:
    """Answers 0.5, then nothing readable."""

    def __init__(self):
        self.calls = 0

    def predict(self, observations):
        self.calls += 1
        label = Label(np.array([0.5], np.float32), "ok", "", "", "") if self.calls == 1 else None
        return [label or Label(None, "malformed", "", "", "")] * len(observations)


def test_the_prior_alone_holds_its_last_valid_answer():
    prior = Scripted()
    policy = PriorPolicy(prior, period=10, steps_per_decision=4, action_dim=1)
    (episode,) = run_episodes([Countdown()], policy, 1, [7])
    assert episode.episode_return == 7 * 0.5
    assert prior.calls == 3  # at steps 0, 12 and 20 of 0, 4, ... 24


def test_the_prior_alone_begins_every_episode_anew():
    prior = Scripted()
    policy = PriorPolicy(prior, period=10, steps_per_decision=4, action_dim=1)
    first, second = run_episodes([Countdown()], policy, 1, [2, 4], beginning=policy.restart)
    assert first.episode_return == 2 * 0.5 and second.episode_return == 0.0, "no label of the episode before acts"
    assert prior.calls == 1 + 2  # at once; at once and at step 12


class Faulty(Countdown):
    """Its first episodes are cut by a fault after one decision."""

    repeatable = False

    def __init__(self, cut: int):
        self.cut, self.resets = cut, []

    def reset(self, *, seed=None, options=None):
        self.resets.append(seed)
        return super().reset(seed=seed)

    def step(self, action):
        frame, reward, terminated, truncated, info = super().step(action)
        if len(self.resets) <= self.cut:
            return frame, reward, terminated, True, info | {"fault": "the server is gone"}
        return frame, reward, terminated, truncated, info


def test_the_prior_alone_begins_anew_where_an_episode_is_driven_again():
    class Once:
        """Answers 0.5 when first asked, then nothing readable; notes how many it is asked for."""

        def __init__(self):
            self.asked = []

        def predict(self, observations):
            self.asked.append(len(observations))
            label = Label(np.array([0.5], np.float32), "ok", "", "", "") if len(self.asked) == 1 else None
            return [label or Label(None, "malformed", "", "", "")] * len(observations)

    prior = Once()
    policy = PriorPolicy(prior, period=10, steps_per_decision=4, action_dim=1)
    first, second = run_episodes([Faulty(1), Countdown()], policy, 1, [3, 5], beginning=policy.restart)
    assert first.episode_return == 0.0, "no label of the cut episode acts in the next"
    assert second.episode_return == 5 * 0.5
    assert prior.asked == [2, 1, 1, 1]  # both begin; the first again; step 12 of the second, of the first


def test_an_episode_that_a_fault_has_cut_is_driven_again_twice_at_most():
    def policy(observations):
        return np.ones((len(observations), 1), np.float32)

    for cut, resets, value in ((1, [3, 3], 3), (2, [3, 3, 3], 3), (3, [3, 3, 3], 1)):
        env = Faulty(cut)
        first, second = run_episodes([env, Countdown()], policy, 2, [3, 5], traced=1)
        assert env.resets == resets and first.episode_return == first.decisions == value
        assert [o.frame[0, 0, 0] for o in first.observations] == [3, 2, 1][:value]
        assert first.observations[0].stack[0, 0].tolist() == [3] * 6, "the stack begins anew"
        assert second.decisions == 5
