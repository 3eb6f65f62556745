"""Spoiled answers on request, so that a learner's guard can be tried: a test server's, on this machine alone.

A call of ``Predict`` with the metadata ``x-fault: <kind>`` is answered as that kind says.
"""

from __future__ import annotations

import grpc
from covr.prior.v1 import prior_pb2 as pb

from vlm_server.refusals import Refusal, invalid

KINDS = ("nan", "out_of_range", "wrong_length", "malformed", "too_few", "too_many", "garbage", "unavailable")
_PREDICT = "/covr.prior.v1.PriorService/Predict"


class Faults(grpc.ServerInterceptor):
    """Spoils the answers of calls that ask for it."""

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        kind = dict(details.invocation_metadata or ()).get("x-fault")
        if handler is None or kind is None or details.method != _PREDICT:
            return handler

        def run(request, context):
            if kind not in KINDS:
                raise invalid(f"x-fault: must be one of {', '.join(KINDS)}")
            if kind == "unavailable":
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "injected fault")
            reply = handler.unary_unary(request, context)
            return b"\xff\xfe" if kind == "garbage" else spoiled(reply, kind).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(run, handler.request_deserializer, None)


def spoiled(reply: pb.PredictResponse, kind: str) -> pb.PredictResponse:
    """The reply with every prediction, or their number, made wrong."""
    if kind == "too_few":
        del reply.predictions[-1]
    elif kind == "too_many":
        reply.predictions.append(reply.predictions[0])
    for prediction in reply.predictions:
        count = len(prediction.action)
        if kind == "malformed":
            prediction.status = pb.REPLY_STATUS_MALFORMED
            del prediction.action[:]
        elif kind == "wrong_length":
            prediction.action.append(0.0)
        elif kind in ("nan", "out_of_range"):
            prediction.action[:] = [float("nan") if kind == "nan" else 7.5] * count
    return reply
