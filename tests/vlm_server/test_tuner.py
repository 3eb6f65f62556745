"""Tuning jobs through orderly ends and crashes of their server."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time

import pytest
from safetensors.numpy import load_file

from tests.vlm_server.tuning_house import TASK, House, Training, samples
from vlm_server import jobs, lora, tuning
from vlm_server.adapter_errors import AdapterInvalid, AdapterNotFound, NoRoom
from vlm_server.tuner import MAX_ATTEMPTS


@pytest.fixture
def houses(tmp_path, monkeypatch):
    """Makes houses; ``crashed`` goes on with what is on the disk of one now."""
    monkeypatch.setattr(tuning, "train", tuning.train)
    made = []

    def start(root=tmp_path / "adapters", **settings):
        made.append(House(root, Training(), **settings))
        return made[-1]

    def crashed(house, **settings):
        copy = tmp_path / f"copy{len(made)}"
        shutil.copytree(house.root, copy)
        return start(copy, **settings)

    start.crashed = crashed
    yield start
    for house in made:
        house.close()


def begun(house) -> None:
    assert house.training.entered.acquire(timeout=10)


def weights(house, run="run", version="v1"):
    return load_file(house.store.get(run, version).folder / lora.WEIGHTS)["a"].tolist()


def test_a_crash_loses_no_job(houses):
    house = houses()
    house.submit("run", "one", 0.5, "first")
    house.submit("run", "two", 0.25)
    begun(house)
    after = houses.crashed(house)
    begun(after)
    one, two = (after.tuner.jobs.get(name) for name in ("one", "two"))
    assert (one.progress.state, two.progress.state) == (jobs.RUNNING, jobs.QUEUED)
    assert after.submit("run", "another", 0.5, "first") is one  # submitted again
    for _ in range(2):
        after.training.endings.put("end")
    assert after.states(two)[-1] == jobs.DONE and one.progress.state == jobs.DONE
    assert weights(after) == [0.5, 0.5] and weights(after, version="v2") == [0.25, 0.25]
    assert after.store.active("run") == "v2" and after.store.get("run", "v1").manifest["request_id"] == "first"
    assert list((after.root / ".jobs").iterdir()) == []


def test_an_orderly_end_puts_jobs_off_and_tells_their_watchers(houses):
    house = houses()
    job = house.submit("run", "one")
    begun(house)
    assert house.book.open()[0].attempts == 1
    watching = house.tuner.jobs.watch(job, lambda: True, poll_s=0.01)
    assert next(watching).state == jobs.RUNNING
    house.close()
    with pytest.raises(jobs.Closed):
        next(watching)
    assert house.ended == [] and house.book.open()[0].attempts == 0
    after = houses(house.root)
    begun(after)
    after.training.endings.put("end")
    assert after.states(after.tuner.jobs.get("one"))[-1] == jobs.DONE


@pytest.mark.parametrize("waits", [True, False])
def test_what_was_cancelled_does_not_come_back(houses, waits):
    house = houses()
    if waits:
        house.submit("run", "before")
    job = house.submit("run", "one", 0.5, "first")
    begun(house)
    house.tuner.cancel(job)
    after = houses.crashed(house)
    assert after.tuner.jobs.get("one") is None and len(after.book.open()) == waits


def test_a_version_that_was_made_just_before_a_crash_is_not_made_twice(houses, monkeypatch):
    house = houses()
    monkeypatch.setattr(house.book, "remove", lambda job: None)
    job = house.submit("run", "one")
    house.training.endings.put("end")
    assert house.states(job)[-1] == jobs.DONE
    house.store.activate("run", "base")  # it may also have died before it activated the version
    after = houses.crashed(house)
    again = after.tuner.jobs.get("one")
    assert after.states(again)[-1] == jobs.DONE and again.progress.result.version == "v1"
    assert [record.version for record in after.store.list("run")] == ["v1"] and after.store.active("run") == "v1"


def test_a_version_that_was_made_just_before_the_last_crash_is_found(houses, monkeypatch):
    house = houses()
    house.submit("run", "one")
    begun(house)
    for _ in range(MAX_ATTEMPTS - 1):
        house = houses.crashed(house)
        begun(house)
    monkeypatch.setattr(house.book, "remove", lambda job: None)
    house.training.endings.put("end")
    assert house.states(house.tuner.jobs.get("one"))[-1] == jobs.DONE
    order = dataclasses.replace(house.book.open()[0], attempts=MAX_ATTEMPTS + 1)  # activating it, too, ended the server
    after = houses.crashed(house)
    job = after.tuner.jobs.get("one")
    assert after.states(job)[-1] == jobs.DONE and job.progress.result.version == "v1"
    house.book.update(order)
    last = houses.crashed(house)
    assert last.states(last.tuner.jobs.get("one"))[-1] == jobs.FAILED


def test_a_version_whose_training_had_ended_outlives_an_orderly_end(houses, monkeypatch):
    house = houses()
    create, closing = house.store.create, threading.Thread(target=house.close)

    def late(run, write):
        closing.start()
        while not job.put_off.is_set():
            time.sleep(0.001)
        return create(run, write)

    monkeypatch.setattr(house.store, "create", late)
    job = house.submit("run", "one", 0.5)
    house.training.endings.put("end")
    while not job.put_off.is_set():
        time.sleep(0.001)
    closing.join(10)
    assert house.book.open()[0].attempts == 0 and house.store.active("run") == "base" and house.ended == []
    after = houses(house.root)
    again = after.tuner.jobs.get("one")
    assert after.states(again)[-1] == jobs.DONE and again.progress.result.version == "v1"
    assert weights(after) == [0.5, 0.5] and after.store.active("run") == "v1"
    assert not after.training.entered.acquire(blocking=False), "it is not trained again"


@pytest.mark.parametrize("deed", ["hold", "activate", "delete"])
def test_a_version_that_others_use_before_it_is_published_fails_its_job_alone(houses, monkeypatch, deed):
    house = houses()
    hold = house.store.hold("run", "v1")

    def check(key):
        getattr(house.store, deed)("run", "v1") if deed != "hold" else hold.__enter__()
        raise AdapterInvalid("it failed its question")

    if deed == "delete":  # in the moment before the activation holds it
        activate = house.served.activate
        monkeypatch.setattr(house.served, "activate", lambda *a: house.store.delete("run", "v1") or activate(*a))
    else:
        monkeypatch.setattr(house.engine, "check", check)
    job = house.submit("run", "one")
    house.training.endings.put("end")
    assert house.states(job)[-1] == jobs.FAILED
    assert ("no adapter 'v1'" if deed == "delete" else "failed its question") in job.progress.error
    assert len(house.store.list("run")) == (deed != "delete")


def test_activations_at_once_hold_one_adapter_in_memory(houses, monkeypatch):
    house, read, inside, most = houses(max_queued=3), lora.read, [], []
    for name in ("one", "two", "three"):
        job = house.submit("run", name)
        house.training.endings.put("end")
        assert house.states(job)[-1] == jobs.DONE

    def slow(folder):
        inside.append(folder)
        most.append(len(inside))
        time.sleep(0.1)
        inside.pop()
        return read(folder)

    monkeypatch.setattr(lora, "read", slow)
    askers = [threading.Thread(target=house.served.activate, args=("run", f"v{i}")) for i in (1, 2, 3)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert most == [1, 1, 1] and house.store.active("run") in ("v1", "v2", "v3")


def test_equal_requests_at_once_are_one_order_at_any_moment(houses, monkeypatch):
    house = houses(max_queued=1)
    house.submit("run", "running")
    begun(house)
    add, on_disk, both = house.book.add, [], threading.Barrier(2)

    def slow(*order):
        added = add(*order)
        with pytest.raises(threading.BrokenBarrierError):  # nobody else writes meanwhile
            both.wait(0.2)
        on_disk.append([order.job for order in house.book.open()])
        return added

    monkeypatch.setattr(house.book, "add", slow)
    found = []
    askers = [
        threading.Thread(target=lambda name=name: found.append(house.submit("run", name, 0.5, "same")))
        for name in ("one", "two")
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(10)
    assert len(found) == 2 and found[0] is found[1] and on_disk == [["running", found[0].id]]


def test_a_request_that_is_on_disk_twice_is_done_once(houses):
    """A server that dies just before it finds that a request is known leaves it so."""
    house = houses()
    first = house.submit("run", "one", 0.5, "first")
    begun(house)
    again = dataclasses.replace(house.book.open()[0], job="two", attempts=0)
    house.book.add(again, TASK, samples(0.5))
    after = houses.crashed(house)
    assert [order.job for order in after.book.open()] == [first.id] and after.tuner.jobs.get("two") is None
    after.training.endings.put("end")
    assert after.states(after.tuner.jobs.get("one"))[-1] == jobs.DONE


def test_a_full_disk_does_not_keep_a_server_from_ending(houses, monkeypatch, caplog):
    house = houses()
    house.submit("run", "one")
    begun(house)

    def fails(order):
        raise NoRoom("the server's disk is full")

    monkeypatch.setattr(house.book, "update", fails)
    house.close()
    assert "counts as a failed attempt" in caplog.text and house.book.open()[0].attempts == 1


def test_a_job_that_kills_its_server_is_given_up(houses):
    house = houses()
    house.submit("run", "one")
    begun(house)
    for _ in range(MAX_ATTEMPTS - 1):
        house = houses.crashed(house)
        begun(house)
    last = houses.crashed(house)
    job = last.tuner.jobs.get("one")
    assert last.states(job)[-1] == jobs.FAILED and f"ended {MAX_ATTEMPTS} times" in job.progress.error
    assert last.book.open() == [] and last.ended == [jobs.FAILED]
    next_one = last.submit("run", "two")
    last.training.endings.put("end")
    assert last.states(next_one)[-1] == jobs.DONE


def test_jobs_that_cannot_go_on_say_why(houses, monkeypatch):
    house = houses(max_queued=8)
    house.submit("run", "first")
    house.training.endings.put("end")
    begun(house)
    house.states(house.tuner.jobs.get("first"))
    house.submit("run", "running", 0.1)
    for number, name in enumerate(("parent", "task", "samples", "gone"), 2):
        house.submit("run", name, number / 10, parent="v1" if name == "parent" else "base")
    begun(house)

    def change(name, **fields):
        order = next(order for order in house.book.open() if order.job == name)
        house.book.update(dataclasses.replace(order, **fields))
        return house.root / ".jobs" / f"{order.samples}.safetensors"

    change("task", task="dmc/gone/away")
    file = change("samples")
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    change("gone").unlink()
    other = houses.crashed(house, digest="f" * 64)
    shutil.rmtree(house.root / "run" / "v1")
    after = houses.crashed(house)
    begun(after)
    after.training.endings.put("end")
    errors = {}
    for name in ("running", "parent", "task", "samples", "gone"):
        job = after.tuner.jobs.get(name)
        after.states(job)
        errors[name] = job.progress.error
    assert errors["running"] == ""
    for name, words in (("parent", "no adapter 'v1'"), ("task", "unknown task"), ("samples", "changed"),
                        ("gone", "missing")):  # fmt: skip
        assert words in errors[name]
    job = other.tuner.jobs.get("running")
    assert other.states(job)[-1] == jobs.FAILED and "another base model" in job.progress.error


def test_a_refused_order_leaves_nothing(houses):
    house = houses(max_queued=1)
    house.submit("run", "running", 0.1)
    begun(house)
    house.submit("run", "waiting", 0.2)
    files = sorted((house.root / ".jobs").iterdir())
    with pytest.raises(jobs.QueueFull):
        house.submit("run", "refused", 0.3)
    house.tuner.cancel(house.tuner.jobs.get("waiting"))
    with pytest.raises(AdapterNotFound):
        house.submit("run", "lost", 0.3, parent="v9")
    assert len(files) == 4 and len(list((house.root / ".jobs").iterdir())) == 2
    assert len(house.sets._holders) == 1  # the running one's alone

