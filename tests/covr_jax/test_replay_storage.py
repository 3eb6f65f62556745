"""Frames on the device and on the host (replay.storage): the same batches, reads and restored buffers, bit for bit."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.config import ReplayConfig
from covr_jax.replay import ReplayBuffer, storage
from covr_jax.replay.samplers import Prioritised
from tests.covr_jax.runs import same

SHAPE, A = (4, 5, 3), 2
KINDS = {
    "plain": {},
    "remembers": {"remembers": True},
    "sequences": {"sequences": (5, 3)},
    "prioritised": {"sampler": True},
}


def made(where: str, capacity: int, kind: str) -> ReplayBuffer:
    choices = dict(KINDS[kind])
    if "sampler" in choices:
        choices["sampler"] = Prioritised(ReplayConfig())
    return ReplayBuffer(capacity, SHAPE, A, 3, storage=where, **choices)


def fill(buffer: ReplayBuffer, lengths: list[int], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for length in lengths:
        buffer.begin(rng.integers(0, 256, SHAPE, dtype=np.uint8))
        for t in range(length):
            frame = rng.integers(0, 256, SHAPE, dtype=np.uint8)
            transition = buffer.add(rng.normal(size=A), rng.normal(), 1.0, frame, t == length - 1)
            buffer.label(transition, rng.normal(size=A), bool(rng.integers(2)), 0, 0)


def draw(buffer: ReplayBuffer, seed: int):
    return buffer.sample(32, np.random.default_rng(seed)), buffer.sample_many(3, 8, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("capacity", [7, 300])
def test_the_same_batches_and_reads(capacity, kind):
    host, device = (made(where, capacity, kind) for where in ("host", "device"))
    for seed, lengths in enumerate([[9], [4, 30], [6] * 60]):
        for buffer in (host, device):
            fill(buffer, lengths, seed)
        assert same(draw(host, seed), draw(device, seed))
        ids = np.asarray(host.held)
        np.testing.assert_array_equal(host.frames(ids), device.frames(ids))
    assert isinstance(device.sample(4, np.random.default_rng(0)).frames, jax.Array)
    assert len(host.held) > storage._ROWS or capacity == 7  # reads in several parts


@pytest.mark.parametrize("then, now", [("host", "device"), ("device", "host"), ("device", "device")])
def test_restored_from_the_other(then, now):
    old, new = made(then, 300, "plain"), made(now, 300, "plain")
    fill(old, [9] * 40)
    held = np.asarray(old.held)
    parts = [held[:1], held[1:270], held[270:]]  # one frame, more than a block, and the rest
    new.restore(old.state(), [(int(ids[0]), old.frames(ids)) for ids in parts])
    assert same(draw(old, 1), draw(new, 1))
    for buffer in (old, new):
        fill(buffer, [5, 7], seed=1)
    assert same(draw(old, 2), draw(new, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_several_batches_at_once_are_those_of_single_calls(kind):
    one, many = (made("host", 100, kind) for _ in range(2))
    for buffer in (one, many):
        fill(buffer, [20, 30])
    rng = np.random.default_rng(5)
    singles = [one.sample(8, rng) for _ in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *singles)
    assert same(stacked, many.sample_many(3, 8, np.random.default_rng(5)))


def test_a_batch_of_the_device_does_not_change_later():
    buffer = made("device", 10, "plain")
    fill(buffer, [8])
    batch = buffer.sample(16, np.random.default_rng(0))
    before = np.array(batch.frames)
    fill(buffer, [30], seed=1)
    np.testing.assert_array_equal(batch.frames, before)


def test_a_frame_is_written_in_place():
    frames = storage.DeviceFrames(1000, (64, 64, 3))
    address = frames._rows.unsafe_buffer_pointer()
    for slot in range(5):
        frames.write(np.array([slot]), np.full((1, 64, 64, 3), slot + 1, np.uint8))
    assert frames._rows.unsafe_buffer_pointer() == address
    assert frames.read(np.arange(6))[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 0]


@pytest.mark.parametrize(
    "free, nbytes, chosen", [(None, 1, "host"), (1000, 500, "device"), (1000, 501, "host"), (0, 1, "host")]
)
def test_auto_goes_by_free_device_memory(monkeypatch, free, nbytes, chosen):
    monkeypatch.setattr(storage, "free_device_memory", lambda: free)
    assert storage.choose("auto", nbytes) == chosen
    assert [storage.choose(name, nbytes) for name in ("host", "device")] == ["host", "device"]


def test_free_device_memory_is_what_the_device_says(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    for stats, free in ((None, None), ({}, None), ({"bytes_limit": 100, "bytes_in_use": 30}, 70)):
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: [Device(stats)])
        assert storage.free_device_memory() == free


def test_an_unknown_storage_is_refused():
    with pytest.raises(ValueError, match="storage=disk is unknown; allowed: auto, device, host"):
        made("disk", 10, "plain")
