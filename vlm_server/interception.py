"""Handlers of calls, wrapped: what must hold around every call of a server, in one place."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc

from vlm_server.refusals import Refusal, refusing

Around = Callable[[grpc.ServicerContext], AbstractContextManager[None]]

_MAKERS = {  # by (streams requests, streams replies)
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}


def wrapped(handler: grpc.RpcMethodHandler, around: Around) -> grpc.RpcMethodHandler:
    """The same handler, its whole call inside ``around(context)``."""
    name, make = _MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)]
    inner = getattr(handler, name)
    if hasattr(inner, "experimental_non_blocking"):  # the watching of health, which holds no thread
        return handler
    if handler.response_streaming:

        def run(request, context):
            with around(context):
                yield from inner(request, context)
    else:

        def run(request, context):
            with around(context):
                return inner(request, context)

    return make(run, handler.request_deserializer, handler.response_serializer)


def refusal(error: Refusal) -> grpc.RpcMethodHandler:
    """Answers any call with a refusal and does not read its messages first."""

    def run(request_iterator, context):
        context.abort(error.code, str(error))

    return grpc.stream_unary_rpc_method_handler(run)


class Refusals(grpc.ServerInterceptor):
    """Turns every exception of a handler into a status code and one line; see ``refusals``."""

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        return handler and wrapped(handler, refusing)
