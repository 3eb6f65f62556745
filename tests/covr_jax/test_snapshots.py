"""Snapshots on disk: round trips, damage to any file, a full disk, what is kept."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from covr_jax import snapshots
from covr_jax.replay import ReplayBuffer
from covr_jax.snapshots import Snapshots
from tests.covr_jax import tiny

SHAPE = (4, 4, 3)
IDENTITY = {"run.seed": 1, "observation shape": (4, 4, 3), "learner.critic_lr": 1e-3}
LEARNER = tiny.learner("rad")
STATE = {
    "counters": {"decisions": 3},
    "nan": float("nan"),
    "tenth": 0.1,
    "list": [{"action": np.array([0.25, -1.0], np.float32)}, None, "text"],
    "none": np.zeros((0, 2)),
}


def filled(count: int, capacity: int = 20) -> ReplayBuffer:
    """One running episode whose frames hold their own ids."""
    replay = ReplayBuffer(capacity, SHAPE, 2, 3)
    replay.begin(np.zeros(SHAPE, np.uint8))
    grow(replay, count)
    return replay


def grow(replay: ReplayBuffer, count: int) -> None:
    for i in range(replay.held.stop, replay.held.stop + count):
        replay.add(np.full(2, i / 100, np.float32), i / 8, 1.0, np.full(SHAPE, i % 256, np.uint8), False)


def restored(saved: snapshots.Saved, capacity: int = 20) -> ReplayBuffer:
    replay = ReplayBuffer(capacity, SHAPE, 2, 3)
    replay.restore(saved.state["replay"], saved.frames())
    return replay


def same_batches(left: ReplayBuffer, right: ReplayBuffer) -> bool:
    batches = (replay.sample(200, np.random.default_rng(1)) for replay in (left, right))
    return all(np.array_equal(a, b) for a, b in zip(*batches, strict=True))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Two snapshots, after 12 and 17 of what the replay's 20 places take; they share a block."""
    folder = tmp_path_factory.mktemp("snapshots") / "checkpoints"
    store, replay = Snapshots(folder, IDENTITY), filled(12)
    for decisions, state in ((12, LEARNER.init(1, 24)), (17, LEARNER.init(2, 24))):
        store.save(decisions, state, STATE | {"replay": replay.state()}, replay)
        grow(replay, 5)
    return folder


