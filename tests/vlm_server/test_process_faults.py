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

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
ENV = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TASK = "dmc/cartpole/swingup"
PIXELS = np.random.default_rng(0).bytes(84 * 84 * 3)
SEEN = pb.Observation(frame=pb.Frame(height=84, width=84, channels=3, data=PIXELS))
CONFIG = pb.TuningConfig(rank=4, alpha=8, max_steps=3, batch_size=4, learning_rate=1e-2, holdout=0.0)


class Life:
    """One server process after another, with the same adapters and at the same port."""

    def __init__(self, folder: Path):
        self.folder, self.address = folder, "127.0.0.1:0"
        self.start()
        self.channel = connect(self.address)
        self.prior = pb_grpc.PriorServiceStub(self.channel)
        self.tuning = pb_grpc.TuningServiceStub(self.channel)

    def start(self):
        command = [sys.executable, "-m", "vlm_server", f"--address={self.address}", f"--adapters={self.folder}"]
        self.process = subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().strip()
        assert self.address

    def ask(self, timeout=60.0):
        request = pb.PredictRequest(task=TASK, run="run", observations=[SEEN])
        reply = self.prior.Predict(request, timeout=timeout, wait_for_ready=True)
        return reply.adapter, reply.predictions[0].text, reply.predictions[0].status

    def tune(self, request_id):
        samples = [pb.Sample(observation=SEEN, action=[0.5], return_to_go=1.0)] * 8
        upload = [
            pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run="run")),
            pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=samples)),
        ]
        dataset = self.tuning.UploadSamples(iter(upload), timeout=60).dataset
        request = pb.StartTuningRequest(
            run="run", dataset=dataset, config=CONFIG, activate=True, request_id=request_id, parent="base"
        )
        job = self.tuning.StartTuning(request, timeout=60).job
        return list(self.tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=200))[-1]

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


def test_sigkill_in_the_middle_of_questions_and_of_a_job(life):
    assert life.tune("first").state == pb.JOB_STATE_DONE
    before = life.ask()
    assert before[0].version == "v1"
    request = pb.PredictRequest(task=TASK, run="run", observations=[SEEN] * 64)
    running = life.prior.Predict.future(request, timeout=60)
    life.process.send_signal(signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        running.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    life.process.wait(30)
    life.process.stdout.close()
    life.start()
    assert life.ask() == before
    again = life.tune("first")  # made already
    assert again.result.adapter == before[0] and life.ask() == before


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
    resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (2000, unlimited))  # smaller than the weights
    failed = life.tune("second")
    assert failed.state == pb.JOB_STATE_FAILED and "disk is full" in failed.error
    assert life.ask() == before
    assert sorted(path.name for path in (life.folder / "run").iterdir()) == ["run.json", "v1"]
    resource.prlimit(life.process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert life.tune("third").result.adapter.version == "v2" and life.ask()[0].version == "v2"
