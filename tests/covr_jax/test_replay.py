from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from covr_jax.replay import ReplayBuffer

SHAPE, A = (2, 3, 3), 2


def picture(number: int) -> np.ndarray:
    """A frame that tells its number: base 251 in the first two pixels, and again in the last one."""
    frame = np.zeros(SHAPE, np.uint8)
    frame[0, 0, 0], frame[0, 1, 0] = number % 251, number // 251
    frame[-1, -1, -1] = number % 251
    return frame


def numbers(frames: np.ndarray) -> np.ndarray:
    np.testing.assert_array_equal(frames[..., 0, 0, 0], frames[..., -1, -1, -1])
    return frames[..., 0, 0, 0].astype(int) + 251 * frames[..., 0, 1, 0]


def filled(capacity: int, lengths: list[int], stack: int = 3) -> tuple[ReplayBuffer, dict[int, dict]]:
    """Episodes of these lengths, and what every transition ought to be, by its id."""
    buffer, truth, number = ReplayBuffer(capacity, SHAPE, A, stack), {}, 0
    for episode, length in enumerate(lengths):
        start = number
        assert buffer.begin(picture(number)) == number
        for t in range(length):
            i, last = number, t == length - 1
            number += 1
            not_done = float(not (last and episode % 2))
            action = np.array([i, -i], np.float32)
            assert buffer.add(action, i / 8, not_done, picture(number), last) == i
            window = [max(start, k) for k in range(i - stack + 1, i + 2)]
            truth[i] = {"frames": window, "action": action, "reward": i / 8, "not_done": not_done}
        number += 1
    return buffer, truth


LENGTHS = [5, 1, 17, 2, 2, 30, 1, 1, 9, 40, 3, 8]


@pytest.mark.parametrize("stack", [1, 3, 4])
@pytest.mark.parametrize("capacity", [1, 2, 7, 40, 1000])
def test_every_sample_is_what_was_stored(capacity, stack):
    """Across episode ends and the ring's wrap-around, whatever point of the run it is asked at."""
    for episodes in range(1, len(LENGTHS) + 1):
        buffer, truth = filled(capacity, LENGTHS[:episodes], stack)
        assert len(buffer) <= capacity
        if not len(buffer):
            continue
        batch = buffer.sample(64, np.random.default_rng(episodes))
        assert batch.frames.shape == (64, stack + 1, *SHAPE) and batch.frames.dtype == np.uint8
        windows = numbers(batch.frames)
        for b in range(64):
            expected = truth[int(windows[b, stack - 1])]
            assert windows[b].tolist() == expected["frames"]
            assert batch.action[b].tolist() == expected["action"].tolist()
            assert batch.reward[b] == expected["reward"] and batch.not_done[b] == expected["not_done"]
        for name in ("action", "reward", "not_done", "prior_action", "prior_ok"):
            assert getattr(batch, name).dtype == np.float32
        assert not batch.prior_ok.any() and not batch.prior_action.any()


def test_capacity_is_reached_and_the_newest_are_kept():
    buffer, truth = filled(50, [500])
    assert len(buffer) == 50
    batch = buffer.sample(5000, np.random.default_rng(0))
    assert set(numbers(batch.frames)[:, 2].tolist()) == set(sorted(truth)[-50:])


def test_last_frames_take_slots():
    buffer, truth = filled(50, [4] * 100)  # of 5 slots 4 are transitions
    assert 38 <= len(buffer) <= 42
    batch = buffer.sample(5000, np.random.default_rng(0))
    assert set(numbers(batch.frames)[:, 2].tolist()) == set(sorted(truth)[-len(buffer) :])


def test_nothing_is_lost_before_the_ring_is_full():
    buffer, truth = filled(1000, LENGTHS)
    assert len(buffer) == sum(LENGTHS)
    ids = numbers(buffer.sample(20_000, np.random.default_rng(0)).frames)[:, 2]
    assert set(ids.tolist()) == set(truth)


def test_sampling_is_uniform():
    buffer, _ = filled(60, LENGTHS)
    draws = 60_000
    ids = numbers(buffer.sample(draws, np.random.default_rng(3)).frames)[:, 2]
    _, counts = np.unique(ids, return_counts=True)
    assert len(counts) == len(buffer)
    expected = draws / len(buffer)
    chi2 = ((counts - expected) ** 2 / expected).sum()
    degrees = len(buffer) - 1
    assert abs(chi2 - degrees) < 4 * math.sqrt(2 * degrees)