@pytest.fixture
def folder(written, tmp_path) -> Path:
    shutil.copytree(written, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_what_was_saved_comes_back_bit_for_bit(folder):
    saved = Snapshots(folder, IDENTITY).newest()
    assert saved.path.name == "run-000000000017"
    learner = LEARNER.init(2, 24)
    leaves = (jax.tree.leaves(tree) for tree in (learner, saved.learner(LEARNER.init(9, 24))))
    for left, right in zip(*leaves, strict=True):
        assert left.dtype == right.dtype and np.array_equal(left, right)
    assert jax.tree.structure(saved.learner(learner)) == jax.tree.structure(learner)
    assert saved.state["counters"] == {"decisions": 3} and saved.state["tenth"] == 0.1
    assert np.isnan(saved.state["nan"])
    action, *rest = saved.state["list"]
    assert action["action"].dtype == np.float32 and action["action"].tolist() == [0.25, -1.0]
    assert rest == [None, "text"] and saved.state["none"].shape == (0, 2)
    assert same_batches(restored(saved), filled(17))


def test_what_the_run_does_later_does_not_reach_a_snapshot(tmp_path):
    store, replay = Snapshots(tmp_path, IDENTITY), filled(12)
    store.save(12, LEARNER.init(1, 24), {"replay": replay.state()}, replay)
    replay.label(3, np.ones(2), True, 0, 0)  # of a transition that is in the snapshot
    grow(replay, 100)  # the ring goes round
    assert same_batches(restored(Snapshots(tmp_path, IDENTITY).newest()), filled(12))


@pytest.mark.parametrize("capacity", [1, 7, 40, 600])
def test_any_point_of_a_ring_can_be_restored_and_goes_on_alike(tmp_path, capacity):
    store, replay = Snapshots(tmp_path, IDENTITY), filled(0, capacity)
    learner = LEARNER.init(1, 24)
    for decisions, more in enumerate([0, 1, 30, 3, 600, 11, 5]):
        grow(replay, more)
        store.save(decisions, learner, {"replay": replay.state()}, replay)
        again = restored(Snapshots(tmp_path, IDENTITY).newest(), capacity)
        assert again.held == replay.held and again.running() == replay.running()
        if len(replay):
            assert same_batches(again, replay)
    grow(replay, 50)
    grow(again, 50)
    assert same_batches(again, replay)
    on_disk = {int(path.name[:12]) for path in (tmp_path / "frames").iterdir()}
    assert min(on_disk) >= replay.held.start - 50 - 2 * snapshots.BLOCK_FRAMES  # old blocks go


def test_the_newest_two_are_kept_and_one_of_the_same_age_is_not_written_twice(tmp_path):
    store, replay, learner = Snapshots(tmp_path, IDENTITY), filled(5), LEARNER.init(1, 24)
    for decisions in (1, 2, 3, 3):
        store.save(decisions, learner, {"replay": replay.state(), "at": decisions}, replay)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames", "run-000000000002", "run-000000000003"]
    (tmp_path / ".new-run-000000000004").mkdir()
    (tmp_path / ".old-run-000000000001").mkdir()
    assert Snapshots(tmp_path, IDENTITY).newest().state["at"] == 3
    assert not list(tmp_path.glob(".*"))
    assert Snapshots(tmp_path / "nothing", IDENTITY).newest() is None


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[int(np.random.default_rng(len(data)).integers(len(data)))] ^= 0x10
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


NEWEST, BLOCKS = "run-000000000017", ("frames/000000000000-000000000013.npy", "frames/000000000013-000000000018.npy")


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_damage_to_any_file_of_the_newest_is_noticed_and_the_one_before_is_used(written, tmp_path, damage, caplog):
    files = [str(file.relative_to(written)) for file in (written / NEWEST).rglob("*") if file.is_file()]
    assert len(files) > 6 and (written / BLOCKS[0]).is_file()
    for index, name in enumerate([*files, BLOCKS[1]]):
        folder = tmp_path / str(index)
        shutil.copytree(written, folder)
        if not (folder / name).stat().st_size and damage is not Path.unlink:
            continue  # an empty file has no byte
        damage(folder / name)
        caplog.clear()
        store = Snapshots(folder, IDENTITY)
        saved = store.newest()
        assert saved.path.name == "run-000000000012", name
        assert "DAMAGED CHECKPOINT" in caplog.text and Path(name).name in caplog.text
        assert (folder / "quarantine" / NEWEST).is_dir()
        assert same_batches(restored(saved), filled(12))
        replay = filled(17)
        store.save(17, LEARNER.init(2, 24), STATE | {"replay": replay.state()}, replay)
        assert same_batches(restored(Snapshots(folder, IDENTITY).newest()), replay), name


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
def test_with_no_whole_one_left_a_run_is_refused_now_and_later(folder, damage):
    damage(folder / BLOCKS[0])  # both snapshots need it
    for _ in range(2):
        with pytest.raises(ValueError, match=r"no checkpoint in .* is whole"):
            Snapshots(folder, IDENTITY).newest()
    assert len(list((folder / "quarantine").iterdir())) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"run.seed": 2}, r"run.seed is 2 now and was 1 in .*run-000000000017"),
        ({"observation shape": (5, 5, 3)}, r"observation shape is \[5, 5, 3\] now and was \[4, 4, 3\]"),
        ({"learner.new": 1}, "learner.new is 1 now and was None"),
    ],
)
def test_another_identity_is_refused_by_name_and_nothing_is_moved(folder, change, words):
    with pytest.raises(ValueError, match=words):
        Snapshots(folder, IDENTITY | change).newest()
    assert not (folder / "quarantine").exists()
    assert Snapshots(folder, IDENTITY).newest() is not None


def test_another_format_is_refused(folder, monkeypatch):
    monkeypatch.setattr(snapshots, "FORMAT", 2)
    with pytest.raises(ValueError, match="has format 1, this version reads 2"):
        Snapshots(folder, IDENTITY).newest()
    assert not (folder / "quarantine").exists()


@pytest.mark.parametrize("room", [100, 30_000])  # bytes: the frames do not fit; the frames do, the learner does not
def test_a_full_disk_leaves_the_snapshots_before_it(folder, room):
    store = Snapshots(folder, IDENTITY)
    saved = store.newest()
    replay = restored(saved)
    grow(replay, 3)
    before = sorted(path for path in folder.rglob("*"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="checkpoint not written, the one before it is whole") as caught:
            store.save(30, LEARNER.init(3, 24), {"replay": replay.state()}, replay)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path for path in folder.rglob("*")) == before
    assert Snapshots(folder, IDENTITY).newest().path.name == NEWEST
    store.save(30, LEARNER.init(3, 24), {"replay": replay.state()}, replay)
    assert same_batches(restored(Snapshots(folder, IDENTITY).newest()), replay)


def test_state_that_is_not_json_is_an_error_before_anything_is_there(tmp_path):
    replay = filled(3)
    with pytest.raises(TypeError):
        Snapshots(tmp_path, IDENTITY).save(1, LEARNER.init(1, 24), {"x": object()}, replay)
    assert Snapshots(tmp_path, IDENTITY).newest() is None


def test_the_manifest_names_every_file(folder):
    manifest = json.loads((folder / NEWEST / "manifest.json").read_text())
    files = {str(file.relative_to(folder / NEWEST)) for file in (folder / NEWEST).rglob("*") if file.is_file()}
    assert files - {"manifest.json"} == set(manifest["files"])
    assert [f"frames/{first:012d}-{end:012d}.npy" for first, end, _ in manifest["blocks"]] == list(BLOCKS)
