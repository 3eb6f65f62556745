from __future__ import annotations

import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from covr_jax.config import RoundsConfig
from covr_jax.priors import pipeline as pipeline_module
from covr_jax.priors.client import GrpcPrior
from covr_jax.priors.pipeline import PriorPipeline
from covr_jax.priors.source import PriorUnavailable, TunablePrior, TuningFailed
from covr_jax.priors.wire import chunks, tuning_config
from covr_jax.types import Observation, Sample

TASK = "dmc/reacher/easy"
OK, CLIPPED, MALFORMED = pb.REPLY_STATUS_OK, pb.REPLY_STATUS_CLIPPED, pb.REPLY_STATUS_MALFORMED
ADAPTER = pb.AdapterRef(version="v2", digest="abc")


def seen(value: int = 0, **state: float) -> Observation:
    frame = np.full((10, 12, 3), value, np.uint8)
    return Observation(frame, frame, state)


def prediction(status=OK, action=(0.5, -0.5), text="shoulder: 0.50 wrist: -0.50"):
    return pb.Prediction(status=status, action=action, text=text)


class FakeServer(
    pb_grpc.PriorServiceServicer, pb_grpc.TuningServiceServicer, pb_grpc.AdapterServiceServicer
):
    """A prior server without a model; a test sets ``answer`` and ``updates`` to say what it does."""

    def __init__(self):
        self.protocol, self.refuses = "1.3", ""
        self.limits = pb.Limits(max_message_bytes=8 << 20, max_frames_per_request=4, max_tuning_samples=5000)
        self.answer = lambda request, context: [prediction()] * len(request.observations)
        self.updates = [pb.WatchTuningResponse(state=pb.JOB_STATE_DONE, result=pb.TuningResult())]
        self.watching = lambda: None
        self.predicts: list[pb.PredictRequest] = []
        self.uploads: list[pb.UploadSamplesRequest] = []
        self.starts: list[pb.StartTuningRequest] = []
        self.cancelled: list[str] = []
        self.active = "base"

    def GetServerInfo(self, request, context):
        if request.protocol_version == self.refuses:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "protocol_version: this server speaks 2.0")
        actions = [pb.ActionInfo(name=name, low=-1, high=1) for name in ("shoulder", "wrist")]
        task = pb.TaskInfo(name=TASK, actions=actions, state=["speed"])
        return pb.GetServerInfoResponse(protocol_version=self.protocol, limits=self.limits, tasks=[task])

    def Predict(self, request, context):
        self.predicts.append(request)
        return pb.PredictResponse(predictions=self.answer(request, context), adapter=ADAPTER)

    def UploadSamples(self, request_iterator, context):
        self.uploads = list(request_iterator)
        return pb.UploadSamplesResponse(dataset="d7")

    def StartTuning(self, request, context):
        self.starts.append(request)
        return pb.StartTuningResponse(job="j3")

    def WatchTuning(self, request, context):
        assert request.job == "j3"
        yield from self.updates
        self.watching()

    def CancelTuning(self, request, context):
        self.cancelled.append(request.job)
        return pb.CancelTuningResponse()

    def ListAdapters(self, request, context):
        versions = ("base", "v1", "v2")
        return pb.ListAdaptersResponse(
            adapters=[
                pb.AdapterInfo(adapter=pb.AdapterRef(version=v), active=v == self.active) for v in versions
            ]
        )

    def ActivateAdapter(self, request, context):
        if request.version not in ("base", "v1", "v2"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"no version {request.version}")
        return pb.ActivateAdapterResponse(adapter=pb.AdapterRef(version=request.version, digest="f00"))