def test_sampling_is_a_function_of_the_generator():
    buffer, _ = filled(60, LENGTHS)
    first, again, other = (buffer.sample(32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.reward != other.reward).any()


def test_a_batch_does_not_change_later():
    buffer, _ = filled(10, [8])
    batch = buffer.sample(16, np.random.default_rng(0))
    before = batch.frames.copy()
    buffer.begin(picture(200))
    for i in range(20):
        buffer.add(np.zeros(A), 0.0, 1.0, picture(200 + i), False)
    np.testing.assert_array_equal(batch.frames, before)


def labels(buffer: ReplayBuffer) -> dict[int, tuple[float, list[float]]]:
    batch = buffer.sample(4000, np.random.default_rng(0))
    ids = numbers(batch.frames)[:, 2].tolist()
    drawn = zip(ids, batch.prior_ok, batch.prior_action, strict=True)
    return {i: (float(ok), action.tolist()) for i, ok, action in drawn}


def test_labels_come_later_and_stay_with_their_transition():
    buffer, truth = filled(1000, [6, 6])
    buffer.label(3, np.array([0.25, -0.5]), True, 0, 0)
    buffer.label(8, np.array([1.0, 0.75]), True, 0, 4)
    buffer.label(9, None, False, 0, 0)
    buffer.label(4, np.array([0.5, 0.5]), False, 0, 0)
    expected = {i: (0.0, [0.0, 0.0]) for i in truth} | {3: (1.0, [0.25, -0.5]), 8: (1.0, [1.0, 0.75])}
    assert labels(buffer) == expected


def test_labels_of_untrusted_versions_do_not_reach_a_batch():
    buffer, _ = filled(1000, [6])
    for version in range(4):
        buffer.label(version, np.full(A, 0.5), True, version, 0)
    for trusted_from, ok in ((0, [0, 1, 2, 3]), (2, [2, 3]), (4, []), (math.inf, []), (1, [1, 2, 3])):
        buffer.trusted_from = trusted_from
        seen = labels(buffer)
        assert {i for i in seen if seen[i][0]} == set(ok)
        assert all(seen[i][1] == [0.5, 0.5] if i in ok else seen[i][1] == [0.0, 0.0] for i in seen)


def test_a_label_that_comes_too_late_is_dropped_and_a_reused_slot_is_clean():
    buffer, _ = filled(10, [10])
    for i in range(10):
        buffer.label(i, np.ones(A), True, 0, 0)
    assert all(ok for ok, _ in labels(buffer).values())
    buffer.begin(picture(11))
    for i in range(12, 40):
        buffer.add(np.zeros(A), 0.0, 1.0, picture(i), False)
    buffer.label(2, np.ones(A), True, 0, 0)
    assert not any(ok for ok, _ in labels(buffer).values())
    for never in (-1, 40, 10_000):
        with pytest.raises(ValueError, match=f"no transition has id {never}"):
            buffer.label(never, np.ones(A), True, 0, 0)
    with pytest.raises(ValueError, match="needs an action"):
        buffer.label(35, None, True, 0, 0)


def test_frames_and_actions_by_id():
    buffer, truth = filled(20, [6, 6, 30])
    ids = np.array(sorted(truth)[-8:])
    assert buffer.contains(ids).all() and not buffer.contains(np.array([0, -1, 10_000])).any()
    assert numbers(buffer.frames(ids)).tolist() == ids.tolist()
    assert buffer.actions(ids).tolist() == [[float(i), -float(i)] for i in ids]
    assert buffer.frames(ids[:0]).shape == (0, *SHAPE)
    with pytest.raises(ValueError, match="overwritten"):
        buffer.frames(np.array([0]))


@pytest.mark.parametrize("size", [84, 100])
def test_memory_is_one_frame_per_transition(size):
    """At most one frame and 2 KB each: 21 KB at 84 pixels, 30 KB at 100."""
    buffer = ReplayBuffer(1000, (size, size, 3), 12, 3)
    frame = size * size * 3
    assert frame * 1000 <= buffer.nbytes <= (frame + 2048) * 1000


def test_memory_is_taken_as_it_is_used():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux")

    def resident() -> int:
        return int(statm.read_text().split()[1]) * 4096

    before = resident()
    buffer = ReplayBuffer(100_000, (100, 100, 3), 6, 3)
    assert buffer.nbytes > 3e9 and resident() - before < 1e8
    buffer.begin(np.ones((100, 100, 3), np.uint8))
    for _ in range(1000):
        buffer.add(np.zeros(6), 0.0, 1.0, np.ones((100, 100, 3), np.uint8), False)
    assert 2e7 < resident() - before < 3e8


def test_errors():
    with pytest.raises(ValueError, match="capacity must be at least 1, got 0"):
        ReplayBuffer(0, SHAPE, A, 3)
    buffer = ReplayBuffer(10, SHAPE, A, 3)
    with pytest.raises(ValueError, match="no transition yet"):
        buffer.sample(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match="begin"):
        buffer.add(np.zeros(A), 0.0, 1.0, picture(0), False)
    buffer.begin(picture(0))
    with pytest.raises(ValueError, match="no transition yet"):
        buffer.sample(1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"uint8 \[2, 3, 3\], got float64"):
        buffer.add(np.zeros(A), 0.0, 1.0, np.zeros(SHAPE), False)
    assert len(buffer) == 0
    buffer.add(np.zeros(A), 0.0, 1.0, picture(1), True)
    with pytest.raises(ValueError, match="begin"):
        buffer.add(np.zeros(A), 0.0, 1.0, picture(2), False)
    assert len(buffer) == 1


def test_a_label_known_to_be_right_says_so_in_a_graded_batch_alone():
    buffer, _ = filled(1000, [6])
    buffer.label(1, np.ones(A), True, 0, 0, reliable=True)
    buffer.label(2, np.ones(A), True, 0, 0)
    buffer.label(3, np.ones(A), True, 1, 0, reliable=True)
    assert buffer.sample(4, np.random.default_rng(0)).prior_reliable is None
    buffer.graded = True
    for trusted_from, expected in ((0, {1, 3}), (1, {3}), (2, set())):
        buffer.trusted_from = trusted_from
        batch = buffer.sample(4000, np.random.default_rng(0))
        assert set(numbers(batch.frames)[:, 2][batch.prior_reliable > 0]) == expected


def test_stacks_and_rewards_are_those_of_a_batch():
    buffer, _ = filled(1000, [6, 6])
    batch = buffer.sample(200, np.random.default_rng(0))
    ids = numbers(batch.frames)[:, 2]
    assert len(set(ids.tolist())) == 12  # the first frames of both episodes among them
    stacks = np.moveaxis(batch.frames[:, :-1], 1, 3).reshape(*batch.frames.shape[:1], *batch.frames.shape[2:4], -1)
    np.testing.assert_array_equal(buffer.stacks(ids), stacks)
    np.testing.assert_array_equal(buffer.rewards(ids), batch.reward)
