"""A replay in which several environments take turns, against a list of what each of them did."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from covr_jax.config import ReplayConfig
from covr_jax.replay import ReplayBuffer
from covr_jax.replay.samplers import Best, Prioritised, Recent

SHAPE, A, STACK = (2, 3, 3), 2, 3


def picture(environment: int, number: int) -> np.ndarray:
    """A frame that tells its environment and its number there."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[0, 0], frame[-1, -1] = environment, number
    return frame


def told(frames: np.ndarray) -> np.ndarray:
    """Environment and number [..., 2] of frames [..., H, W, 3]."""
    return np.stack([frames[..., 0, 0, 0], frames[..., -1, -1, 0]], -1).astype(int)


class Done(NamedTuple):
    """A transition as it ought to be."""

    id: int
    environment: int
    number: int  # of its frame in the environment
    start: int  # number of the episode's first frame
    reward: float


class Filled:
    """A buffer after some turns in which N environments stored a frame each, their episodes of random lengths."""

    def __init__(self, capacity: int, environments: int, turns: int, seed: int = 0, **choices):
        self.buffer = ReplayBuffer(capacity, SHAPE, A, STACK, environments=environments, **choices)
        self.capacity, self.turns = capacity, turns
        self.done: list[Done] = []
        self.running = [0] * environments  # first frame's number
        self.left = [0] * environments
        rng = np.random.default_rng(seed)
        for number in range(turns):
            for environment in range(environments):
                self._turn(environment, number, environments, rng)

    def _turn(self, environment: int, number: int, count: int, rng: np.random.Generator) -> None:
        frame = picture(environment, number)
        if not self.left[environment]:
            self.buffer.begin(frame)
            self.running[environment], self.left[environment] = number, int(rng.integers(1, 9))
            return
        self.left[environment] -= 1
        reward, last = float(rng.integers(1, 100)), not self.left[environment]
        transition = self.buffer.add(np.array([environment, number - 1]), reward, float(not last), frame, last)
        assert transition == (number - 1) * count + environment
        self.done.append(Done(transition, environment, number - 1, self.running[environment], reward))

    @property
    def kept(self) -> dict[tuple[int, int], Done]:
        """Those that can be sampled, by environment and number: what was done at the newest ``capacity`` frames, each
        environment's very newest aside."""
        oldest = (self.turns - 1) * len(self.left) - self.capacity
        return {(each.environment, each.number): each for each in self.done if each.id >= oldest}


@pytest.mark.parametrize("environments", [1, 2, 3])
@pytest.mark.parametrize("capacity", [1, 5, 40, 1000])
def test_every_sample_is_what_its_environment_did(environments, capacity):
    """Across ends of episodes and the ring's wrap-around, at several points of a run; the decision before included."""
    for turns in (3, 17, 60, 61):
        filled = Filled(capacity, environments, turns, remembers=True)
        buffer, kept = filled.buffer, filled.kept
        assert len(buffer) == len(kept)
        if not kept:  # the one slot has the last frame of an episode
            assert capacity == 1
            continue
        batch = buffer.sample(2000, np.random.default_rng(1))
        frames = told(batch.frames)
        assert {tuple(pair) for pair in frames[:, STACK].tolist()} == set(kept)  # newest frame of o
        for b in range(200):
            true = kept[tuple(frames[b, STACK])]
            window = [max(true.start, n) for n in range(true.number - STACK, true.number + 2)]
            assert frames[b].tolist() == [[true.environment, number] for number in window]
            assert batch.action[b].tolist() == [true.environment, true.number] and batch.reward[b] == true.reward
            came = true.number > true.start
            before = [true.environment, true.number - 1] if came else [0, 0]
            assert batch.previous_ok[b] == came and batch.previous_action[b].tolist() == before


def test_sequences_stay_in_their_environment_and_episode():
    filled = Filled(60, 3, 80, sequences=(500, 4))
    buffer, kept = filled.buffer, filled.kept
    runs = buffer.sample(1, np.random.default_rng(0)).sequence
    frames = told(runs.frames)
    for c in range(500):
        environment, number = frames[c, STACK - 1]
        start = kept[environment, number].start
        assert frames[c].tolist() == [[environment, max(start, n)] for n in range(number - STACK + 1, number + 4)]
        assert runs.action[c].tolist() == [[environment, n] for n in range(number, number + 3)]
        assert runs.reward[c].tolist() == [kept[environment, n].reward for n in range(number, number + 3)]
    assert len({tuple(pair) for pair in frames[:, STACK - 1].tolist()}) > 10


