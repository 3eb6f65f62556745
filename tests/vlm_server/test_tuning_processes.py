"""Tuning jobs in several processes: the same update as in one, and what happens when one of them does not go on."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from covr.prior.v1 import prior_pb2 as pb

from tests.vlm_server.test_process_faults import SEEN, Life
from tests.vlm_server.test_tuning import CARTPOLE, QUICK, noise, same, short
from tests.vlm_server.tuning_house import TASK, samples
from vlm_server import datasets, models, tuning, tuning_launcher, tuning_processes
from vlm_server.process_group import ALONE, ProcessGroup
from vlm_server.tuning import TuningCancelled, TuningFailed
from vlm_server.tuning_folder import Assignment, TuningFolder, remove_leftovers
from vlm_server.tuning_processes import TuningProcesses
from vlm_server.tuning_reports import TuningReports

# 11 of 15 samples in batches of 4, 4, 3; weights differ.
PLAIN = dataclasses.replace(QUICK, dropout=0.0, holdout=0.25, batch_size=4, epochs=2)


class Threads:
    """Ranks of a group that are threads of this process."""

    def __init__(self, size: int):
        self.barrier, self.values = threading.Barrier(size, timeout=60), [None] * size
        self.ranks = [Rank(rank, size) for rank in range(size)]
        for rank in self.ranks:
            object.__setattr__(rank, "threads", self)

    def all(self, rank: int, value):
        """What every rank gave."""
        self.values[rank] = value
        self.barrier.wait()
        values = list(self.values)
        self.barrier.wait()
        return values


class Rank(ProcessGroup):
    def sum(self, *values):
        return tuple(map(sum, zip(*self.threads.all(self.rank, values), strict=True)))

    def sum_gradients(self, parameters):
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
        for parameter, *parts in zip(parameters, *self.threads.all(self.rank, grads), strict=True):
            parameter.grad = sum(parts[1:], parts[0].clone())


def close(first, second) -> None:
    assert first.tensors.keys() == second.tensors.keys()
    for key, value in first.tensors.items():
        torch.testing.assert_close(value, second.tensors[key], rtol=0, atol=1e-5)
    one, other = (dataclasses.asdict(outcome.statistics) | {"seconds": 0} for outcome in (first, second))
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_are_the_whole(size):
    for count in (0, 1, 4, 7):
        shares = [ProcessGroup(rank, size).share(list(range(count))) for rank in range(size)]
        assert sorted(item for share in shares for item in share) == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        tensors = [ProcessGroup(rank, size).share(torch.arange(count)).tolist() for rank in range(size)]
        assert tensors == shares
    assert ALONE.sum(1.5, 2) == (1.5, 2)


@pytest.mark.parametrize(("size", "batch", "micro"), [(2, 4, 0), (2, 5, 1), (3, 5, 2)])
def test_ranks_make_the_update_of_one_process(size, batch, micro):
    """Eq. 6 counts the whole batch's tokens; the last batch, of one sample for 5, leaves ranks without any."""
    vlm, data = short("qwen2_5_vl"), noise(15)
    data[3] = dataclasses.replace(data[3], return_to_go=-1.0)
    config = dataclasses.replace(PLAIN, batch_size=batch, micro_batch=micro)
    group, outcomes = Threads(size), {}

    def train(rank):
        outcomes[rank.rank] = tuning.train(vlm, CARTPOLE, data, None, config, group=rank)

    threads = [threading.Thread(target=train, args=(rank,)) for rank in group.ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    one = tuning.train(vlm, CARTPOLE, data, None, dataclasses.replace(config, micro_batch=0))
    assert one.statistics.train_samples == 11  # in 4 4 3 or 5 5 1
    for outcome in outcomes.values():
        assert same(outcome, outcomes[0])
    assert len(outcomes) == size
    close(outcomes[0], one)


def test_ranks_draw_masks_of_their_own(monkeypatch):
    seeds = []
    monkeypatch.setattr(tuning.lora, "use_dropout", lambda tree, name, share, seed: seeds.append(seed))
    for rank in range(3):
        tuning._tree(short("qwen2_5_vl"), None, dataclasses.replace(QUICK, seed=2**64 - 1), ProcessGroup(rank, 3))
    assert seeds == [2**64 - 1, 0, 1]


def test_an_assignment_comes_back_as_it_was(tmp_path):
    data = samples(0.5)
    given = Assignment("/m", "0" * 64, "cpu", "bfloat16", 2, TASK, datasets.digest(TASK, data), "", PLAIN)
    TuningFolder(tmp_path).assign(given, data)
    folder = TuningFolder(tmp_path)
    assert folder.assignment() == given
    for known, found in zip(data, folder.samples(given), strict=True):
        np.testing.assert_array_equal(known.observation.frame, found.observation.frame)
        assert (known.action, known.return_to_go) == (found.action, found.return_to_go)
    (tmp_path / "assignment.json").write_bytes((tmp_path / "assignment.json").read_bytes().replace(b"cpu", b"gpu"))
    with pytest.raises(ValueError, match="has changed"):
        folder.assignment()


def test_reports_are_read_once_and_whole(tmp_path):
    here, there = TuningReports(tmp_path), TuningReports(tmp_path)
    assert list(here.new_steps()) == []
    there.step(1, 9, 0.5)
    there.step(2, 9, 0.25)
    with (tmp_path / "progress.jsonl").open("a") as file:
        file.write("[3, 9")
        file.flush()
        assert list(here.new_steps()) == [(1, 9, 0.5), (2, 9, 0.25)] and list(here.new_steps()) == []
        file.write(", 0.125]\n")
    assert list(here.new_steps()) == [(3, 9, 0.125)]
    assert here.failure() == ""
    there.fail("_launcher", "what the launcher saw")
    assert here.failure() == "what the launcher saw"
    there.fail(1, "a process's own words")
    assert here.failure() == "a process's own words"


def test_a_process_that_was_killed_is_named_before_those_that_lost_it():
    assert tuning_launcher.reason({0: 1, 1: -signal.SIGKILL}) == (
        "tuning process 1 was killed by SIGKILL; is there too little memory?"
    )
    ended = {0: -signal.SIGTERM, 1: 1, 2: -signal.SIGSEGV}
    assert tuning_launcher.reason(ended) == "tuning process 2 was killed by SIGSEGV"
    assert tuning_launcher.reason({0: -signal.SIGTERM, 1: 1}).startswith("tuning process 1 ended with status 1; ")
    assert tuning_launcher.reason({1: -signal.SIGSEGV}) == "tuning process 1 was killed by SIGSEGV"
    assert tuning_launcher.reason({0: 1, 1: 1}).startswith("tuning process 0 ended with status 1; ")


def test_there_is_a_gpu_for_each_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    tuning_processes.check(torch.device("cpu"), 64)
    tuning_processes.check(torch.device("cuda:1"), 1)
    tuning_processes.check(torch.device("cuda", 0), 2)
    with pytest.raises(ValueError, match="tuning_processes=3 takes a GPU each; torch sees 2"):
        tuning_processes.check(torch.device("cuda"), 3)
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        tuning_processes.check(torch.device("cuda:1"), 2)


def test_leftovers_of_a_killed_server_go(tmp_path):
    (tmp_path / ".jobs" / ".tuning-x" / "adapter").mkdir(parents=True)
    (tmp_path / ".jobs" / "job.json").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in (tmp_path / ".jobs").iterdir()] == ["job.json"]


