"""The queue of tuning jobs: order, states, watchers, and who cleans up."""

from __future__ import annotations

import threading

import pytest

from vlm_server import jobs
from vlm_server.jobs import Closed, JobFailed, Jobs, QueueFull


@pytest.fixture
def queue():
    made = Jobs(max_queued=2)
    yield made
    made.close(5)


class Work:
    """A piece of work that waits for ``gate``, and counts how often it was cleaned up."""

    def __init__(self, result=None, error=None):
        self.result, self.error, self.cleaned = result, error, 0
        self.gate, self.entered = threading.Event(), threading.Event()

    def __call__(self, job):
        self.entered.set()
        while not self.gate.wait(0.005):
            if job.stopping():
                raise JobFailed("cancelled")
        job.report(1, 2, 0.5)
        if self.error:
            raise self.error
        return self.result

    def clean(self):
        self.cleaned += 1

    def start(self, queue, request_id="", run="run"):
        return queue.start(run, request_id, self, self.clean)


def states(queue, job):
    return [progress.state for progress in queue.watch(job, lambda: True)]


def test_jobs_run_one_at_a_time_in_order(queue):
    first, second = Work("a"), Work("b")
    one, two = first.start(queue), second.start(queue)
    assert first.entered.wait(5) and not second.entered.wait(0.05)
    assert two.progress.state == jobs.QUEUED
    first.gate.set()
    second.gate.set()
    assert states(queue, two)[-1] == jobs.DONE
    assert (one.progress.result, two.progress.result) == ("a", "b")
    assert one.progress.step == 1 and one.progress.steps == 2 and one.progress.loss == 0.5
    assert (first.cleaned, second.cleaned) == (1, 1) and one.work is None


def test_failures_are_told_in_words_or_by_id(queue, caplog):
    told, hidden = Work(error=JobFailed("no positive weight")), Work(error=KeyError("/secret"))
    for work in (told, hidden):
        work.gate.set()
    told_job, hidden_job = told.start(queue), hidden.start(queue)
    assert states(queue, hidden_job)[-1] == states(queue, told_job)[-1] == jobs.FAILED
    assert told_job.progress.error == "no positive weight"
    assert "secret" not in hidden_job.progress.error and "/secret" in caplog.text
    assert (told.cleaned, hidden.cleaned) == (1, 1)


def test_queue_is_bounded_and_refused_work_is_cleaned_up(queue):
    running = Work()
    running.start(queue)
    assert running.entered.wait(5)
    for _ in range(2):
        Work().start(queue)
    refused = Work()
    with pytest.raises(QueueFull):
        refused.start(queue)
    assert refused.cleaned == 1


def test_the_same_request_of_a_run_gives_the_same_job(queue):
    first, again = Work(), Work()
    one = first.start(queue, "id")
    assert again.start(queue, "id") is one and again.cleaned == 1 and first.cleaned == 0
    assert queue.find("run", "id") is one and queue.find("other", "id") is None
    assert Work().start(queue, "id", run="other") is not one


def test_waiting_and_running_jobs_can_be_cancelled_and_ended_ones_stay(queue):
    running, waiting = Work(), Work()
    one, two = running.start(queue), waiting.start(queue)
    assert running.entered.wait(5)
    assert queue.cancel(two).state == jobs.CANCELLED and waiting.cleaned == 1
    queue.cancel(one)
    assert states(queue, one)[-1] == jobs.CANCELLED and running.cleaned == 1
    done = Work()
    done.gate.set()
    three = done.start(queue)
    assert states(queue, three)[-1] == jobs.DONE
    assert queue.cancel(three).state == jobs.DONE


def test_a_watcher_that_has_gone_stops_watching(queue):
    work = Work()
    job = work.start(queue)
    asked = iter([True, True, False])
    seen = list(queue.watch(job, lambda: next(asked), poll_s=0.01))
    assert seen and seen[-1].state in (jobs.QUEUED, jobs.RUNNING)


def test_close_puts_off_what_is_open():
    ended = []
    queue = Jobs(2, lambda job, state: ended.append((job, state)))
    running, waiting, refused = Work(), Work(), Work()
    one, two = running.start(queue), waiting.start(queue)
    assert running.entered.wait(5)
    queue.close(5)
    assert (one.progress.state, two.progress.state, ended) == (jobs.RUNNING, jobs.QUEUED, [])
    assert (running.cleaned, waiting.cleaned) == (1, 1)
    for job in (one, two):
        with pytest.raises(Closed):
            states(queue, job)
    with pytest.raises(Closed):
        refused.start(queue)
    assert refused.cleaned == 1


def test_a_job_that_goes_on_keeps_its_id_and_is_beyond_the_limit(queue):
    running = Work()
    running.start(queue)
    assert running.entered.wait(5)
    for name in ("one", "two", "three"):
        work = Work()
        job = queue.start("run", name, work, work.clean, job_id=f"job-{name}", beyond_the_limit=True)
        assert job.id == f"job-{name}" and queue.find("run", name) is job
    with pytest.raises(QueueFull):
        Work().start(queue)


def test_old_ended_jobs_are_forgotten(queue, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_ENDED", 3)
    started = []
    for i in range(8):
        work = Work(i)
        work.gate.set()
        started.append(work.start(queue, f"id{i}"))
        assert states(queue, started[-1])[-1] == jobs.DONE
    kept = [i for i, job in enumerate(started) if queue.get(job.id) is job]
    assert kept == [4, 5, 6, 7] and queue.find("run", "id0") is None