def test_what_was_seen_is_found_by_id():
    filled = Filled(30, 2, 50, remembers=True)
    ids = np.array([each.id for each in list(filled.kept.values())[-12:]])
    environments, numbers = ids % 2, ids // 2
    assert told(filled.buffer.frames(ids)).tolist() == np.stack([environments, numbers], -1).tolist()
    for observation, true in zip(filled.buffer.observations(ids), list(filled.kept.values())[-12:], strict=True):
        window = [max(true.start, n) for n in range(true.number - 2, true.number + 1)]
        stack = np.moveaxis(observation.stack.reshape(2, 3, STACK, 3), 2, 0)
        assert told(stack).tolist() == [[true.environment, n] for n in window]
        assert (observation.before is None) == (true.number == true.start)


def test_running_episodes_and_the_lengths_of_those_before():
    """By hand: environment 0 has episodes of 2 and 3 steps, environment 1 one of 4 and a new one."""
    buffer = ReplayBuffer(100, SHAPE, A, STACK, environments=2)
    steps = {0: "b..b...b", 1: "b....b.."}  # one letter a turn: an episode begins, or a step
    for turn in range(8):
        for environment in (0, 1):
            if steps[environment][turn] == "b":
                buffer.begin(picture(environment, turn))
            else:
                last = steps[environment][turn + 1 : turn + 2] == "b"
                buffer.add(np.zeros(A), 1.0, 1.0, picture(environment, turn), last)
        ended = steps[0][: turn + 2].count("b") > 1 and steps[1][: turn + 2].count("b") > 1
        assert (buffer.episode_lengths[1] > 0) == ended
    assert list(buffer.running(0)) == [14] and list(buffer.running(1)) == [11, 13, 15]
    assert buffer.episode_lengths == (1 + 3, 3 + 4)


@pytest.mark.parametrize("storage", ["host", "device"])
def test_a_restored_one_goes_on_as_the_other(storage):
    filled, other = Filled(40, 3, 50), ReplayBuffer(40, SHAPE, A, STACK, storage=storage, environments=3)
    held = np.asarray(filled.buffer.held)
    other.restore(filled.buffer.state(), [(held[0], filled.buffer.frames(held))])
    assert [other.running(i) for i in range(3)] == [filled.buffer.running(i) for i in range(3)]
    for buffer in (filled.buffer, other):
        for environment in range(3):
            if buffer.running(environment):
                buffer.add(np.ones(A), 0.5, 1.0, picture(environment, 50), False)
            else:
                buffer.begin(picture(environment, 50))
    batches = [buffer.sample(300, np.random.default_rng(0)) for buffer in (filled.buffer, other)]
    for ours, theirs in zip(*batches, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_samplers_see_each_environments_episodes():
    discount = 0.5
    filled = Filled(1000, 3, 60, sampler=Best(0.25, discount))
    expected, running = {}, {}
    for each in reversed(filled.done):
        if each.start == filled.running[each.environment] and filled.left[each.environment]:
            continue  # not ended
        key = each.environment, each.start
        running[key] = each.reward + discount * running.get(key, 0.0)
        expected[each.id] = running[key]
    best = sorted(expected, key=expected.get)[-round(0.25 * len(expected)) + 2 :]  # ties at the edge aside
    frames = told(filled.buffer.sample(4000, np.random.default_rng(0)).frames[:1000, STACK - 1])
    drawn = set((3 * frames[:, 1] + frames[:, 0]).tolist())
    assert set(best) <= drawn and len(drawn) <= 0.25 * len(expected) + 1

    errors = Filled(1000, 3, 60, sampler=Prioritised(ReplayConfig(per_exponent=1.0)))
    errors.buffer.sample(2000, np.random.default_rng(0))
    drawn = errors.buffer._sampler._drawn[0]
    errors.buffer.feed_back(np.where(drawn == drawn[0], 1e6, 0.0)[None])
    again = told(errors.buffer.sample(100, np.random.default_rng(1)).frames[:, STACK - 1])
    assert (again == [drawn[0] % 3, drawn[0] // 3]).all()

    newest = Filled(1000, 3, 200, sampler=Recent(ReplayConfig(ere_eta=0.9, ere_minimum=9)))
    assert min(newest.buffer.episode_lengths) > 0
    sampled = told(newest.buffer.sample(500, np.random.default_rng(0)).frames[:, STACK - 1])
    assert sampled[:, 1].min() >= 200 - 3  # of the newest 9 frames, three an environment
