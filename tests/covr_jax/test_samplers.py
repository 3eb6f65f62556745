"""What the replay hands out: by TD error, from the recent past, the best steps (M10, M11), with the decision before,
in sequences.

Ledger rows held here (docs/fidelity.md): C22, C23.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from covr_jax import loop
from covr_jax.config import ReplayConfig
from covr_jax.methods import BASES
from covr_jax.replay import ReplayBuffer
from covr_jax.replay.samplers import Best, Prioritised, Recent
from tests.covr_jax.runs import Records, change, same
from tests.covr_jax.test_replay import SHAPE, A, numbers, picture

CONFIG = ReplayConfig(ere_minimum=5)


def filled(
    lengths: list[int], capacity: int = 1000, running: bool = False, rewards: dict[int, float] | None = None, **choices
) -> ReplayBuffer:
    """Episodes of these lengths; frames and actions tell their id. ``running``: the last one goes on."""
    buffer, number = ReplayBuffer(capacity, SHAPE, A, 3, **choices), 0
    for episode, length in enumerate(lengths):
        buffer.begin(picture(number))
        for t in range(length):
            number += 1
            last = t == length - 1 and not (running and episode == len(lengths) - 1)
            reward = (rewards or {}).get(number - 1, 0.0)
            buffer.add(np.array([number - 1, 1 - number], np.float32), reward, 1.0, picture(number), last)
        number += 1
    return buffer


def ids_of(batch) -> np.ndarray:
    return numbers(batch.frames)[:, -2]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def prioritised(errors: dict[int, float], lengths=(4, 4), **choices) -> ReplayBuffer:
    """A replay whose transitions have been updated once, with these TD errors."""
    buffer = filled(list(lengths), sampler=Prioritised(ReplayConfig(**choices)))
    seen: set[int] = set()
    for seed in range(100):
        ids = ids_of(buffer.sample(8, rng(seed)))
        buffer.feed_back(np.array([[errors[i] for i in ids.tolist()]], np.float32))
        seen |= set(ids.tolist())
    assert seen == set(errors)
    return buffer


ERRORS = {0: 0.1, 1: -2.0, 2: 0.5, 3: 8.0, 5: 0.0, 6: -0.25, 7: 1.0, 8: 4.0}


def test_per_draws_in_proportion_to_the_powers_of_the_errors():
    buffer = prioritised(ERRORS)
    draws = 100_000
    ids = ids_of(buffer.sample(draws, rng(3)))
    p = {i: (abs(error) + 1e-5) ** 0.6 for i, error in ERRORS.items()}
    for i, mass in p.items():
        share = mass / sum(p.values())
        assert abs(np.mean(ids == i) - share) < 5 * np.sqrt(share * (1 - share) / draws), i


def test_per_weights_undo_the_preference_as_the_run_goes_on():
    buffer = prioritised({i: max(abs(error), 0.05) for i, error in ERRORS.items()})
    p = {i: (max(abs(error), 0.05) + 1e-5) ** 0.6 for i, error in ERRORS.items()}
    for progress, beta in ((0.0, 0.4), (0.5, 0.7), (1.0, 1.0)):
        batch = buffer.sample(500, rng(1), progress)
        wanted = np.array([(8 * p[i] / sum(p.values())) ** -beta for i in ids_of(batch).tolist()])
        assert batch.weight.dtype == np.float32 and batch.weight.max() == 1
        np.testing.assert_allclose(batch.weight, wanted / wanted.max(), rtol=1e-5)
    # At beta 1 the weighted mean is the uniform one.
    batch = buffer.sample(100_000, rng(2), 1.0)
    values = batch.action[:, 0]
    assert np.average(values, weights=batch.weight) == pytest.approx(np.mean(list(ERRORS)), abs=0.1)


def test_per_without_exponent_is_uniform():
    ids = ids_of(prioritised(ERRORS, per_exponent=0.0).sample(40_000, rng(0)))
    counts = np.array([np.sum(ids == i) for i in ERRORS])
    assert np.abs(counts - 5000).max() < 5 * np.sqrt(5000)


def test_new_transitions_have_the_largest_priority_and_old_ones_leave():
    buffer = prioritised(ERRORS)
    buffer.begin(picture(10))
    buffer.add(np.zeros(A), 0.0, 1.0, picture(11), True)
    ids = ids_of(buffer.sample(50_000, rng(5)))
    assert abs(np.mean(ids == 10) - np.mean(ids == 3)) < 5 * np.sqrt(2 * 0.3 / 50_000)  # that of the error 8
    small = filled([4] * 100, capacity=20, sampler=Prioritised(ReplayConfig()))
    held = set(ids_of(small.sample(5000, rng(1))).tolist())
    uniform = filled([4] * 100, capacity=20)
    assert held == set(ids_of(uniform.sample(5000, rng(1))).tolist())
    # Errors of transitions that have been overwritten meanwhile change nothing.
    small = filled([4] * 100, capacity=20, sampler=Prioritised(ReplayConfig()))
    small.sample(50, rng(2))
    for number in range(500, 600):
        small.begin(picture(number))
        small.add(np.full(A, number, np.float32), 0.0, 1.0, picture(number), True)
    small.feed_back(np.zeros((1, 50), np.float32))
    ids, counts = np.unique(ids_of(small.sample(10_000, rng(3))), return_counts=True)
    assert len(ids) == len(small) and counts.min() > 0.8 * 10_000 / len(small)


def test_per_resumes_exactly():
    buffer = prioritised(ERRORS)
    other = ReplayBuffer(1000, SHAPE, A, 3, sampler=Prioritised(ReplayConfig()))
    other.restore(buffer.state(), [(0, buffer.frames(np.arange(10)))])
    for each in (buffer, other):
        each.begin(picture(10))
        each.add(np.full(A, 10, np.float32), 0.0, 1.0, picture(11), True)
    for left, right in zip(buffer.sample(64, rng(7), 0.3), other.sample(64, rng(7), 0.3), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ValueError, match="must be fed back first"):
        buffer.state()


def test_ere_window():
    sampler = Recent(ReplayConfig(ere_minimum=5000))
    # N eta^(1000 k/K): 0.996^500 = 0.134794, 0.996^1000 = 0.018169
    assert sampler.window(100_000, 0.5, 0.0) == 13479 and sampler.window(1_000_000, 1.0, 0.0) == 18169
    assert sampler.window(100_000, 1.0, 0.0) == 5000
    # Half way eta is 0.998: 0.998^1000 = 0.13506; at the end all is drawn from.
    assert sampler.window(100_000, 1.0, 0.5) == 13506 and sampler.window(100_000, 1.0, 1.0) == 100_000
    windows = [sampler.window(100_000, k / 50, 0.2) for k in range(51)]
    assert windows[0] == 100_000 and windows == sorted(windows, reverse=True)


@pytest.mark.parametrize("done", [1, 5, 10, 20])
def test_ere_draws_from_the_window_alone(done):
    """The last episode took 10 decisions, so that the running one's window is smallest after 10 of its own."""
    buffer = filled([30, 10, done], sampler=Recent(CONFIG), running=True)
    frames = 31 + 11 + done + 1
    transitions = 40 + done
    # The newest frame is no transition: 1 + done frames are in the running episode.
    window = max(int(transitions * 0.996 ** (1000 * min((done + 1) / 10, 1.0))), 5)
    ids = ids_of(buffer.sample(4000, rng(0)))
    expected = [i for i in range(frames - window, frames) if i not in (30, 41, frames - 1)]
    assert sorted(set(ids.tolist())) == expected


