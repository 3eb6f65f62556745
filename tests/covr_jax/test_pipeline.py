from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from covr_jax.priors import pipeline as pipeline_module
from covr_jax.priors.pipeline import PriorPipeline
from covr_jax.priors.source import PriorUnavailable
from covr_jax.types import Label, Observation


def seen(value: int) -> Observation:
    frame = np.full((2, 2, 3), value % 256, np.uint8)
    return Observation(frame, frame, {})


class Echo:
    """Answers with the pixel's value. ``before`` runs in each call and may sleep, wait or raise."""

    def __init__(self, before=lambda call: None):
        self.before = before
        self.sizes: list[int] = []
        self.active = 0
        self.most_active = 0

    def predict(self, observations):
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self.sizes.append(len(observations))
        try:
            self.before(len(self.sizes))
        finally:
            self.active -= 1
        return [Label(np.float32([o.frame[0, 0, 0] / 255]), "ok", "", "echo", "") for o in observations]

    def close(self):
        pass


@pytest.fixture
def make():
    made = []

    def build(source, lag=3, group=2, **kwargs):
        made.append(PriorPipeline(source, lag, group, **kwargs))
        return made[-1]

    yield build
    for pipeline in made:
        pipeline.close()


@pytest.fixture
def fast_probes(monkeypatch):
    monkeypatch.setattr(pipeline_module, "FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(pipeline_module, "LAST_BACKOFF_S", 0.05)


def down(call):
    raise PriorUnavailable("prior at 10.0.0.1:1 is down; start it")


def wait_until(condition, timeout_s=5.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def tickets(answers):
    return [ticket for ticket, _ in answers]


def test_a_group_is_returned_lag_decisions_after_it_was_closed(make):
    pipeline = make(Echo(), lag=3, group=2)
    returned = {}
    for decision in range(10):
        returned[decision] = tickets(pipeline.due(decision))
        if decision < 5:
            pipeline.ask(decision, seen(decision))
    # groups {0,1} closed at 1, {2,3} closed at 3; 4 is still open
    assert returned == {4: [0, 1], 6: [2, 3]} | {d: [] for d in (0, 1, 2, 3, 5, 7, 8, 9)}
    assert tickets(pipeline.drain()) == [4]
    assert pipeline.stats.asked == 5 and pipeline.stats.calls == 3 and pipeline.stats.answered == {"ok": 5}


def test_flush_closes_a_short_group_at_the_current_decision(make):
    source = Echo()
    pipeline = make(source, lag=2, group=8)
    pipeline.due(5)
    pipeline.ask(50, seen(50))
    pipeline.flush()
    pipeline.flush()  # nothing is open
    assert pipeline.due(6) == []
    assert tickets(pipeline.due(7)) == [50]
    assert source.sizes == [1]


def test_labels_belong_to_their_tickets_and_frames_are_kept_as_they_were(make):
    pipeline = make(Echo(), lag=1, group=4)
    frame = np.zeros((2, 2, 3), np.uint8)
    for value in (51, 102, 204, 255):
        frame[:] = value  # an environment that reuses its buffer
        pipeline.ask(value, Observation(frame, frame, {}))
    answers = pipeline.due(1)
    values = [round(float(label.action[0]) * 255) for _, label in answers]
    assert values == tickets(answers) == [51, 102, 204, 255]


def test_what_is_returned_when_does_not_depend_on_timing(make):
    def trace(source, pauses):
        pipeline, rng = make(source, lag=4, group=3), np.random.default_rng(7)
        returned = []
        for decision in range(60):
            time.sleep(pauses())
            returned.append([(t, float(label.action[0])) for t, label in pipeline.due(decision)])
            if rng.random() < 0.6:
                pipeline.ask(decision, seen(decision))
            if decision % 17 == 16:
                pipeline.flush()
        returned.append([(t, float(label.action[0])) for t, label in pipeline.drain()])
        assert source.most_active == 1  # one group in flight at a time
        return returned

    slow, jitter = np.random.default_rng(1), np.random.default_rng(2)
    expected = trace(Echo(), lambda: 0)
    assert trace(Echo(lambda call: time.sleep(slow.uniform(0, 0.02))), lambda: 0) == expected
    assert trace(Echo(), lambda: jitter.uniform(0, 0.004)) == expected
    assert sum(map(len, expected)) > 20


def test_due_blocks_only_for_late_answers(make):
    gate = threading.Event()
    pipeline = make(Echo(lambda call: gate.wait(5)), lag=2, group=1)
    pipeline.ask(0, seen(0))
    start = time.monotonic()
    assert pipeline.due(1) == []
    assert time.monotonic() - start < 0.2
    threading.Timer(0.15, gate.set).start()
    assert tickets(pipeline.due(2)) == [0]
    assert 0.1 < pipeline.stats.waited_s < 2


def test_drained_answers_are_not_returned_again(make):
    pipeline = make(Echo(), lag=1, group=1)
    pipeline.ask(1, seen(1))
    assert tickets(pipeline.drain()) == [1]
    assert pipeline.due(9) == [] and pipeline.drain() == []


def test_without_a_prior_labels_are_unavailable_and_only_one_call_is_made(make):
    source = Echo(down)
    pipeline = make(source, lag=0, group=1)
    for decision in range(20):
        pipeline.due(decision)
        pipeline.ask(decision, seen(decision))
        ((ticket, label),) = pipeline.due(decision)
        assert ticket == decision and label.status == "unavailable" and label.action is None
    assert source.sizes == [1]  # the first probe comes a second later
    assert not pipeline.available
    assert pipeline.stats.answered == {"unavailable": 20} and pipeline.stats.openings == 1


def test_groups_queued_behind_the_one_that_failed_are_given_up_with_it(make):
    gate = threading.Event()

    def fail_late(call):
        gate.wait(5)
        down(call)

    source = Echo(fail_late)
    pipeline = make(source, lag=5, group=1)
    for ticket in range(4):
        pipeline.ask(ticket, seen(ticket))
    gate.set()
    assert [label.status for _, label in pipeline.drain()] == ["unavailable"] * 4
    assert source.sizes == [1]


def test_a_hanging_probe_stalls_nobody(make, fast_probes):
    """One deadline (0.2 s here) for the group that opened the breaker, none for the probes after it."""

    def hang(call):
        time.sleep(0.2)
        down(call)

    source = Echo(hang)
    pipeline = make(source, lag=0, group=1)
    start = time.monotonic()
    for decision in range(100):
        pipeline.due(decision)
        pipeline.ask(decision, seen(decision))
        pipeline.due(decision)
        time.sleep(0.01)
    assert len(source.sizes) > 2  # probes were made
    assert pipeline.stats.waited_s < 0.35 < time.monotonic() - start


def test_a_probe_that_is_answered_closes_the_breaker(make, fast_probes):
    source = Echo(lambda call: down(call) if call <= 3 else None)
    pipeline = make(source, lag=0, group=2)
    pipeline.ask(0, seen(0))
    pipeline.ask(1, seen(1))
    assert [label.status for _, label in pipeline.due(0)] == ["unavailable"] * 2
    wait_until(lambda: pipeline.available)
    assert source.sizes == [2, 1, 1, 1]  # probes ask one observation
    pipeline.ask(2, seen(2))
    pipeline.ask(3, seen(3))
    assert [(t, label.status) for t, label in pipeline.due(1)] == [(2, "ok"), (3, "ok")]
    assert pipeline.stats.answered == {"unavailable": 2, "ok": 2} and pipeline.stats.calls == 5


def test_the_backoff_doubles_up_to_its_bound(make, monkeypatch):
    monkeypatch.setattr(pipeline_module, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(pipeline_module, "LAST_BACKOFF_S", 0.2)
    times = []

    def note(call):
        times.append(time.monotonic())
        down(call)

    pipeline = make(Echo(note), lag=0, group=1)
    pipeline.ask(0, seen(0))
    wait_until(lambda: len(times) == 6)
    for gap, wanted in zip(np.diff(times), (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert wanted <= gap < wanted + 0.1


def test_a_required_prior_that_fails_ends_the_run(make):
    pipeline = make(Echo(down), lag=2, group=1, required=True)
    pipeline.ask(0, seen(0))
    assert pipeline.due(1) == []  # never before its decision, even if the failure is known
    with pytest.raises(PriorUnavailable, match=r"10\.0\.0\.1:1"):
        pipeline.due(2)
    with pytest.raises(PriorUnavailable):
        pipeline.drain()


def test_a_bug_in_a_source_is_not_taken_for_an_absent_prior(make):
    def bug(call):
        raise KeyError("slider_position")

    pipeline = make(Echo(bug), lag=0, group=1)
    pipeline.ask(0, seen(0))
    with pytest.raises(KeyError, match="slider_position"):
        pipeline.due(0)


def test_a_source_that_drops_an_answer_is_found_out(make):
    class Short(Echo):
        def predict(self, observations):
            return super().predict(observations)[1:]

    pipeline = make(Short(), lag=0, group=2)
    pipeline.ask(0, seen(0))
    pipeline.ask(1, seen(1))
    with pytest.raises(RuntimeError, match="1 labels for 2"):
        pipeline.due(0)


def test_close_ends_the_thread(make):
    before = threading.active_count()
    pipeline = make(Echo(down), lag=0, group=1)
    pipeline.ask(0, seen(0))
    pipeline.due(0)
    pipeline.close()  # while it waits for its next probe
    assert threading.active_count() == before


@pytest.mark.parametrize(("lag", "group", "name"), [(-1, 1, "lag"), (0, 0, "group")])
def test_bad_settings_are_refused(lag, group, name):
    with pytest.raises(ValueError, match=name):
        PriorPipeline(Echo(), lag, group)
