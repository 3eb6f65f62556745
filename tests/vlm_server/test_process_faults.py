"""Faults of a whole server process; after each, a canary question is answered as before."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from covr.prior.channel import connect
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TASK = "dmc/cartpole/swingup"
PIXELS = np.random.default_rng(0).bytes(84 * 84 * 3)
SEEN = pb.Observation(frame=pb.Frame(height=84, width=84, channels=3, data=PIXELS))
SMALL = pb.Observation(frame=pb.Frame(height=8, width=8, channels=3, data=PIXELS[:192]))
CONFIG = pb.TuningConfig(rank=4, alpha=8, max_steps=3, batch_size=4, learning_rate=1e-2, holdout=0.0)


class Life:
    """One server process after another, with the same adapters and at the same port."""

    def __init__(self, folder: Path, *flags: str):
        self.folder, self.flags, self.address = folder, flags, "127.0.0.1:0"
        self.start()
        self.channel = connect(self.address)
        self.prior = pb_grpc.PriorServiceStub(self.channel)
        self.tuning = pb_grpc.TuningServiceStub(self.channel)

    def start(self):
        command = [sys.executable, "-m", "vlm_server", f"--address={self.address}", f"--adapters={self.folder}"]
        command += self.flags
        self.process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address

    def ask(self, timeout=60.0):
        request = pb.PredictRequest(task=TASK, run="run", observations=[SEEN])
        reply = self.prior.Predict(request, timeout=timeout, wait_for_ready=True)
        return reply.adapter, reply.predictions[0].text, reply.predictions[0].status

    def order(self, request_id, seen=SEEN, **settings):
        samples = [pb.Sample(observation=seen, action=[0.5], return_to_go=1.0)] * 8
        upload = [
            pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run="run")),
            pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=samples)),
        ]
        dataset = self.tuning.UploadSamples(iter(upload), timeout=60).dataset
        config = pb.TuningConfig(**settings)
        config.MergeFrom(CONFIG)
        config.max_steps = settings.get("max_steps", CONFIG.max_steps)
        request = pb.StartTuningRequest(
            run="run", dataset=dataset, config=config, activate=True, request_id=request_id, parent="base"
        )
        return self.tuning.StartTuning(request, timeout=60).job

    def watch(self, job):
        return self.tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=200, wait_for_ready=True)

    def tune(self, request_id, seen=SEEN):
        return list(self.watch(self.order(request_id, seen)))[-1]

    def restart(self):
        self.process.wait(60)
        self.process.stdout.close()
        self.start()

    def end(self):
        self.channel.close()
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def life(tmp_path):
    made = Life(tmp_path / "adapters")
    yield made
    made.end()


def test_sigkill_in_the_middle_of_a_question(life):
    assert life.tune("first").state == pb.JOB_STATE_DONE
    before = life.ask()
    assert before[0].version == "v1"
    request = pb.PredictRequest(task=TASK, run="run", observations=[SEEN] * 64)
    running = life.prior.Predict.future(request, timeout=60)
    life.process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        running.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    life.restart()
    assert life.ask() == before
    again = life.tune("first")  # made already
    assert again.result.adapter == before[0] and life.ask() == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_go_on_after_their_server_was_gone(life, number):
    """One that ran and one that waited: both end as they would have, to the byte."""
    before = life.ask()
    steps = dict(max_steps=60, epochs=100)
    running, waiting = life.order("first", **steps), life.order("second", SMALL)
    watching = life.watch(running)
    assert next(update for update in watching if update.step >= 2).state == pb.JOB_STATE_RUNNING
    life.process.send_signal(number)
    with pytest.raises(grpc.RpcError) as caught:
        list(watching)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    life.restart()
    assert life.ask()[1:] == before[1:]
    assert life.order("first", **steps) == running  # submitted again while it goes on by itself
    first, second = (list(life.watch(job))[-1] for job in (running, waiting))
    assert (first.state, second.state) == (pb.JOB_STATE_DONE, pb.JOB_STATE_DONE)
    assert [each.result.adapter.version for each in (first, second)] == ["v1", "v2"]
    assert life.ask()[0] == second.result.adapter
    undisturbed = list(life.watch(life.order("third", **steps)))[-1]
    assert undisturbed.result.adapter.digest == first.result.adapter.digest
    assert undisturbed.result.adapter.version == "v3"


def test_a_stopped_server_costs_the_deadline_and_goes_on(life):
    before = life.ask()
    assert before[0].version == "base" and before[2] == pb.REPLY_STATUS_OK
    life.process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        life.ask(timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - started < 10
    life.process.send_signal(signal.SIGCONT)
    assert life.ask() == before


def test_a_disk_that_fills_while_an_adapter_is_saved_fails_the_job_alone(life):
    assert life.tune("first").state == pb.JOB_STATE_DONE
    before = life.ask()
    unlimited = resource.RLIM_INFINITY
    resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (8000, unlimited))  # between samples and weights
    failed = life.tune("second", SMALL)
    assert failed.state == pb.JOB_STATE_FAILED and "disk is full" in failed.error
    assert life.ask() == before
    with pytest.raises(grpc.RpcError) as caught:  # nor is there room for these samples
        life.order("larger")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "disk is full" in caught.value.details()
    assert sorted(path.name for path in (life.folder / "run").iterdir()) == ["run.json", "v1"]
    assert list((life.folder / ".jobs").iterdir()) == []
    resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert life.tune("third").result.adapter.version == "v2" and life.ask()[0].version == "v2"