def test_ere_draws_from_all_before_an_episode_has_ended():
    buffer = filled([12], sampler=Recent(CONFIG), running=True)
    assert set(ids_of(buffer.sample(1000, rng(0))).tolist()) == set(range(12))


def test_the_decision_before():
    for capacity in (1000, 7):
        buffer = filled([3, 1, 9, 5], capacity=capacity, remembers=True)
        batch = buffer.sample(500, rng(0))
        assert batch.frames.shape == (500, 5, *SHAPE)
        starts = {i: start for start, length in ((0, 3), (4, 1), (6, 9), (16, 5)) for i in range(start, start + length)}
        for i, frames, action, ok in zip(
            ids_of(batch).tolist(), numbers(batch.frames), batch.previous_action, batch.previous_ok, strict=True
        ):
            assert frames.tolist() == [max(starts[i], k) for k in range(i - 3, i + 2)]
            first = i == starts[i]
            assert ok == (not first) and action.tolist() == ([0, 0] if first else [i - 1, 1 - i])


def test_what_was_seen_holds_the_decision_before():
    buffer = filled([3, 2], remembers=True)  # frames 0 to 3, 4 to 6

    def shown(stack: np.ndarray) -> list[int]:
        return numbers(np.stack([stack[..., 3 * k : 3 * k + 3] for k in range(3)])).tolist()

    start, later = buffer.observations(np.array([4, 5]))
    assert shown(start.stack) == [4, 4, 4] and start.before is None
    assert shown(later.stack) == [4, 4, 5] and numbers(later.frame[None]).tolist() == [5]
    assert shown(later.before.stack) == [4, 4, 4] and later.before.action.tolist() == [4, -4]
    assert all(each.before is None for each in filled([3]).observations(np.array([0, 1])))


