"""Counters around calls, without a model."""

from __future__ import annotations

import urllib.request
from concurrent import futures

import grpc
import pytest
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from vlm_server.interception import Refusals
from vlm_server.metrics import Metrics
from vlm_server.refusals import invalid


class Services(pb_grpc.PriorServiceServicer, pb_grpc.TuningServiceServicer):
    def GetServerInfo(self, request, context):
        if request.protocol_version:
            raise invalid("no")
        return pb.GetServerInfoResponse()

    def WatchTuning(self, request, context):
        yield pb.WatchTuningResponse(step=1)
        raise RuntimeError("inside")


def test_calls_are_counted_by_method_and_code_and_timed():
    metrics = Metrics()
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[metrics, Refusals()])
    pb_grpc.add_PriorServiceServicer_to_server(Services(), server)
    pb_grpc.add_TuningServiceServicer_to_server(Services(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    waiting = [3.0]
    metrics.watch("queue_frames", "Frames that wait.", lambda: waiting[0])
    metrics.replied("ok", 5, "")
    metrics.replied("malformed", 2, "empty")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        prior, tuning = pb_grpc.PriorServiceStub(channel), pb_grpc.TuningServiceStub(channel)
        prior.GetServerInfo(pb.GetServerInfoRequest(), timeout=20)
        for call in (
            lambda: prior.GetServerInfo(pb.GetServerInfoRequest(protocol_version="x"), timeout=20),
            lambda: list(tuning.WatchTuning(pb.WatchTuningRequest(), timeout=20)),
            lambda: channel.unary_unary("/covr.prior.v1.PriorService/Made" + "up" * 50)(b"", timeout=20),
        ):
            with pytest.raises(grpc.RpcError):
                call()
    server.stop(0).wait()
    metrics_port = metrics.serve(0)
    with pytest.raises(ValueError, match="metrics_port: cannot listen"):
        metrics.serve(metrics_port)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    for line in (
        'covr_prior_calls_total{code="OK",method="PriorService/GetServerInfo"} 1.0',
        'covr_prior_calls_total{code="INVALID_ARGUMENT",method="PriorService/GetServerInfo"} 1.0',
        'covr_prior_calls_total{code="INTERNAL",method="TuningService/WatchTuning"} 1.0',
        'covr_prior_call_seconds_count{method="PriorService/GetServerInfo"} 2.0',
        'covr_prior_replies_total{status="ok"} 1.0',
        'covr_prior_malformed_replies_total{reason="empty"} 1.0',
        "covr_prior_new_tokens_total 7.0",
        "covr_prior_queue_frames 3.0",
    ):
        assert line in text.splitlines()
    assert "Made" not in text  # names that clients make up are no labels
