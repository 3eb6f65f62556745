"""The life of tuning jobs against a model in memory: whatever the order of calls, orderly ends and crashes."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.numpy import load_file

from tests.vlm_server.tuning_house import House, Training
from vlm_server import jobs, lora, tuning
from vlm_server.tuner import MAX_ATTEMPTS

RUNS = st.sampled_from(["one", "two"])
MAX_QUEUED = 2


@dataclass
class Known:
    """What the model knows of one job."""

    ident: str
    run: str
    request_id: str
    value: float
    state: str = jobs.QUEUED
    again: bool = False  # cancelled by somebody: the same request makes a new job
    crashes: int = 0  # of its servers while it ran
    version: str = ""


class JobLife(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder, self.lives = Path(tempfile.mkdtemp()), 0
        self.train = tuning.train
        self.house = House(self.folder / "0", Training(), MAX_QUEUED)
        self.jobs: list[Known] = []  # of this life, oldest first
        self.begun = ""  # the job that stands in its training
        self.made: dict[str, list[tuple[str, float]]] = {"one": [], "two": []}  # versions: request id, value
        self.active = {"one": "base", "two": "base"}

    def teardown(self):
        if hasattr(self, "house"):
            self.house.close()
            tuning.train = self.train
            shutil.rmtree(self.folder)

    @property
    def open(self) -> list[Known]:
        return [job for job in self.jobs if job.state not in jobs.ENDED]

    @rule(run=RUNS, request_id=st.sampled_from(["", "a", "b"]), value=st.sampled_from([0.25, 0.5, 0.75]))
    def submit(self, run, request_id, value):
        ident = f"job{self.lives}-{len(self.jobs)}"
        same = [j for j in self.jobs if request_id and (j.run, j.request_id) == (run, request_id)]
        known = same[-1] if same and not same[-1].again else None
        full = len(self.open) > MAX_QUEUED
        try:
            job = self.house.submit(run, ident, value, request_id)
        except jobs.QueueFull:
            assert full and known is None
            return
        if known is not None:
            assert job.id == known.ident
            return
        assert not full
        assert job.id == ident
        self.jobs.append(Known(ident, run, request_id or ident, value))
        self._settle()

    @precondition(lambda self: self.open)
    @rule()
    def finish(self):
        self.house.training.endings.put("end")
        self._done(self.open[0])
        self._settle()

    @precondition(lambda self: self.open)
    @rule()
    def fail(self):
        self.house.training.endings.put("fail")
        self.open[0].state = jobs.FAILED
        self._settle()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data):
        job = data.draw(st.sampled_from(self.jobs))
        self.house.tuner.cancel(self.house.tuner.jobs.get(job.ident))
        job.again = True
        if job.state not in jobs.ENDED:
            job.state = jobs.CANCELLED
        self._settle()

    @rule(run=RUNS)
    def activate_base(self, run):
        self.house.store.activate(run, "base")
        self.active[run] = "base"

    @rule()
    def restart(self):
        self.house.close()
        self._next_life(self.house.root)

    @rule()
    def crash(self):
        self._next_life(self._copied())

    @precondition(lambda self: len(self.open) == 1)
    @rule()
    def crash_after_the_version_was_made(self):
        job = self.open[0]
        self.house.book.remove = lambda ident: None
        self.house.training.endings.put("end")
        self.house.states(self.house.tuner.jobs.get(job.ident))
        self._done(job)
        job.state = jobs.RUNNING  # for all that the disk tells
        self._next_life(self._copied())

    @invariant()
    def the_tuner_knows_what_the_model_knows(self):
        if not hasattr(self, "house"):
            return
        self._wait(lambda: all(self._real(job).state == job.state for job in self.jobs))
        for job in self.jobs:
            if job.state == jobs.DONE:
                assert self._real(job).result.version == job.version
        for run, versions in self.made.items():
            records = self.house.store.list(run)
            assert [record.manifest["request_id"] for record in records] == [ident for ident, _ in versions]
            found = [load_file(record.folder / lora.WEIGHTS)["a"][0] for record in records]
            assert found == [value for _, value in versions]
            assert self.house.store.active(run) == self.active[run]
        orders = self.house.book.open()
        assert [order.job for order in orders] == [job.ident for job in self.open]
        files = {path.name for path in (self.house.root / ".jobs").glob("*.safetensors")}
        assert files == {f"{order.samples}.safetensors" for order in orders}

    def _done(self, job: Known) -> None:
        """The version of a job: the newest one that its request had made before, or a new one."""
        idents = [ident for ident, _ in self.made[job.run]]
        if job.request_id not in idents:
            self.made[job.run].append((job.request_id, job.value))
            idents.append(job.request_id)
        job.state, job.version = jobs.DONE, f"v{len(idents) - idents[::-1].index(job.request_id)}"
        self.active[job.run] = job.version

    def _settle(self) -> None:
        """Ends what ends by itself, and waits until the first open job stands in its training."""
        while self.open:
            job = self.open[0]
            if any(ident == job.request_id for ident, _ in self.made[job.run]):
                self._done(job)
            elif job.crashes >= MAX_ATTEMPTS:
                job.state = jobs.FAILED
            else:
                job.state = jobs.RUNNING
                if job.ident != self.begun:
                    assert self.house.training.entered.acquire(timeout=10)
                    self.begun = job.ident
                return

    def _copied(self) -> Path:
        root = self.folder / f"copy{self.lives}"
        shutil.copytree(self.house.root, root)
        self.house.close()
        for job in self.open[:1]:
            job.crashes += job.state == jobs.RUNNING
        return root

    def _next_life(self, root: Path) -> None:
        self.lives += 1
        self.jobs, self.begun = self.open, ""
        for job in self.jobs:
            job.state, job.again = jobs.QUEUED, False
        self.house = House(root, Training(), MAX_QUEUED)
        self._settle()

    def _real(self, job: Known) -> jobs.Progress:
        return self.house.tuner.jobs.get(job.ident).progress

    @staticmethod
    def _wait(condition) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.001)


JobLife.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
TestJobLife = JobLife.TestCase