REWARDS = {0: 0.0, 1: 0.0, 2: 8.0, 4: 1.0, 5: 1.0, 6: 1.0, 8: 100.0, 9: 100.0}  # ids 3 and 7: frames without an action
RETURNS = {0: 2.0, 1: 4.0, 2: 8.0, 4: 1.75, 5: 1.5, 6: 1.0}  # with discount 1/2; the last episode goes on


def test_a_share_of_each_batch_comes_from_the_best_steps():
    buffer = filled([3, 3, 2], running=True, rewards=REWARDS, sampler=Best(0.5, 0.5))
    ids = ids_of(buffer.sample(100_000, rng()))
    best, rest = ids[:50_000], ids[50_000:]
    assert set(best.tolist()) == set(sorted(RETURNS, key=RETURNS.get)[-3:]) == {0, 1, 2}
    assert set(rest.tolist()) == set(REWARDS)  # the running episode's steps too
    for part in (best, rest):
        shares = np.unique(part, return_counts=True)[1] / len(part)
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.01)
    batch = filled([3, 3], rewards=REWARDS, sampler=Best(0.2, 0.5)).sample(10, rng())
    assert set(ids_of(batch)[:2].tolist()) <= {1, 2} and batch.weight is None  # two of six


def test_before_an_episode_has_ended_all_steps_are_drawn_from():
    buffer = filled([4], running=True, rewards={3: 9.0}, sampler=Best(0.8, 0.9))
    assert set(ids_of(buffer.sample(200, rng())).tolist()) == {0, 1, 2, 3}


def test_best_steps_that_were_overwritten_are_no_longer_drawn():
    buffer = filled([3, 3, 3], capacity=5, rewards={0: 50.0, 4: 1.0, 9: 2.0}, sampler=Best(0.5, 0.5))
    ids = ids_of(buffer.sample(500, rng()))
    assert set(ids.tolist()) == {6, 8, 9, 10} and set(ids[:250].tolist()) == {8, 9}


def test_the_best_steps_are_the_same_after_a_restart():
    buffer = filled([3, 3, 2], running=True, rewards=REWARDS, sampler=Best(0.5, 0.5))
    other = ReplayBuffer(1000, SHAPE, A, 3, sampler=Best(0.5, 0.5))
    other.restore(buffer.state(), [(0, buffer.frames(np.asarray(buffer.held)))])
    assert same(buffer.sample(50, rng(1)), other.sample(50, rng(1)))


@pytest.mark.parametrize("capacity", [1000, 20])
def test_sequences_stay_within_an_episode(capacity):
    lengths = [3, 9, 2, 7, 12]
    buffer = filled(lengths, capacity=capacity, sequences=(400, 5))
    episodes, start = [], 0
    for length in lengths:
        episodes.append(range(start, start + length + 1))
        start += length + 1
    sequence = buffer.sample(4, rng(0)).sequence
    assert sequence.frames.shape == (400, 7, *SHAPE) and sequence.action.shape == (400, 4, A)
    assert sequence.action.dtype == np.float32
    starts = set()
    for shown, actions in zip(numbers(sequence.frames), sequence.action, strict=True):
        first = int(shown[2])
        episode = next(each for each in episodes if first in each)
        assert first + 4 in episode
        assert shown.tolist() == [max(episode[0], k) for k in range(first - 2, first + 5)]
        assert actions[:, 0].tolist() == [first, first + 1, first + 2, first + 3]
        starts.add(first)
    wanted = {i for each in episodes for i in each if i + 4 in each}
    assert starts == (wanted if capacity == 1000 else {i for i in wanted if i >= start - 1 - capacity})


