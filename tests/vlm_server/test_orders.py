"""Open tuning jobs on disk: every sample and setting comes back, and no damage goes unnoticed."""

from __future__ import annotations

import dataclasses
import errno

import numpy as np
import pytest

from tests.vlm_server.tuning_house import TASK, samples
from vlm_server import datasets, sample_files
from vlm_server.adapter_errors import NoRoom
from vlm_server.adapters import AdapterStore
from vlm_server.defaults import TuningConfig
from vlm_server.orders import Order, OrderBook

CONFIG = TuningConfig(rank=4, alpha=0.1, dropout=0.3, learning_rate=1 / 3, weight_rule="ones", seed=2**64 - 1)


def order(job, value=1.0, **fields):
    digest = datasets.digest(TASK, samples(value))
    return Order(job, "run", job, TASK.name, digest, "base", "0" * 64, CONFIG, **fields)


def add(book, job, value=1.0, **fields):
    return book.add(order(job, value, **fields), TASK, samples(value))


def files(book):
    return sorted(path.name for path in book._folder.iterdir())


def test_orders_and_samples_come_back_as_they_were(tmp_path):
    book = OrderBook(tmp_path)
    first = add(book, "b", 1 / 3, activate=True, gated=True, keep_latest=3, selection={"tau": 1 / 7})
    second = add(book, "a", 0.1)
    assert (first.number, second.number) == (1, 2)
    again = OrderBook(tmp_path)
    assert again.open() == [first, second]
    assert add(again, "c").number == 3
    for value, found in ((1 / 3, first), (0.1, second)):
        read = again.read(found, TASK)
        for one, two in zip(read, samples(value), strict=True):
            assert np.array_equal(one.observation.frame, two.observation.frame)
            assert one.observation.state == two.observation.state
            assert (one.action, one.return_to_go) == (two.action, two.return_to_go)


def test_samples_are_kept_once_and_as_long_as_an_order_needs_them(tmp_path):
    book = OrderBook(tmp_path)
    one, two = add(book, "one"), add(book, "two")
    assert files(book) == sorted(["one.json", "two.json", f"{one.samples}.safetensors"])
    book.remove("one")
    assert book.read(two, TASK) and files(book) == sorted(["two.json", f"{two.samples}.safetensors"])
    book.remove("two")
    book.remove("two")
    assert files(book) == []


def test_what_has_ended_is_not_brought_back_by_an_update(tmp_path):
    book = OrderBook(tmp_path)
    one = add(book, "one")
    book.update(dataclasses.replace(one, attempts=2))
    assert book.open()[0].attempts == 2
    book.remove("one")
    book.update(one)
    assert book.open() == []


def test_any_flipped_byte_is_noticed(tmp_path):
    book = OrderBook(tmp_path)
    one = add(book, "one")
    file = book._folder / f"{one.samples}.safetensors"
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(0, header, 13), *range(header, len(whole), 5), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1
        file.write_bytes(changed)
        try:
            read = book.read(one, TASK)
        except ValueError:
            continue
        assert datasets.digest(TASK, read) == one.samples  # a space of the header, say
    file.write_bytes(whole)
    assert book.read(one, TASK)


def test_a_damaged_order_is_put_aside(tmp_path, caplog):
    book = OrderBook(tmp_path)
    add(book, "one", 0.1)
    two = add(book, "two", 0.2)
    file = book._folder / "one.json"
    file.write_bytes(file.read_bytes().replace(b"run", b"ruN"))
    assert OrderBook(tmp_path).open() == [two] and "has changed" in caplog.text
    assert files(book) == sorted(["one.damaged", "two.json", f"{two.samples}.safetensors"])


def test_leftovers_of_a_crash_are_swept(tmp_path):
    book = OrderBook(tmp_path)
    (book._folder / ".new-abc").write_bytes(b"half")
    (book._folder / f"{'0' * 64}.safetensors").write_bytes(b"samples whose order was never written")
    OrderBook(tmp_path)
    assert files(book) == []


def test_samples_count_as_adapters_do(tmp_path):
    frames = sum(sample.observation.frame.nbytes for sample in samples(1.0))
    store = AdapterStore(tmp_path, "0" * 64, max_bytes=4 * frames)
    book = OrderBook(tmp_path, store.check_room)
    add(book, "one", 0.1)
    with pytest.raises(NoRoom, match="max_adapter_bytes"):
        for number in range(4):
            add(book, f"more{number}", number + 1.0)
    count = len(book.open())
    assert 1 <= count < 5 and len(files(book)) == 2 * count
    store.close()


@pytest.mark.parametrize("full", ["samples", "order"])
def test_a_full_disk_refuses_the_order_and_leaves_nothing(tmp_path, monkeypatch, full):
    book = OrderBook(tmp_path)

    def fails(*_):
        raise OSError(errno.ENOSPC, "No space left on device: /secret")

    with monkeypatch.context() as patched:
        patched.setattr(sample_files, "write", fails) if full == "samples" else patched.setattr(book, "_write", fails)
        with pytest.raises(NoRoom, match="the server's disk is full"):
            add(book, "one")
    assert files(book) == []
    assert add(book, "one").number >= 1
