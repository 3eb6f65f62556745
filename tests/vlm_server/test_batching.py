"""The inference thread: what is answered together, what is dropped, who gets an error."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from vlm_server import batching
from vlm_server.batching import RECENT_S, Batcher, Closed, Question, QueueFull


class FakeEngine:
    """Echoes observations; records batches; waits while ``gate`` is closed; fails on an observation "bad"."""

    def __init__(self):
        self.batches, self.threads, self.gate = [], set(), threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.stopped = False

    def predict(self, task, observations, adapter, constrained, max_new_tokens, should_stop):
        self.batches.append((adapter, list(observations)))
        self.threads.add(threading.get_ident())
        self.entered.set()
        while not self.gate.wait(0.005):
            if should_stop():
                self.stopped = True
                break
        if "bad" in observations:
            raise RuntimeError("bad observation")
        return [f"{adapter}:{o}" for o in observations], SimpleNamespace(encode_ms=1.0, generate_ms=2.0)


def question(adapter=None, tokens=8, shape=(8, 8, 3), task="t", constrained=False):
    return Question(task, adapter, constrained, tokens, shape)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def make(engine):
    made = []

    def build(**kwargs):
        made.append(Batcher(engine, **kwargs))
        return made[-1]

    yield build
    engine.gate.set()
    for batcher in made:
        batcher.close(5)


def block(engine, batcher):
    """Occupies the inference thread, so that what follows queues up."""
    engine.gate.clear()
    engine.entered.clear()
    future = batcher.submit(question(task="blocker"), ["blocker"])
    assert engine.entered.wait(5)
    return future


def test_equal_questions_are_answered_together_in_order(engine, make):
    batcher = make(max_batch=8, max_delay_ms=0)
    block(engine, batcher)
    futures = [batcher.submit(question(), [f"{i}a", f"{i}b"]) for i in range(3)]
    engine.gate.set()
    answers = [f.result(5) for f in futures]
    assert engine.batches[1:] == [(None, ["0a", "0b", "1a", "1b", "2a", "2b"])]
    assert [a.replies for a in answers] == [[f"None:{i}a", f"None:{i}b"] for i in range(3)]
    assert {a.batch_size for a in answers} == {6} and answers[0].queue_ms >= answers[2].queue_ms


@pytest.mark.parametrize(
    "other",
    [
        question(adapter="run/v1"),
        question(tokens=9),
        question(shape=(9, 8, 3)),
        question(task="u"),
        question(constrained=True),
    ],
)
def test_different_questions_never_share_a_batch(engine, make, other):
    batcher = make(max_batch=8, max_delay_ms=0)
    block(engine, batcher)
    futures = [batcher.submit(q, ["o"]) for q in (question(), other, question())]
    engine.gate.set()
    assert [f.result(5).batch_size for f in futures] == [2, 1, 2]


def test_a_request_is_not_spread_over_batches_with_others(engine, make):
    batcher = make(max_batch=4, max_delay_ms=0)
    block(engine, batcher)
    futures = [batcher.submit(question(), list(text)) for text in ("abc", "de", "f", "ghijklmno", "p")]
    engine.gate.set()
    for future in futures:
        future.result(5)
    batches = ["".join(observations) for _, observations in engine.batches[1:]]
    assert batches == ["abc", "def", "ghij", "klmn", "o", "p"]
    assert futures[3].result().replies == [f"None:{c}" for c in "ghijklmno"]
    assert futures[3].result().generate_ms == 6.0 and futures[3].result().batch_size == 4


def test_a_full_batch_does_not_wait(engine, make):
    batcher = make(max_batch=2, max_delay_ms=5000)
    start = time.monotonic()
    batcher.submit(question(), ["a", "b"]).result(5)
    assert time.monotonic() - start < 2


def test_waits_for_company_up_to_the_delay(engine, make):
    batcher = make(max_batch=2, max_delay_ms=2000)
    batcher.submit(question(), ["once"], "two").result(5)
    first = batcher.submit(question(), ["a"], "one")
    time.sleep(0.05)
    second = batcher.submit(question(), ["b"], "two")
    assert first.result(5).batch_size == second.result(5).batch_size == 2
    start = time.monotonic()
    alone = batcher.submit(question(), ["a"], "one")  # the other one does not come
    assert alone.result(5).batch_size == 1 and time.monotonic() - start >= RECENT_S - 0.2


def test_who_waited_for_a_batch_to_end_goes_with_those_who_were_in_it(engine, make):
    batcher = make(max_batch=2, max_delay_ms=1000)
    engine.gate.clear()
    first = batcher.submit(question(), ["a", "b"], "x")
    assert engine.entered.wait(5)
    late = batcher.submit(question(), ["c"], "y")
    time.sleep(1.1)  # its own patience is over before the batch is
    engine.gate.set()
    first.result(5)
    again = batcher.submit(question(), ["d"], "x")
    assert [late.result(5).batch_size, again.result(5).batch_size] == [2, 2]


def test_nobody_waits_for_those_who_are_here_or_have_not_asked_lately(engine, make, monkeypatch):
    batcher = make(max_batch=8, max_delay_ms=60_000)
    batcher.submit(question(), ["a"], "one").result(5)
    batcher.submit(question(), ["a"], "one").result(5)
    monkeypatch.setattr(batching, "RECENT_S", 0.05)
    time.sleep(0.06)
    blocked = block(engine, batcher)
    futures = [batcher.submit(question(), [client], client) for client in ("one", "two")]
    time.sleep(0.06)  # whoever blocked has not asked lately
    futures += [batcher.submit(question(), [client], client) for client in ("one", "two")]
    engine.gate.set()
    assert [future.result(5).batch_size for future in futures] == [4] * 4 and blocked.result(5)


def test_queue_is_bounded_in_frames(engine, make):
    batcher = make(max_batch=4, max_queue=3, max_delay_ms=0)
    block(engine, batcher)
    first = batcher.submit(question(), ["a", "b"])
    with pytest.raises(QueueFull):
        batcher.submit(question(), ["c", "d"])
    first.cancel()
    batcher.submit(question(), ["c", "d"])  # abandoned frames do not count


def test_clients_take_turns_by_frames(engine, make):
    batcher = make(max_batch=2, max_delay_ms=0)
    block(engine, batcher)
    futures = [batcher.submit(question(), [f"a{i}", f"a{i}"], "greedy") for i in range(4)]
    futures += [batcher.submit(question(), [f"b{i}"], "modest") for i in range(2)]
    futures += [batcher.submit(question(task="other"), ["c0"], "third")]
    engine.gate.set()
    for future in futures:
        future.result(5)
    order = [observations[0] for _, observations in engine.batches[1:]]
    # Turns: a0 0, a1 2, a2 4, a3 6; b0 0, b1 1; c0 0; the blocker ends at 1, so that nobody's turn is before it.
    assert order.index("b0") < order.index("a1") and order.index("c0") < order.index("a1")
    assert [o for o in order if o.startswith("a")] == ["a0", "a1", "a2", "a3"]


def test_a_stream_of_new_clients_does_not_starve_an_old_one(engine, make):
    batcher = make(max_batch=1, max_delay_ms=0, max_queue=1000)
    block(engine, batcher)
    old = [batcher.submit(question(), [f"old{i}"], "old") for i in range(3)]
    new = [batcher.submit(question(), [f"new{i}"], f"new{i}") for i in range(3)]
    engine.gate.set()
    for i in range(3, 40):
        new.append(batcher.submit(question(), [f"new{i}"], f"new{i}"))
        new[i - 3].result(5)
    for future in old + new:
        future.result(5)
    order = [observations[0] for _, observations in engine.batches[1:]]
    assert order.index("old2") < 20
    assert not batcher._ends or len(batcher._ends) < 5  # clients that have gone are forgotten


def test_one_client_cannot_fill_the_queue(engine, make):
    batcher = make(max_batch=4, max_queue=8, max_queue_per_client=6, max_delay_ms=0)
    block(engine, batcher)
    greedy = [batcher.submit(question(), ["g", "g"], "greedy") for _ in range(3)]
    with pytest.raises(QueueFull, match="max_queue_per_client"):
        batcher.submit(question(), ["g"], "greedy")
    batcher.submit(question(), ["m", "m"], "modest")
    third = batcher.submit(question(), ["t"], "third")  # takes the room of the greediest client's newest request
    with pytest.raises(QueueFull, match="shared evenly"):
        greedy[2].result(1)
    with pytest.raises(QueueFull, match="max_queue"):
        batcher.submit(question(), ["x"] * 4, "late")  # nobody holds more than it would
    engine.gate.set()
    assert third.result(5).replies == ["None:t"] and greedy[1].result(5).replies == ["None:g"] * 2


def test_cancelled_requests_are_dropped_before_they_are_computed(engine, make):
    batcher = make(max_batch=4, max_delay_ms=0)
    block(engine, batcher)
    dropped, kept = batcher.submit(question(), ["x"]), batcher.submit(question(), ["y"])
    assert dropped.cancel()
    engine.gate.set()
    assert kept.result(5).replies == ["None:y"]
    assert all("x" not in observations for _, observations in engine.batches)
    with pytest.raises(CancelledError):
        dropped.result(1)


def test_cancelling_stops_a_running_computation(engine, make):
    batcher = make(max_delay_ms=0)
    blocker = block(engine, batcher)
    assert blocker.cancel()
    deadline = time.monotonic() + 5
    while not engine.stopped and time.monotonic() < deadline:
        time.sleep(0.005)
    assert engine.stopped
    engine.gate.set()
    assert batcher.submit(question(), ["a"]).result(5).replies == ["None:a"]


def test_an_error_reaches_only_the_request_that_caused_it(engine, make):
    batcher = make(max_batch=4, max_delay_ms=0)
    block(engine, batcher)
    good, bad, also = (batcher.submit(question(), [o]) for o in ("good", "bad", "also"))
    engine.gate.set()
    assert good.result(5).replies == ["None:good"] and also.result(5).replies == ["None:also"]
    with pytest.raises(RuntimeError, match="bad observation"):
        bad.result(5)


def test_chores_run_on_the_thread_of_the_engine_before_waiting_questions(engine, make):
    batcher = make(max_delay_ms=0)
    block(engine, batcher)
    answered = batcher.submit(question(), ["a"])
    seen = batcher.call(lambda: (threading.get_ident(), len(engine.batches)))
    failing = batcher.call(lambda: 1 / 0)
    engine.gate.set()
    assert seen.result(5) == (next(iter(engine.threads)), 1)
    with pytest.raises(ZeroDivisionError):
        failing.result(5)
    answered.result(5)
    assert len(engine.threads) == 1


def test_close_finishes_the_queue_and_takes_no_more(engine, make):
    batcher = make(max_delay_ms=60_000)
    batcher.submit(question(), ["once"], "two").result(5)
    queued = batcher.submit(question(), ["a"], "one")
    batcher.close(5)
    assert queued.result(0).replies == ["None:a"]
    for late in (lambda: batcher.submit(question(), ["b"]), lambda: batcher.call(print)):
        with pytest.raises(Closed):
            late()