def test_replay_too_short_for_sequences():
    buffer = filled([3, 3], sequences=(4, 5))
    with pytest.raises(ValueError, match="too few runs of 5 observations; let run"):
        buffer.sample(4, rng(0))


class _Env:
    """Episodes of 12 decisions, each of 8 frames; a picture tells the decision."""

    action_space, action_repeat = SimpleNamespace(shape=(1,)), 8

    def reset(self, seed):
        self.t = 0
        return self._frame(), {"state": {}}

    def step(self, action):
        self.t += 1
        return self._frame(), 1.0, False, self.t == 12, {"state": {}, "frames": 8}

    def _frame(self):
        return np.full((24, 24, 3), self.t, np.uint8)


class _Learner:
    """No network: an update's TD error of a transition is the picture's number."""

    needs_value_critic = False

    def __init__(self, config, action_dim, frame_stack, graded, mesh):
        self.base, self.config = BASES[config.base], config

    def init(self, seed, size, value_critic):
        return SimpleNamespace(params=None, updates=0)

    def seen(self, observations):
        return self.base.sight.seen(observations, 1)

    def mean_action(self, params, seen):
        return np.zeros((1, 1), np.float32)

    def sample_action(self, params, seen, key):
        return np.zeros((1, 1), np.float32)

    def update_many(self, state, batches):
        errors = batches.frames[..., -2, 0, 0, 0].astype(np.float32)
        assert batches.weight.shape == errors.shape == (2, self.config.batch_size)
        return state, {"critic_loss": np.zeros(2, np.float32), "entropy": np.zeros(2, np.float32), "td_error": errors}


def test_the_loop_feeds_errors_back_before_the_next_draw_and_before_a_checkpoint(monkeypatch):
    monkeypatch.setattr(loop, "Learner", _Learner)
    config = change(learner={"base": "per", "augmentation": "none", "updates_per_decision": 2}, run={"steps": 8 * 40})
    states = []
    for checkpoints in (True, False):
        with loop.Trainer(config, _Env(), [_Env()], Records()) as trainer:
            while not trainer.finished:
                trainer.episode()
                if checkpoints:
                    trainer.snapshot()  # refused while errors are to come
            states.append(trainer.snapshot()["replay"])
    for name in states[0]:
        assert same(states[0][name], states[1][name]), name
    # A transition that was drawn has its own error, one that was not the largest.
    mass, pictures = states[0]["sampler"]["mass"], np.arange(44) % 13
    known = {round((picture + 1e-5) ** 0.6, 6) for picture in range(12)}
    assert all(round(m, 6) in known | {0.0, 1.0} for m in mass) and (mass[pictures == 12] == 0).all()
    assert (mass > 1).sum() > 15


def test_a_whole_run_trains_on_the_best_steps(monkeypatch):
    """M11 of COVR's Table 5: rewards are all 1, so that the best half are the first six decisions of the episodes."""
    batches = []

    class Learner(_Learner):
        def update(self, state, batch):
            batches.append(batch.frames[:, -2, 0, 0, 0])
            return state, {"critic_loss": 0.0, "entropy": 0.0}

    monkeypatch.setattr(loop, "Learner", Learner)
    run = {"steps": 8 * 60, "random_decisions": 12}
    config = change(learner={"batch_size": 32}, replay={"top_share": 0.5}, run=run)
    with loop.Trainer(config, _Env(), [_Env()], Records()) as trainer:
        trainer.run()
    assert len(batches) == 48
    best, rest = np.stack(batches)[:, :16], np.stack(batches)[:, 16:]
    assert set(best.ravel().tolist()) == set(range(6)) and set(rest.ravel().tolist()) == set(range(12))
