"""Requests that are not served: a status code and one line.

What goes wrong inside is logged under an error id, and the caller is told the id alone: texts of exceptions
may hold paths and more.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

import grpc

from vlm_server import batching, jobs
from vlm_server.adapter_errors import AdapterInUse, AdapterInvalid, AdapterNotFound, NoRoom

_log = logging.getLogger(__name__)


class Refusal(Exception):
    """A request that is not served, with the status code and the line that its caller gets."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


def invalid(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.NOT_FOUND, message)


def exhausted(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, message)


@contextmanager
def refusing(context: grpc.ServicerContext) -> Iterator[None]:
    """Turns every exception of a handler into a status code and one line."""
    try:
        yield
        return
    except Refusal as error:
        code, line = error.code, str(error)
    except AdapterNotFound as error:
        code, line = grpc.StatusCode.NOT_FOUND, str(error)
    except (AdapterInvalid, AdapterInUse) as error:
        code, line = grpc.StatusCode.FAILED_PRECONDITION, str(error)
    except NoRoom as error:
        code, line = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    except batching.QueueFull as error:
        code, line = grpc.StatusCode.RESOURCE_EXHAUSTED, f"the queue is full: {error}; try again later"
    except batching.Closed:
        code, line = grpc.StatusCode.UNAVAILABLE, "the server is shutting down"
    except jobs.Closed:
        code, line = grpc.StatusCode.UNAVAILABLE, "the server is shutting down; open jobs go on when it is back"
    except (CancelledError, grpc.RpcError):
        code, line = grpc.StatusCode.CANCELLED, "the caller has gone"
    except Exception:
        ident = uuid.uuid4().hex[:12]
        _log.exception("a call failed (error %s)", ident)
        code, line = grpc.StatusCode.INTERNAL, f"internal error {ident}; the server's log has the details"
    context.abort(code, " ".join(line.split())[:1000])
