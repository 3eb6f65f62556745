"""Faults that a caller asks for, and what a learner makes of them."""

from __future__ import annotations

from concurrent import futures

import grpc
import pytest
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from vlm_server.faults import KINDS, Faults
from vlm_server.interception import Refusals


class Prior(pb_grpc.PriorServiceServicer):
    def Predict(self, request, context):
        good = pb.Prediction(status=pb.REPLY_STATUS_OK, action=[0.25, -0.25], text="x")
        return pb.PredictResponse(predictions=[good] * len(request.observations))


@pytest.fixture(scope="module")
def ask():
    server = grpc.server(futures.ThreadPoolExecutor(2), interceptors=[Refusals(), Faults()])
    pb_grpc.add_PriorServiceServicer_to_server(Prior(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = pb_grpc.PriorServiceStub(channel)
        request = pb.PredictRequest(observations=[pb.Observation()] * 2)

        def call(*kinds):
            return stub.Predict(request, timeout=20, metadata=[("x-fault", kind) for kind in kinds]).predictions

        yield call
    server.stop(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_is_spoiled_as_asked_and_the_next_is_not(ask, kind):
    if kind in ("garbage", "unavailable"):
        with pytest.raises(grpc.RpcError) as caught:
            ask(kind)
        assert caught.value.code().name == {"garbage": "INTERNAL", "unavailable": "UNAVAILABLE"}[kind]
    else:
        first, *rest = ask(kind)
        assert len(rest) + 1 == {"too_few": 1, "too_many": 3}.get(kind, 2)
        assert (first.status == pb.REPLY_STATUS_MALFORMED) == (kind == "malformed")
        assert len(first.action) == {"malformed": 0, "wrong_length": 3}.get(kind, 2)
        assert (first.action[:1] != first.action[:1]) == (kind == "nan") or kind == "malformed"
        assert (max(first.action, default=0) == 7.5) == (kind == "out_of_range")
    assert [list(each.action) for each in ask()] == [[0.25, -0.25]] * 2


def test_an_unknown_fault_is_refused(ask):
    with pytest.raises(grpc.RpcError) as caught:
        ask("explode")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "out_of_range" in caught.value.details()