def serve(fake: FakeServer, port: int = 0) -> tuple[grpc.Server, int]:
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 << 20)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    pb_grpc.add_PriorServiceServicer_to_server(fake, server)
    pb_grpc.add_TuningServiceServicer_to_server(fake, server)
    pb_grpc.add_AdapterServiceServicer_to_server(fake, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, bound


@pytest.fixture
def fake():
    return FakeServer()


@pytest.fixture
def address(fake):
    server, port = serve(fake)
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def prior(address):
    prior = GrpcPrior(address, TASK, run="r1", deadline_s=5)
    yield prior
    prior.close()


# --- handshake


def test_the_handshake_reads_task_limits_and_active_version(fake, address):
    fake.active = "v1"
    prior = GrpcPrior(f"grpc://{address}", TASK, run="r1")
    assert (prior.action_dim, prior.version, prior.limits.max_frames_per_request) == (2, "v1", 4)
    assert prior.info().protocol_version == "1.3"
    assert isinstance(prior, TunablePrior)
    prior.close()


def test_another_major_version_is_refused_in_one_line(fake, address):
    fake.protocol = "2.0"
    with pytest.raises(ValueError, match=rf"^prior server at {address} speaks protocol '2\.0'.* 1\.x$"):
        GrpcPrior(address, TASK)


def test_a_server_that_refuses_this_version_is_told_from_one_that_is_away(fake, address):
    fake.refuses = "1.1"  # what this learner says that it speaks
    with pytest.raises(ValueError, match=r"GetServerInfo failed with FAILED_PRECONDITION .*speaks 2\.0"):
        GrpcPrior(address, TASK)


def test_the_token_of_a_file_goes_with_every_call(fake, address, tmp_path):
    seen_tokens = []

    def predict(request, context):
        seen_tokens.append(dict(context.invocation_metadata()).get("authorization"))
        return [prediction()]

    fake.answer = predict
    file = tmp_path / "token"
    file.write_text("0123456789abcdef\n")
    file.chmod(0o600)
    prior = GrpcPrior(address, TASK, token_file=str(file))
    prior.predict([seen()])
    prior.close()
    assert seen_tokens == ["Bearer 0123456789abcdef"]
    file.chmod(0o644)
    with pytest.raises(ValueError, match="open to others"):
        GrpcPrior(address, TASK, token_file=str(file))


def test_an_unknown_task_is_refused_with_those_that_are_known(address):
    with pytest.raises(ValueError, match=r"does not know task 'dmc/hopper/hop'; it knows dmc/reacher/easy$"):
        GrpcPrior(address, "dmc/hopper/hop")


def test_nobody_at_the_address():
    line = r"UNAVAILABLE at prior server 127\.0\.0\.1:1 .*vlm_server"
    with pytest.raises(PriorUnavailable, match=line) as e:
        GrpcPrior("127.0.0.1:1", TASK, deadline_s=5)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("bad", [{"constraint": "strict"}, {"deadline_s": 0}, {"deadline_s": float("nan")}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        GrpcPrior("127.0.0.1:1", TASK, **bad)


# --- predict


def test_predict_sends_pixels_and_known_state_and_reads_the_answer(fake, prior):
    (label,) = prior.predict([seen(7, speed=1.5, yaw=3.0)])
    np.testing.assert_array_equal(label.action, np.float32([0.5, -0.5]))
    assert label.action.dtype == np.float32
    assert label[1:5] == ("ok", "shoulder: 0.50 wrist: -0.50", "v2", "abc")
    (request,) = fake.predicts
    frame = request.observations[0].frame
    assert (frame.height, frame.width, frame.channels, frame.data) == (10, 12, 3, bytes([7]) * 360)
    assert dict(request.observations[0].state) == {"speed": 1.5}  # the server refuses names it does not know
    assert (request.task, request.run, request.adapter) == (TASK, "r1", "base")  # by name, whoever activates what


def test_a_frame_that_is_not_contiguous_is_sent_by_rows(fake, prior):
    frame = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    prior.predict([Observation(frame[::-1], frame, {})])
    sent = np.frombuffer(fake.predicts[0].observations[0].frame.data, np.uint8).reshape(5, 4, 3)
    np.testing.assert_array_equal(sent, frame[::-1])


def test_decoding_constraint_is_passed_on(fake, address):
    prior = GrpcPrior(address, TASK, constraint="template")
    prior.predict([seen()])
    assert fake.predicts[0].decoding.constraint == pb.Decoding.CONSTRAINT_TEMPLATE
    prior.close()


@pytest.mark.parametrize(
    "reply",
    [
        prediction(MALFORMED, (), "no idea"),
        prediction(OK, (0.1,), "one number"),
        prediction(OK, (0.1, 0.2, 0.3), "three numbers"),
        prediction(OK, (), "none"),
        prediction(CLIPPED, (float("nan"), 0.0), "nan"),
        prediction(OK, (float("inf"), 0.0), "inf"),
        prediction(OK, (1.01, 0.0), "out of range"),
        prediction(pb.REPLY_STATUS_UNSPECIFIED, (0.1, 0.2), "no status"),
        prediction(17, (0.1, 0.2), "a status from the future"),
    ],
)
def test_an_unreadable_answer_is_malformed_and_alone(fake, prior, reply):
    fake.answer = lambda request, context: [prediction(), reply, prediction(CLIPPED, (1.0, -1.0))]
    labels = prior.predict([seen()] * 3)
    assert [label.status for label in labels] == ["ok", "malformed", "clipped"]
    assert labels[1].action is None and labels[1].text == reply.text
    np.testing.assert_array_equal(labels[2].action, [1, -1])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_wrong_number_of_answers_is_no_answer(fake, prior, count):
    fake.answer = lambda request, context: [prediction()] * count
    with pytest.raises(PriorUnavailable, match=f"{count} answers to 2 questions"):
        prior.predict([seen()] * 2)


def test_more_questions_than_a_request_may_hold_keep_their_order(fake, prior):
    def first_pixel(request, context):
        return [prediction(action=(o.frame.data[0] / 100, 0.0)) for o in request.observations]

    fake.answer = first_pixel
    labels = prior.predict([seen(value) for value in range(11)])
    assert [len(request.observations) for request in fake.predicts] == [4, 4, 3]
    np.testing.assert_allclose([label.action[0] for label in labels], np.arange(11) / 100, rtol=1e-6)


def test_a_request_has_no_more_pixels_than_it_may(fake, address):
    fake.limits.max_pixels_per_request = 2 * 10 * 12 + 1
    prior = GrpcPrior(address, TASK)
    assert len(prior.predict([seen()] * 5)) == 5
    assert [len(request.observations) for request in fake.predicts] == [2, 2, 1]
    prior.close()


def test_a_hanging_server_costs_one_deadline(fake, address):
    release = threading.Event()
    fake.answer = lambda request, context: release.wait(10) and []
    prior = GrpcPrior(address, TASK, deadline_s=0.3)
    start = time.monotonic()
    with pytest.raises(PriorUnavailable, match=f"DEADLINE_EXCEEDED at prior server {address}"):
        prior.predict([seen()] * 11)  # three requests, one deadline
    assert 0.25 < time.monotonic() - start < 1.0
    release.set()
    prior.close()


def test_a_server_error_is_one_line_with_code_and_address(fake, prior, address):
    def refuse(request, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue is full:\n256 frames wait")

    fake.answer = refuse
    with pytest.raises(PriorUnavailable) as e:
        prior.predict([seen()])
    start = f"Predict failed with RESOURCE_EXHAUSTED at prior server {address} (queue is full: 256"
    assert str(e.value).startswith(start)
    assert "\n" not in str(e.value)
    assert len(fake.predicts) == 1  # no retries here


def test_a_closed_client_is_unavailable(prior):
    prior.close()
    with pytest.raises(PriorUnavailable, match="closed channel"):
        prior.predict([seen()])


def test_frames_of_another_kind_are_refused(prior):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float32 \[4, 4, 3\]"):
        prior.predict([Observation(np.zeros((4, 4, 3), np.float32), None, {})])


# --- the pipeline over a server that dies and comes back


def test_a_run_goes_on_without_the_server_and_finds_it_again(fake, monkeypatch):
    monkeypatch.setattr(pipeline_module, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(pipeline_module, "LAST_BACKOFF_S", 0.2)
    server, port = serve(fake)
    prior = GrpcPrior(f"127.0.0.1:{port}", TASK, deadline_s=2)
    pipeline = PriorPipeline(prior, lag=0, group=1)

    def status(decision):
        pipeline.due(decision)
        pipeline.ask(decision, seen())
        return pipeline.due(decision)[0].label.status

    assert status(0) == "ok"
    server.stop(0).wait()
    assert [status(decision) for decision in range(1, 20)] == ["unavailable"] * 19
    server, _ = serve(fake, port)
    end = time.monotonic() + 15
    while not pipeline.available:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert status(20) == "ok"
    pipeline.close()
    prior.close()
    server.stop(0).wait()


# --- tuning


def sample(value: int, side: int = 100) -> Sample:
    frame = np.full((side, side, 3), value, np.uint8)
    return Sample(frame, {"x": 1.0}, np.float32([0.25, -1]), float(value))


def test_samples_are_uploaded_in_chunks_below_2_mb_and_tuned(fake, prior):
    result = pb.TuningResult(
        adapter=pb.AdapterRef(version="v3", digest="d3"),
        activated=True,
        train_loss_first=2.0,
        train_loss_last=1.5,
        holdout_loss_before=3.0,
        holdout_loss_after=2.5,
        train_samples=180,
        holdout_samples=20,
        weight_mean=0.4,
        weight_positive_share=0.9,
        seconds=12.0,
    )
    state = pb.JOB_STATE_RUNNING
    running = [pb.WatchTuningResponse(state=state, step=n, steps=2, loss=3.0 - n) for n in (1, 2)]
    fake.updates = [
        pb.WatchTuningResponse(state=pb.JOB_STATE_QUEUED),
        *running,
        pb.WatchTuningResponse(state=pb.JOB_STATE_DONE, result=result),
    ]
    seen_progress = []
    report = prior.tune(
        [sample(n) for n in range(200)],
        RoundsConfig(rank=16, holdout=0.0, label_smoothing=0.0, max_steps=7),
        seed=5,
        progress=lambda *args: seen_progress.append(args),
        selection={"tau": 0.25, "entropy": float("nan")},
    )

    assert fake.uploads[0].header == pb.UploadHeader(task=TASK, run="r1")
    assert all(each.WhichOneof("part") == "chunk" for each in fake.uploads[1:])
    assert len(fake.uploads) == 5  # 200 * 30 kB in chunks of 1.9 MB
    assert max(each.ByteSize() for each in fake.uploads) < 2_000_000
    sent = [each for upload in fake.uploads[1:] for each in upload.chunk.samples]
    assert [each.return_to_go for each in sent] == [float(n) for n in range(200)]
    assert list(sent[3].action) == [0.25, -1.0] and sent[3].observation.frame.data == bytes([3]) * 30_000

    (start,) = fake.starts
    assert (start.run, start.dataset, start.parent, start.activate) == ("r1", "d7", "base", True)
    assert len(start.request_id) == 32
    assert (start.promotion, start.keep_latest) == (pb.PROMOTION_ALWAYS, 32) and dict(start.selection) == {"tau": 0.25}
    assert prior.version == "v3" and prior.digest == "d3"
    config = start.config
    assert (config.rank, config.alpha, config.dropout, config.seed) == (16, 16.0, 0.05, 5)
    assert (config.epochs, config.max_steps, config.batch_size, config.learning_rate) == (1, 7, 16, 1e-5)
    assert config.HasField("holdout") and config.holdout == 0.0
    assert config.HasField("label_smoothing") and config.label_smoothing == 0.0
    assert config.targets == pb.TuningConfig.TARGETS_ALL
    assert config.weight_rule == pb.TuningConfig.WEIGHT_RULE_MAX_ABS

    assert seen_progress == [(1, 2, 2.0), (2, 2, 1.0)]
    assert report == ("v3", "d3", True, 2.0, 1.5, 3.0, 2.5, 180, 20, 0.4, 0.9, 12.0)
    assert prior.version == "v3"


def test_a_version_that_was_not_activated_does_not_answer(fake, prior):
    result = pb.TuningResult(adapter=pb.AdapterRef(version="v3"), activated=False)
    fake.updates = [pb.WatchTuningResponse(state=pb.JOB_STATE_DONE, result=result)]
    assert prior.tune([sample(0)], RoundsConfig(), seed=0).activated is False
    assert prior.version == "base"


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (pb.WatchTuningResponse(state=pb.JOB_STATE_FAILED, error="loss is\nNaN"), "failed: loss is NaN"),
        (pb.WatchTuningResponse(state=pb.JOB_STATE_CANCELLED), "cancelled"),
        (pb.WatchTuningResponse(state=pb.JOB_STATE_RUNNING), "running"),
        (pb.WatchTuningResponse(state=pb.JOB_STATE_DONE), "done"),  # without a result
    ],
)
def test_a_job_without_a_result_failed(fake, prior, address, last, message):
    fake.updates = [last]
    with pytest.raises(TuningFailed, match=f"^tuning at {address} ended as {message}"):
        prior.tune([sample(0)], RoundsConfig(), seed=0)


def test_a_late_job_is_cancelled(fake, prior):
    release = threading.Event()
    fake.updates = [pb.WatchTuningResponse(state=pb.JOB_STATE_RUNNING)]
    fake.watching = lambda: release.wait(10)
    start = time.monotonic()
    with pytest.raises(TuningFailed, match="DEADLINE_EXCEEDED"):
        prior.tune([sample(0)], RoundsConfig(deadline_s=0.4), seed=0)
    assert time.monotonic() - start < 2
    assert fake.cancelled == ["j3"]
    release.set()


def test_ctrl_c_cancels_the_job(fake, prior):
    def interrupt(step, steps, loss):
        raise KeyboardInterrupt

    fake.updates = [pb.WatchTuningResponse(state=pb.JOB_STATE_RUNNING)]
    with pytest.raises(KeyboardInterrupt):
        prior.tune([sample(0)], RoundsConfig(), seed=0, progress=interrupt)
    assert fake.cancelled == ["j3"]


def test_too_many_samples_are_not_sent(fake, prior):
    with pytest.raises(TuningFailed, match="5001 samples are over the 5000"):
        prior.tune([sample(0, side=1)] * 5001, RoundsConfig(), seed=0)
    assert fake.uploads == []


@pytest.mark.parametrize("bad", [{"rank": 0}, {"targets": "vision"}, {"weights": "max"}, {"promotion": "x"}])
def test_settings_that_would_mean_something_else_are_refused(bad):
    with pytest.raises(ValueError, match=rf"rounds\.{next(iter(bad))}"):
        tuning_config(RoundsConfig(**bad), seed=0)


def test_activate(prior):
    assert prior.activate("v1") == ("v1", "f00")
    assert prior.version == "v1"
    with pytest.raises(PriorUnavailable, match=r"ActivateAdapter\(v9\) failed with NOT_FOUND.*no version v9"):
        prior.activate("v9")
    assert prior.version == "v1"


def test_chunks_respect_count_and_size():
    messages = [pb.Frame(data=b"x" * n) for n in (50, 50, 50, 200, 10)]
    sizes = [[len(m.data) for m in part] for part in chunks(messages, 10, 130)]
    assert sizes == [[50, 50], [50], [200], [10]]  # 52 + 8 bytes each; the big one goes alone
    assert [len(part) for part in chunks(messages, 2, 10_000)] == [2, 2, 1]
    assert list(chunks([], 2, 10)) == []


@pytest.mark.parametrize("rule", ["max_abs", "min_max", "ones", "uniform"])
def test_every_weight_rule_has_its_name_on_the_wire(rule):
    sent = tuning_config(RoundsConfig(weights=rule), seed=1).weight_rule
    assert pb.TuningConfig.WeightRule.Name(sent) == f"WEIGHT_RULE_{rule.upper()}"
