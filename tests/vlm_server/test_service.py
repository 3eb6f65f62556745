"""The services over a real channel: the tiny model where answers matter, a fake engine where timing does."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
import time
import urllib.request
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from safetensors.torch import load_file, save_file

from vlm_server import lora, models, prefixes, server, tasks, tuning
from vlm_server.engine import Engine, Reply
from vlm_server.limits import Limits
from vlm_server.lora import AdapterInvalid

TASK = "dmc/cartpole/swingup"
SMALL = Limits(
    max_message_bytes=4 * 2**20,
    max_frames_per_request=8,
    max_queue=8,
    max_side=128,
    max_tuning_samples=40,
    max_adapters_per_run=3,
    max_uploaded_bytes=60 * 84 * 84 * 3,
    max_pixels_per_request=8 * 84 * 84,
    max_tuning_rank=64,
    max_tuning_steps=10_000,
)
CONFIG = pb.TuningConfig(rank=4, alpha=8, max_steps=3, batch_size=4, learning_rate=1e-2, holdout=0.25)


class Client:
    """Stubs of one server."""

    def __init__(self, address):
        self.address = address
        self.channel = grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)])
        self.prior = pb_grpc.PriorServiceStub(self.channel)
        self.tuning = pb_grpc.TuningServiceStub(self.channel)
        self.adapters = pb_grpc.AdapterServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def ask(self, count=1, timeout=30, **fields):
        seen = [observation(i) for i in range(count)]
        request = pb.PredictRequest(**{"task": TASK, "observations": seen} | fields)
        return self.prior.Predict(request, timeout=timeout)

    def upload(self, count=12, run="run", returns=None, task=TASK):
        returns = returns or [1.0] * count
        samples = [
            pb.Sample(observation=observation(i), action=[0.5], return_to_go=g) for i, g in enumerate(returns)
        ]
        parts = [samples[i : i + 5] for i in range(0, count, 5)]
        messages = [pb.UploadSamplesRequest(header=pb.UploadHeader(task=task, run=run))]
        messages += [pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=part)) for part in parts]
        return self.tuning.UploadSamples(iter(messages), timeout=30)

    def tune(self, run="run", activate=False, parent="base", **fields):
        dataset = self.upload(run=run).dataset
        request = pb.StartTuningRequest(
            run=run, dataset=dataset, parent=parent, config=CONFIG, activate=activate, **fields
        )
        return self.watch(self.tuning.StartTuning(request, timeout=30).job)[-1]

    def watch(self, job):
        return list(self.tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=120))

    def status(self):
        return self.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status

    def canary(self):
        assert self.ask().predictions[0].status == pb.REPLY_STATUS_OK


def frame(seed=0, height=84, width=84, channels=3, data=None):
    if data is None:
        data = np.random.default_rng(seed).bytes(height * width * channels)
    return pb.Frame(height=height, width=width, channels=channels, data=data)


def observation(seed=0, state=None, **fields):
    return pb.Observation(frame=frame(seed, **fields), state=state or {})


@pytest.fixture(scope="module")
def vlm():
    torch.set_num_threads(1)
    return models.load("tiny", "cpu")


@pytest.fixture(scope="module")
def start(vlm):
    """Starts servers in this process; all are stopped at the end of the module."""
    running = []

    def run(folder, limits=SMALL, **settings):
        made = server.Server(vlm, folder, limits, **settings)
        client = Client(made.start("127.0.0.1:0"))
        running.append((made, client))
        return made, client

    yield run
    for made, client in running:
        client.channel.close()
        made.stop(0)


@pytest.fixture(scope="module")
def client(start, tmp_path_factory):
    return start(tmp_path_factory.mktemp("adapters"))[1]


def test_kept_prefixes_are_checked_at_the_start_used_and_counted(vlm, client, tmp_path, monkeypatch):
    monkeypatch.setattr(prefixes, "SHORTEST", 8)  # the tiny VLM's text has 15 tokens before the picture
    made = server.Server(vlm, tmp_path / "adapters", SMALL, keep_prefixes=True)
    keeping = Client(made.start("127.0.0.1:0"))
    answers = [[p.text for p in each.ask(3).predictions] for each in (client, keeping, keeping)]
    keeping.channel.close()
    assert answers[0] == answers[1] == answers[2]
    checked = 1 + 2 + 2 - 1 + 2  # the start's three questions, less the first one, and the two of its warm-up
    assert made.metrics.registry.get_sample_value("covr_prior_prefixes_reused") == checked + 3 + 3
    made.stop(0)

    def differs(self):
        raise ValueError("prefix_cache: this model answers otherwise")

    monkeypatch.setattr(Engine, "check_prefixes", differs)
    other = server.Server(vlm, tmp_path / "others", SMALL, keep_prefixes=True)
    with pytest.raises(ValueError, match="answers otherwise"):
        other.start("127.0.0.1:0")
    other.stop(0)


class FakeEngine:
    """Answers every question with ``text``, once ``gate`` is open; counts frames that it computed."""

    prefixes_reused = 0

    def check_prefixes(self): ...

    def __init__(self, vlm):
        self.text, self.frames = "slide: 0.25", 0
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def predict(self, task, observations, adapter, constrained, max_new_tokens, should_stop):
        self.entered.set()
        while not self.gate.wait(0.005) and not should_stop():
            pass
        if self.text == "raise":
            raise RuntimeError("/secret/path of the model")
        self.frames += len(observations)
        return [Reply(self.text, 3)] * len(observations), SimpleNamespace(encode_ms=1.0, generate_ms=2.0)


@pytest.fixture
def fake(start, tmp_path, monkeypatch):
    """(client, engine) of a server whose engine is the fake one."""
    engines = []

    def make(vlm, keep_prefixes):
        engines.append(FakeEngine(vlm))
        return engines[-1]

    monkeypatch.setattr(server, "Engine", make)
    client = start(tmp_path, max_batch=1, max_delay_ms=0)[1]
    yield client, engines[0]
    engines[0].gate.set()


def refused(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    details = caught.value.details()
    assert "\n" not in details and len(details) < 600
    return caught.value.code().name, details


def test_info_publishes_limits_and_tasks(client, vlm):
    info = client.prior.GetServerInfo(pb.GetServerInfoRequest(), timeout=5)
    assert info.protocol_version.split(".")[0] == "1"
    assert (info.model, info.model_type, info.parameters) == ("tiny", "qwen2_5_vl", vlm.parameters)
    assert len(info.model_digest) == 64
    assert {field.name: getattr(info.limits, field.name) for field in info.limits.DESCRIPTOR.fields} == vars(SMALL)
    assert [t.name for t in info.tasks] == list(tasks.TASKS)
    drive = next(t for t in info.tasks if t.name == "carla/highway")
    assert [a.name for a in drive.actions] == ["steer", "throttle"] and list(drive.state) == ["speed", "yaw"]


def test_a_client_of_another_major_version_is_refused_in_one_line(client):
    def ask(version):
        return client.prior.GetServerInfo(pb.GetServerInfoRequest(protocol_version=version), timeout=5)

    assert ask("1.0").protocol_version == ask("1.99").protocol_version == ask("").protocol_version
    for version in ("2.0", "11.0", "0.1", "x" * 9999):
        code, details = refused(lambda version=version: ask(version))
        assert code == "FAILED_PRECONDITION" and "speaks 1." in details and version[:20] in details


def test_answers_come_in_order_and_do_not_depend_on_company(client, vlm):
    reply = client.ask(5)
    alone = [client.ask(observations=[observation(i)]) for i in range(5)]
    assert [p.text for p in reply.predictions] == [r.predictions[0].text for r in alone]
    assert reply.adapter.version == "base" and reply.adapter.digest == vlm.digest
    assert reply.timings.batch_size == 5 and reply.timings.generate_ms > 0
    for prediction in reply.predictions:
        action, status = tasks.get(TASK).parse(prediction.text)
        assert status == "ok" and prediction.action == pytest.approx(action) and prediction.new_tokens > 0
        assert prediction.prompt == tasks.get(TASK).prompt(style="short")


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_every_task_can_be_asked(client, name):
    reply = client.ask(task=name, decoding=pb.Decoding(constraint=pb.Decoding.CONSTRAINT_TEMPLATE))
    assert reply.predictions[0].status == pb.REPLY_STATUS_OK
    assert len(reply.predictions[0].action) == len(tasks.get(name).actions)


WRONG = {
    "unknown task": (dict(task="dmc/cartpole/swing"), "NOT_FOUND", "did you mean"),
    "long task": (dict(task="x" * 100_000), "NOT_FOUND", "unknown task"),
    "path as run": (dict(run="../../etc"), "INVALID_ARGUMENT", "run:"),
    "upper case run": (dict(run="Run"), "INVALID_ARGUMENT", "run:"),
    "newline after run": (dict(run="run\n"), "INVALID_ARGUMENT", "run:"),
    "long run": (dict(run="r" * 65), "INVALID_ARGUMENT", "run:"),
    "path as adapter": (dict(run="run", adapter="../v1"), "INVALID_ARGUMENT", "adapter:"),
    "adapter of no run": (dict(adapter="v1"), "INVALID_ARGUMENT", "needs a run"),
    "unknown adapter": (dict(run="run", adapter="v99"), "NOT_FOUND", "v99"),
    "no frames": (dict(observations=[]), "INVALID_ARGUMENT", "1 to 8"),
    "many frames": (dict(observations=[observation()] * 9), "INVALID_ARGUMENT", "1 to 8"),
    "empty observation": (dict(observations=[pb.Observation()]), "INVALID_ARGUMENT", "channels"),
    "1x1": (dict(observations=[observation(height=1, width=1)]), "INVALID_ARGUMENT", "height"),
    "wide": (dict(observations=[observation(width=129)]), "INVALID_ARGUMENT", "width"),
    "grey": (dict(observations=[observation(channels=1)]), "INVALID_ARGUMENT", "channels"),
    "short data": (dict(observations=[observation(data=b"0" * 21167)]), "INVALID_ARGUMENT", "21168 bytes"),
    "long data": (dict(observations=[observation(data=b"0" * 21169)]), "INVALID_ARGUMENT", "21168 bytes"),
    "overflow": (
        dict(observations=[observation(height=2**32 - 1, width=2**32 - 1, data=b"")]),
        "INVALID_ARGUMENT",
        "height",
    ),
    "mixed sizes": (
        dict(observations=[observation(), observation(height=64)]),
        "INVALID_ARGUMENT",
        "observations[1]",
    ),
    "unknown state": (dict(observations=[observation(state={"x" * 9999: 1.0})]), "INVALID_ARGUMENT", "state"),
    "NaN state": (
        dict(task="carla/highway", observations=[observation(state={"speed": float("nan")})]),
        "INVALID_ARGUMENT",
        "speed",
    ),
    "huge state": (
        dict(task="carla/highway", observations=[observation(state={"yaw": 1e300})]),
        "INVALID_ARGUMENT",
        "yaw",
    ),
    "many pixels": (
        dict(observations=[observation(height=128, width=128)] * 4),
        "INVALID_ARGUMENT",
        "max_pixels_per_request",
    ),
    "many tokens": (dict(decoding=pb.Decoding(max_new_tokens=2**31)), "INVALID_ARGUMENT", "max_new_tokens"),
    "unknown constraint": (dict(decoding=pb.Decoding(constraint=7)), "INVALID_ARGUMENT", "constraint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_questions_are_refused_by_name_and_the_server_goes_on(client, case):
    fields, code, words = WRONG[case]
    got, details = refused(lambda: client.ask(**fields))
    assert got == code and words in details
    client.canary()


def test_oversized_message_is_refused(client):
    got, _ = refused(lambda: client.ask(observations=[observation(data=b"0" * (5 * 2**20))]))
    assert got == "RESOURCE_EXHAUSTED"
    client.canary()


def test_random_bytes_on_the_socket_and_in_messages_do_no_harm(client):
    host, port = client.address.rsplit(":", 1)
    rng = np.random.default_rng(0)
    for length in (1, 24, 1000, 100_000):
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            try:
                raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" * (length % 2) + rng.bytes(length))
            except OSError:
                pass  # hung up on, as it should
    for name in ("PriorService/Predict", "TuningService/StartTuning", "AdapterService/DeleteAdapter"):
        for length in (1, 10, 1000):
            call = client.channel.unary_unary(f"/covr.prior.v1.{name}")
            code, _ = refused(lambda call=call, length=length: call(rng.bytes(length), timeout=10))
            assert code in ("INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND")
    client.canary()


def test_malformed_and_clipped_replies_are_data(fake):
    client, engine = fake
    engine.text = "I would push left"
    prediction = client.ask().predictions[0]
    assert prediction.status == pb.REPLY_STATUS_MALFORMED and not prediction.action
    assert prediction.text == "I would push left" and prediction.new_tokens == 3
    engine.text = "slide: -7"
    prediction = client.ask().predictions[0]
    assert prediction.status == pb.REPLY_STATUS_CLIPPED and list(prediction.action) == [-1.0]


def test_metrics_count_calls_replies_jobs_and_activations(start, tmp_path, vlm, monkeypatch):
    made, client = start(tmp_path)
    port = made.metrics.serve(0)

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}

    client.ask(3)
    refused(lambda: client.ask(task="x"))
    client.tune(activate=True)
    client.adapters.ActivateAdapter(pb.ActivateAdapterRequest(run="run", version="base"), timeout=30)
    refused(lambda: client.adapters.ActivateAdapter(pb.ActivateAdapterRequest(run="run", version="v9"), timeout=30))
    spent = SimpleNamespace(encode_ms=1.0, generate_ms=2.0)
    monkeypatch.setattr(Engine, "predict", lambda *_: ([Reply("left", 4)], spent))
    client.ask()
    seen = read()
    calls = "covr_prior_calls_total"
    assert seen[f'{calls}{{code="OK",method="PriorService/Predict"}}'] == 2
    assert seen[f'{calls}{{code="NOT_FOUND",method="PriorService/Predict"}}'] == 1
    assert seen['covr_prior_replies_total{status="ok"}'] == 3 and seen["covr_prior_batch_frames_sum"] == 4
    assert seen['covr_prior_malformed_replies_total{reason="no_dimension"}'] == 1
    assert seen['covr_prior_tuning_jobs_total{state="done"}'] == 1
    assert seen['covr_prior_activations_total{outcome="activated"}'] == 2
    assert seen['covr_prior_activations_total{outcome="refused"}'] == 1
    assert seen["covr_prior_activation_pause_seconds_count"] == 2  # to load it and to ask it; the base needs none
    assert seen['covr_prior_stage_seconds_count{stage="queue"}'] == 2 and seen["covr_prior_queue_frames"] == 0
    assert not any("run" in key or "dmc" in key for key in seen)  # labels hold nothing that clients chose


def test_inner_errors_tell_an_id_and_nothing_else(fake, caplog):
    client, engine = fake
    engine.text = "raise"
    code, details = refused(client.ask)
    assert code == "INTERNAL" and "secret" not in details
    assert "/secret/path" in caplog.text and details.split()[2].rstrip(";") in caplog.text
    engine.text = "slide: 0.25"
    client.canary()


def test_full_queue_is_refused_and_late_questions_are_not_computed(fake):
    client, engine = fake
    engine.entered.clear()
    engine.gate.clear()
    before = engine.frames
    one = pb.PredictRequest(task=TASK, observations=[observation()])
    first = client.prior.Predict.future(one, timeout=30)
    assert engine.entered.wait(5)
    code, _ = refused(lambda: client.ask(8, timeout=0.3))
    assert code == "DEADLINE_EXCEEDED"
    waiting = client.prior.Predict.future(
        pb.PredictRequest(task=TASK, observations=[observation()] * 8), timeout=30
    )
    time.sleep(0.2)
    code, details = refused(client.ask)
    assert code == "RESOURCE_EXHAUSTED" and "queue" in details
    engine.gate.set()
    assert len(first.result().predictions) == 1 and len(waiting.result().predictions) == 8
    assert engine.frames == before + 9


def test_health_follows_the_life_of_the_server(vlm, tmp_path, monkeypatch):
    seen = []
    made = server.Server(vlm, tmp_path, SMALL)
    warm_up = made._warm_up
    monkeypatch.setattr(made, "_warm_up", lambda: (seen.append(dict(made._health._server_status)), warm_up()))
    client = Client(made.start("127.0.0.1:0"))
    assert set(seen[0].values()) == {health_pb2.HealthCheckResponse.NOT_SERVING}
    assert client.status() == health_pb2.HealthCheckResponse.SERVING
    for name in server.SERVICES:
        request = health_pb2.HealthCheckRequest(service=name)
        assert client.health.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    made.stop(1)
    assert refused(client.ask)[0] == "UNAVAILABLE"
    client.channel.close()


def test_drain_lets_running_calls_end(fake, start, tmp_path, vlm, monkeypatch):
    engine = FakeEngine(vlm)
    monkeypatch.setattr(server, "Engine", lambda *_: engine)
    made = server.Server(vlm, tmp_path / "drain", SMALL)
    client = Client(made.start("127.0.0.1:0"))
    engine.entered.clear()
    engine.gate.clear()
    one = pb.PredictRequest(task=TASK, observations=[observation()])
    running = client.prior.Predict.future(one, timeout=30)
    assert engine.entered.wait(5)
    stopping = threading.Thread(target=made.stop, args=(20,))
    stopping.start()
    time.sleep(0.2)
    assert refused(lambda: client.ask(timeout=2))[0] == "UNAVAILABLE"
    engine.gate.set()
    assert running.result().predictions[0].action == pytest.approx([0.25])
    stopping.join(20)
    assert not stopping.is_alive()
    client.channel.close()


def test_reflection_lists_the_services(client, start, tmp_path):
    names = ProtoReflectionDescriptorDatabase(client.channel).get_services()
    assert {*server.SERVICES, "grpc.health.v1.Health"} <= set(names)
    silent = start(tmp_path, reflect=False)[1]
    with pytest.raises(grpc.RpcError):
        ProtoReflectionDescriptorDatabase(silent.channel).get_services()


def test_upload_digest_is_the_documented_one(client):
    expected = hashlib.sha256(b"dmc/cartpole/swingup\n")
    for i in range(2):
        expected.update(struct.pack("<II", 84, 84) + frame(i).data)
        expected.update(struct.pack("<f", 0.5) + struct.pack("<d", 2.5))
    reply = client.upload(2, returns=[2.5, 2.5])
    assert reply.digest == expected.hexdigest() and reply.samples == 2
    assert client.upload(2, returns=[2.5, 2.5]).dataset == reply.dataset
    assert client.upload(2, returns=[2.5, 2.6]).dataset != reply.dataset
    assert client.upload(2, returns=[2.5, 2.5], run="other").dataset != reply.dataset


def sample(**fields):
    return pb.Sample(**{"observation": observation(), "action": [0.0], "return_to_go": 0.0} | fields)


BIG = observation(height=128, width=128)
HEADER = pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run="run"))


def chunk(*samples):
    return pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=samples))


@pytest.mark.parametrize(
    ("messages", "code", "words"),
    [
        ([], "INVALID_ARGUMENT", "header"),
        ([chunk(sample())], "INVALID_ARGUMENT", "header"),
        ([HEADER], "INVALID_ARGUMENT", "at least one"),
        ([HEADER, HEADER], "INVALID_ARGUMENT", "chunk"),
        ([HEADER, chunk(sample(action=[]))], "INVALID_ARGUMENT", "samples[0].action"),
        ([HEADER, chunk(sample(), sample(action=[1.5]))], "INVALID_ARGUMENT", "samples[1].action"),
        ([HEADER, chunk(sample(action=[float("nan")]))], "INVALID_ARGUMENT", "samples[0].action"),
        ([HEADER, chunk(sample(return_to_go=float("inf")))], "INVALID_ARGUMENT", "return_to_go"),
        ([HEADER, chunk(sample(observation=observation(height=1)))], "INVALID_ARGUMENT", "frame.height"),
        ([HEADER] + [chunk(sample())] * 41, "INVALID_ARGUMENT", "40"),
        ([HEADER] + [chunk(sample(observation=BIG))] * 40, "RESOURCE_EXHAUSTED", "bytes"),
        ([pb.UploadSamplesRequest(header=pb.UploadHeader(task="x", run="run"))], "NOT_FOUND", "task"),
        ([pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run="/etc"))], "INVALID_ARGUMENT", "run"),
    ],
)
def test_wrong_uploads_are_refused(client, messages, code, words):
    got, details = refused(lambda: client.tuning.UploadSamples(iter(messages), timeout=30))
    assert got == code and words in details
    client.upload(40)  # and left no trace in the quota


def test_tuning_changes_answers_only_at_activation_and_survives_a_restart(start, tmp_path, vlm):
    made, client = start(tmp_path)
    before = [p.text for p in client.ask(8).predictions]
    last = client.tune()
    assert last.state == pb.JOB_STATE_DONE and not last.result.activated and (last.step, last.steps) == (3, 3)
    assert last.result.adapter.version == "v1" and last.result.holdout_samples == 3
    assert last.result.train_samples == 9 and last.result.weight_mean == 1.0 and last.result.seconds > 0
    unchanged = client.ask(8, run="run")
    assert [p.text for p in unchanged.predictions] == before and unchanged.adapter.version == "base"

    second = client.tune(activate=True, parent="v1")
    assert second.result.activated and second.result.adapter.version == "v2"
    tuned = client.ask(8, run="run")
    assert tuned.adapter == second.result.adapter
    assert [p.text for p in tuned.predictions] != before
    assert [p.text for p in client.ask(8).predictions] == before
    assert client.ask(run="other").adapter.version == "base"
    assert client.ask(run="run", adapter="v1").adapter == last.result.adapter

    versions = client.adapters.ListAdapters(pb.ListAdaptersRequest(run="run"), timeout=5).adapters
    assert [(v.adapter.version, v.parent, v.active) for v in versions] == [
        ("base", "", False),
        ("v1", "base", False),
        ("v2", "v1", True),
    ]
    weights = tmp_path / "run" / "v2" / "adapter_model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == second.result.adapter.digest
    made.stop(0)

    again = start(tmp_path)[1]
    reply = again.ask(8, run="run")
    assert reply.adapter == second.result.adapter
    assert [p.text for p in reply.predictions] == [p.text for p in tuned.predictions]
    rolled = again.adapters.ActivateAdapter(pb.ActivateAdapterRequest(run="run", version="base"), timeout=5)
    assert rolled.adapter.version == "base" and rolled.adapter.digest == vlm.digest
    assert [p.text for p in again.ask(8, run="run").predictions] == before


def test_adapters_can_be_deleted_unless_active_or_in_use(start, tmp_path):
    _, client = start(tmp_path, max_resident=1)
    assert client.tune(activate=True).result.adapter.version == "v1"
    assert client.tune().result.adapter.version == "v2"

    def delete(version):
        return client.adapters.DeleteAdapter(pb.DeleteAdapterRequest(run="run", version=version), timeout=30)

    assert refused(lambda: delete("v1"))[0] == "FAILED_PRECONDITION"
    assert refused(lambda: delete("base"))[0] == "INVALID_ARGUMENT"
    assert refused(lambda: delete("v7"))[0] == "NOT_FOUND"
    assert refused(lambda: delete("../v2"))[0] == "INVALID_ARGUMENT"
    for version in ("v1", "v2", "v1"):  # one fits in memory
        assert client.ask(run="run", adapter=version).adapter.version == version
    delete("v2")
    assert refused(lambda: client.ask(run="run", adapter="v2"))[0] == "NOT_FOUND"
    assert client.ask(run="run").adapter.version == "v1"
    assert client.tune().result.adapter.version == "v3"  # a number is never given twice
    assert client.tune().result.adapter.version == "v4"
    dataset = client.upload().dataset
    start_request = pb.StartTuningRequest(run="run", dataset=dataset, config=CONFIG)
    code, details = refused(lambda: client.tuning.StartTuning(start_request, timeout=5))
    assert code == "RESOURCE_EXHAUSTED" and "3 adapter versions" in details


def test_roll_back_lineage_pruning_and_the_promotion_gate(start, tmp_path, vlm):
    _, client = start(tmp_path)

    def back():
        return client.adapters.RollBackAdapter(pb.RollBackAdapterRequest(run="run"), timeout=30).adapter.version

    assert refused(back)[0] == "FAILED_PRECONDITION"
    chosen = {"tau": -0.5, "kept": 12.0}
    assert client.tune(activate=True, selection=chosen).result.adapter.version == "v1"
    request = pb.GetAdapterRequest(run="run", version="v1")
    manifest = json.loads(client.adapters.GetAdapter(request, timeout=5).adapter.manifest_json)
    assert manifest["selection"] == chosen and manifest["base"]["digest"] == vlm.digest
    assert manifest["tuning"]["rank"] == 4 and manifest["data"]["samples"] == 12 and manifest["parent"] == "base"
    assert manifest["statistics"]["train_samples"] == 9 and manifest["created"].endswith("+00:00")

    worse = pb.TuningConfig(rank=4, alpha=8, max_steps=4, batch_size=4, learning_rate=1.0, holdout=0.25)
    dataset = client.upload().dataset

    def gated(config):
        request = pb.StartTuningRequest(
            run="run", dataset=dataset, parent="base", config=config, activate=True,
            promotion=pb.PROMOTION_HOLDOUT_IMPROVES,
        )  # fmt: skip
        return client.watch(client.tuning.StartTuning(request, timeout=10).job)[-1].result

    kept = gated(worse)
    assert kept.holdout_loss_after > kept.holdout_loss_before and not kept.activated
    assert "did not fall" in kept.not_activated and kept.adapter.version == "v2"
    worse.holdout = 0
    assert "no held-out samples" in gated(worse).not_activated
    assert listed(client) == [("base", False), ("v1", True), ("v2", False), ("v3", False)]
    gate = pb.PROMOTION_HOLDOUT_IMPROVES
    better = client.tune(activate=True, promotion=gate, keep_latest=1).result  # full, but pruned
    assert better.activated and better.holdout_loss_after < better.holdout_loss_before and not better.not_activated
    assert listed(client) == [("base", False), ("v4", True)]
    assert back() == "base" and client.ask(run="run").adapter.version == "base"
    for wrong in (dict(promotion=7), dict(selection={"Tau": 1.0}), dict(selection={"tau": float("nan")}),
                  dict(selection={f"x{i}": 0.0 for i in range(33)})):  # fmt: skip
        code, details = refused(lambda wrong=wrong: client.tune(**wrong))
        assert code == "INVALID_ARGUMENT" and next(iter(wrong)) in details


def test_an_adapter_that_fails_its_canary_question_is_not_activated(start, tmp_path, vlm):
    made, client = start(tmp_path)
    assert client.tune().state == pb.JOB_STATE_DONE

    def huge(folder):
        """Finite values, and answers that are not."""
        source = tmp_path / "run" / "v1"
        tensors = {name: value + 1e30 for name, value in load_file(source / lora.WEIGHTS).items()}
        save_file(tensors, folder / lora.WEIGHTS)
        (folder / lora.CONFIG).write_bytes((source / lora.CONFIG).read_bytes())
        return {"parent": "v1", "statistics": {}}

    made._store.create("run", huge)
    request = pb.ActivateAdapterRequest(run="run", version="v2")
    code, details = refused(lambda: client.adapters.ActivateAdapter(request, timeout=30))
    assert code == "FAILED_PRECONDITION" and "canary" in details
    assert listed(client) == [("base", True), ("v1", False), ("v2", False)]
    client.canary()


def test_a_damaged_adapter_is_not_activated(start, tmp_path):
    _, client = start(tmp_path)
    assert client.tune().state == pb.JOB_STATE_DONE
    weights = tmp_path / "run" / "v1" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    request = pb.ActivateAdapterRequest(run="run", version="v1")
    assert refused(lambda: client.adapters.ActivateAdapter(request, timeout=30))[0] == "FAILED_PRECONDITION"
    assert client.ask(run="run").adapter.version == "base"
    client.canary()


def test_answers_stay_those_of_the_active_version_while_a_job_tunes_it(start, tmp_path):
    _, client = start(tmp_path)

    def begin(parent, steps):
        config = pb.TuningConfig(dropout=0.5, epochs=50)
        config.MergeFrom(CONFIG)
        config.max_steps = steps  # few, and the answers are not yet sure enough to survive dropout
        request = pb.StartTuningRequest(
            run="run", dataset=client.upload().dataset, parent=parent, config=config, activate=True
        )
        return client.tuning.StartTuning(request, timeout=30).job

    assert client.watch(begin("base", 3))[-1].result.adapter.version == "v1"
    first = client.ask(8, run="run")
    texts = [p.text for p in first.predictions]
    assert first.adapter.version == "v1" and texts != [p.text for p in client.ask(8).predictions]
    during = 0
    for progress in client.tuning.WatchTuning(pb.WatchTuningRequest(job=begin("v1", 100)), timeout=120):
        reply = client.ask(8, run="run") if progress.state == pb.JOB_STATE_RUNNING else None
        if reply is not None and reply.adapter.version == "v1":
            assert [p.text for p in reply.predictions] == texts
            during += 1
    assert during > 3 and progress.state == pb.JOB_STATE_DONE
    assert client.ask(run="run").adapter == progress.result.adapter
    assert [p.text for p in client.ask(8, run="run", adapter="v1").predictions] == texts


def listed(client, run="run"):
    versions = client.adapters.ListAdapters(pb.ListAdaptersRequest(run=run), timeout=5).adapters
    return [(v.adapter.version, v.active) for v in versions]


def test_a_damaged_parent_fails_its_job(start, tmp_path):
    _, client = start(tmp_path)
    assert client.tune().state == pb.JOB_STATE_DONE
    weights = tmp_path / "run" / "v1" / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-7] ^= 1
    weights.write_bytes(data)
    failed = client.tune(parent="v1")
    assert failed.state == pb.JOB_STATE_FAILED and "has changed since it was written" in failed.error
    assert listed(client) == [("base", True), ("v1", False)]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cancelled_job_publishes_nothing(start, tmp_path, monkeypatch, moment):
    """Cancelled after the last step: just before its version is written, and just before that is activated."""
    made, client = start(tmp_path)

    def cancel():
        queue = made._tuner.jobs
        queue.cancel(queue._current)

    store = made._store
    if moment == "before":
        monkeypatch.setattr(tuning, "train", lambda *_, real=tuning.train: (real(*_), cancel())[0])
    else:
        monkeypatch.setattr(store, "create", lambda *_, real=store.create: (real(*_), cancel())[0])
    for activate in (True, False):
        assert client.tune(activate=activate).state == pb.JOB_STATE_CANCELLED
        assert listed(client) == [("base", True)]
    client.canary()


def test_a_version_that_cannot_be_activated_is_not_kept(start, tmp_path, monkeypatch):
    _, client = start(tmp_path)

    def load(*_):
        raise AdapterInvalid("adapter tensors do not fit this model's layers")

    monkeypatch.setattr(lora, "add_saved", load)
    failed = client.tune(activate=True)
    assert failed.state == pb.JOB_STATE_FAILED and "do not fit" in failed.error
    assert listed(client) == [("base", True)]


def test_no_more_adapters_than_may_are_in_memory(start, tmp_path, monkeypatch):
    _, client = start(tmp_path, max_resident=1)
    counts = []

    def add(self, *arguments, real=Engine.add_adapter):
        real(self, *arguments)
        counts.append(len(self.adapters))

    monkeypatch.setattr(Engine, "add_adapter", add)
    for _ in range(3):
        client.tune(activate=True)
    assert counts == [1, 1, 1]


def test_jobs_are_idempotent_cancellable_bounded_and_fail_alone(start, tmp_path):
    _, client = start(tmp_path)
    dataset = client.upload().dataset
    slow = pb.TuningConfig(rank=4, epochs=1000, batch_size=4)

    def begin(request_id="", config=slow, run="run", dataset=dataset, parent="base"):
        request = pb.StartTuningRequest(
            run=run, dataset=dataset, parent=parent, config=config, request_id=request_id, activate=True
        )
        return client.tuning.StartTuning(request, timeout=10).job

    def cancel(job):
        return client.tuning.CancelTuning(pb.CancelTuningRequest(job=job), timeout=10).state

    first = begin("once")
    assert begin("once") == first
    stream = client.tuning.WatchTuning(pb.WatchTuningRequest(job=first), timeout=60)
    assert next(m for m in stream if m.step >= 2).state == pb.JOB_STATE_RUNNING
    client.canary()  # answers go on meanwhile
    second, third = begin(), begin()
    code, details = refused(begin)
    assert code == "RESOURCE_EXHAUSTED" and "queue" in details
    assert cancel(second) == pb.JOB_STATE_CANCELLED
    cancel(first)
    cancel(third)
    assert [client.watch(job)[-1].state for job in (first, second, third)] == [pb.JOB_STATE_CANCELLED] * 3
    assert len(client.adapters.ListAdapters(pb.ListAdaptersRequest(run="run"), timeout=5).adapters) == 1

    hopeless = client.upload(returns=[-1.0] * 12).dataset
    failed = client.watch(begin(dataset=hopeless))[-1]
    assert failed.state == pb.JOB_STATE_FAILED and "positive weight" in failed.error
    assert refused(lambda: begin(run="other"))[0] == "NOT_FOUND"
    assert refused(lambda: begin(dataset="d" * 10_000))[0] == "NOT_FOUND"
    assert refused(lambda: begin(parent="v9"))[0] == "NOT_FOUND"
    assert refused(lambda: begin(parent="../v1"))[0] == "INVALID_ARGUMENT"
    assert refused(lambda: begin("two words"))[0] == "INVALID_ARGUMENT"
    assert "max_tuning_rank" in refused(lambda: begin(config=pb.TuningConfig(rank=65)))[1]
    endless = pb.TuningConfig(rank=4, epochs=1000, batch_size=1, max_steps=0)
    assert "max_tuning_steps" in refused(lambda: begin(config=endless))[1]
    for wrong in (dict(rank=10**6), dict(learning_rate=float("nan")), dict(holdout=0.9), dict(targets=9)):
        code, details = refused(lambda wrong=wrong: begin(config=pb.TuningConfig(**wrong)))
        assert code == "INVALID_ARGUMENT" and f"config.{next(iter(wrong))}" in details
    for call in (client.watch, cancel):
        assert refused(lambda call=call: call("nobody"))[0] == "NOT_FOUND"
    client.canary()


def test_the_same_request_finds_its_version_also_after_a_restart(start, tmp_path):
    made, client = start(tmp_path)

    def tuned(client, request_id):
        request = pb.StartTuningRequest(
            run="run", dataset=client.upload().dataset, parent="base", config=CONFIG, activate=True,
            request_id=request_id,
        )  # fmt: skip
        return client.watch(client.tuning.StartTuning(request, timeout=10).job)[-1].result

    first = tuned(client, "round-0")
    assert (first.adapter.version, first.activated) == ("v1", True)
    client.adapters.ActivateAdapter(pb.ActivateAdapterRequest(run="run", version="base"), timeout=30)
    made.stop(5)
    _, client = start(tmp_path)
    again = tuned(client, "round-0")
    first.seconds = again.seconds = 0.0
    assert again == first  # and no v2
    assert client.ask(run="run").adapter.version == "v1"
    assert tuned(client, "round-1").adapter.version == "v2"


def test_a_cancelled_request_may_be_made_again(start, tmp_path):
    _, client = start(tmp_path)
    dataset = client.upload().dataset

    def begin(epochs):
        config = pb.TuningConfig(rank=4, epochs=epochs, batch_size=4)
        request = pb.StartTuningRequest(
            run="run", dataset=dataset, parent="base", config=config, activate=True, request_id="once"
        )
        return client.tuning.StartTuning(request, timeout=10).job

    job = begin(1000)
    client.tuning.CancelTuning(pb.CancelTuningRequest(job=job), timeout=10)
    assert begin(1) != job
    assert client.watch(begin(1))[-1].result.adapter.version == "v1"


def test_unix_socket_is_for_its_owner_alone(vlm, tmp_path):
    made = server.Server(vlm, tmp_path / "adapters", SMALL)
    path = tmp_path / "s"
    client = Client(made.start(f"unix:{path}"))
    assert os.stat(path).st_mode & 0o777 == 0o600
    client.canary()
    other = server.Server(vlm, tmp_path / "others", SMALL)
    with pytest.raises(ValueError, match="somebody listens on"):
        other.start(f"unix:{path}")
    other.stop(0)
    client.canary()
    client.channel.close()
    made.stop(0)
    left = socket.socket(socket.AF_UNIX)  # as a crash leaves it
    left.bind(str(path))
    left.close()
    made = server.Server(vlm, tmp_path / "adapters", SMALL)
    client = Client(made.start(f"unix:{path}"))
    client.canary()
    client.channel.close()
    made.stop(0)


def test_a_taken_port_is_refused(vlm, client, tmp_path):
    made = server.Server(vlm, tmp_path, SMALL)
    with pytest.raises(ValueError, match="in use"):
        made.start(client.address)
    made.stop(0)