@pytest.fixture
def root(tmp_path):
    (tmp_path / ".jobs").mkdir()
    yield tmp_path
    assert list((tmp_path / ".jobs").iterdir()) == []


def train(root, vlm, config, data=None, **more):
    return TuningProcesses(root, 2).train(vlm, CARTPOLE, data or noise(15), None, config, **more)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_make_the_adapter_of_one(root):
    vlm, seen = models.load("tiny", "cpu"), []
    config = dataclasses.replace(PLAIN, checkpointing=True)
    one = tuning.train(vlm, CARTPOLE, noise(15), None, config)
    two = train(root, vlm, config, progress=lambda *now: seen.append(now))
    close(two, one)
    assert [now[:2] for now in seen] == [(i, 6) for i in range(1, 7)]
    assert not same(two, one) and two.write(root)["processes"] == 2
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        (root / file).unlink()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_bfloat16_accumulation_and_checkpointing_in_two_processes(root):
    vlm = models.load("tiny", "cpu", "bfloat16")
    config = dataclasses.replace(PLAIN, checkpointing=True, micro_batch=1)
    one, two = tuning.train(vlm, CARTPOLE, noise(15), None, config), train(root, vlm, config)
    for key, value in one.tensors.items():
        assert float((value - two.tensors[key]).norm()) <= 0.05 * float(value.norm())
    assert two.statistics.train_loss_last == pytest.approx(one.statistics.train_loss_last, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_reasons_reach_the_server(root):
    vlm = models.load("tiny", "cpu")
    with pytest.raises(TuningFailed, match="no sample has a positive weight under the rule max_abs"):
        train(root, vlm, PLAIN, [dataclasses.replace(s, return_to_go=-1.0) for s in noise(15)])
    with pytest.raises(TuningFailed, match=r"(is|are) not finite"):
        train(root, vlm, dataclasses.replace(PLAIN, learning_rate=1.0, alpha=1e4, epochs=200))
    with pytest.raises(TuningFailed, match="files have changed since the server read them"):
        train(root, dataclasses.replace(vlm, digest="0" * 64), PLAIN)
    with pytest.raises(TuningCancelled):
        train(root, vlm, PLAIN, cancelled=lambda: True)


def workers(folder: Path) -> list[int]:
    """Ids of the launcher and the workers whose command lines name ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if re.search(rb"vlm_server\.tuning_(launcher|worker)", b" ".join(command)) and any(
                os.fsencode(folder) in part for part in command
            ):
                found.append((b"vlm_server.tuning_worker" in command, int(entry.name)))
    return [ident for _, ident in sorted(found)]


def gone(folder: Path, within_s: float = 30.0) -> bool:
    end = time.monotonic() + within_s
    while workers(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return not workers(folder)


LONG = dict(max_steps=2000, epochs=1000)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_outlives_its_tuning_processes_and_they_do_not_outlive_it(tmp_path):
    life = Life(tmp_path / "adapters", "--tuning_processes=2")
    try:
        before = life.ask()

        def begun(request_id, **settings):
            job = life.order(request_id, **(LONG | settings))
            watching = life.watch(job)
            assert next(update for update in watching if update.step >= 2).state == pb.JOB_STATE_RUNNING
            return job, watching

        # A worker is killed, or has no memory; or their launcher is killed.
        def starve(ident):
            used = int(Path(f"/proc/{ident}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(ident, resource.RLIMIT_AS, (used, used))

        for end, which, words in (
            (lambda ident: os.kill(ident, signal.SIGKILL), -1, "was killed by SIGKILL"),
            (starve, -1, "out of memory: use a smaller batch_size"),
            (lambda ident: os.kill(ident, signal.SIGKILL), 0, "launcher was killed by SIGKILL"),
        ):
            _, watching = begun(words.replace(" ", "-"))
            assert len(workers(life.folder)) == 3
            end(workers(life.folder)[which])
            last = list(watching)[-1]
            assert last.state == pb.JOB_STATE_FAILED and words in last.error
            assert gone(life.folder) and life.ask() == before

        # A job is cancelled.
        job, watching = begun("cancelled")
        life.tuning.CancelTuning(pb.CancelTuningRequest(job=job), timeout=60)
        assert list(watching)[-1].state == pb.JOB_STATE_CANCELLED
        assert gone(life.folder) and life.ask() == before
        assert list((life.folder / ".jobs").iterdir()) == []

        # The server is killed, and started again.
        steps = dict(max_steps=60, epochs=100)
        job, watching = begun("resumed", **steps)
        life.process.send_signal(signal.SIGKILL)
        assert gone(life.folder)
        life.restart()
        assert life.ask()[1:] == before[1:]
        resumed = list(life.watch(job))[-1]
        assert resumed.state == pb.JOB_STATE_DONE, resumed.error
        assert life.ask()[0] == resumed.result.adapter
        undisturbed = list(life.watch(life.order("undisturbed", SEEN, **steps)))[-1]
        assert undisturbed.result.adapter.digest == resumed.result.adapter.digest
        assert list((life.folder / ".jobs").iterdir()) == [] and workers(life.folder) == []
    finally:
        life.end()
        assert gone(life.folder)
