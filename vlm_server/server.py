"""One prior server: the model, its services on gRPC, health, start and drain."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vlm_server import tasks, tuning_folder
from vlm_server.access import Access, Token
from vlm_server.adapters import AdapterStore
from vlm_server.admission import SPARE_CALLS, Admission
from vlm_server.backends import Backend
from vlm_server.batching import Batcher, Question
from vlm_server.datasets import DataSets
from vlm_server.defaults import TARGETS
from vlm_server.engine import Engine, Observation
from vlm_server.faults import Faults
from vlm_server.interception import Refusals
from vlm_server.limits import Limits
from vlm_server.metrics import Metrics
from vlm_server.models import Vlm
from vlm_server.orders import OrderBook
from vlm_server.service import AdapterService, PriorService, TuningService
from vlm_server.serving import ResidentEngine, ServedAdapters
from vlm_server.tuner import Tuner
from vlm_server.tuning_processes import TuningProcesses, check

SERVICES = tuple(service.full_name for service in pb.DESCRIPTOR.services_by_name.values())


class Server:
    """Answers about one model; not started until ``start``.

    Args:
        vlm: the loaded model.
        adapters: folder of the adapter versions; made if it does not exist.
        limits: what requests may ask for.
        tokens: who may call what; empty: everybody everything.
        inject_faults: whether callers may ask for spoiled answers.
        max_batch: frames answered together.
        max_delay_ms: how long a question waits for company.
        max_resident: adapters kept in memory.
        reflect: whether gRPC reflection is answered.
        keep_prefixes: whether the text before a picture is read once for each adapter and prompt.
        adapters_wait_s: how long another server may take to leave ``adapters``, seconds.
        tuning_processes: that a tuning job runs in; 1: this one.
        backend: what computes answers; None: transformers, with ``keep_prefixes``.

    Raises:
        ValueError: another server uses ``adapters``, or there are fewer GPUs than tuning processes.
    """

    def __init__(
        self,
        vlm: Vlm,
        adapters: str | Path,
        limits: Limits,
        *,
        tokens: Sequence[Token] = (),
        inject_faults: bool = False,
        max_batch: int = 16,
        max_delay_ms: float = 2.0,
        max_resident: int = 4,
        reflect: bool = True,
        keep_prefixes: bool = False,
        adapters_wait_s: float = 0.0,
        tuning_processes: int = 1,
        backend: Backend | None = None,
    ):
        check(vlm.device, tuning_processes)
        self._store = store = AdapterStore(adapters, vlm.digest, adapters_wait_s, limits.max_adapter_bytes)
        self._engine = Engine(vlm, keep_prefixes) if backend is None else backend
        self._constrains = backend is None or backend.constrains
        engine = ResidentEngine(self._engine, store, max_resident)
        self.metrics = metrics = Metrics()
        self._batcher = Batcher(engine, max_batch, max_delay_ms, limits.max_queue, limits.max_queue_per_client)
        served = ServedAdapters(store, engine, self._batcher, vlm.digest, metrics.activated, metrics.paused)
        datasets = DataSets(limits.max_uploaded_bytes)
        book = OrderBook(adapters, store.check_room)
        tuning_folder.remove_leftovers(adapters)
        train = TuningProcesses(adapters, tuning_processes).train if tuning_processes > 1 else None
        self._tuner = tuner = Tuner(vlm, served, datasets, book, limits.max_queued_jobs, metrics.job_ended, train)
        metrics.watch("queue_frames", "Frames that wait.", lambda: self._batcher.waiting)
        spared = "Questions whose text was not read again."
        metrics.watch("prefixes_reused", spared, lambda: self._engine.prefixes_reused)
        metrics.watch("tuning_jobs_waiting", "Tuning jobs that wait.", lambda: tuner.jobs.waiting)
        metrics.watch("tuning_step", "Step of the job that runs, 0 without one.", lambda: tuner.jobs.running.step)
        metrics.watch("tuning_steps", "Steps that it will have.", lambda: tuner.jobs.running.steps)
        metrics.watch("tuning_loss", "Weighted loss of its latest step.", lambda: tuner.jobs.running.loss)
        self._health = health.HealthServicer()
        self._grpc = grpc.server(
            # As many threads as calls, so that a call which is let in never waits for one.
            futures.ThreadPoolExecutor(limits.max_concurrent_calls + SPARE_CALLS, thread_name_prefix="rpc"),
            interceptors=[
                *([Access(tokens)] if tokens else []),
                metrics,
                Refusals(),
                Admission(limits),
                *([Faults()] if inject_faults else []),
            ],
            maximum_concurrent_rpcs=limits.max_concurrent_calls + SPARE_CALLS,
            options=[
                ("grpc.max_receive_message_length", limits.max_message_bytes),
                ("grpc.max_send_message_length", limits.max_message_bytes),
                # On by default, and then a second server binds the same port without an error.
                ("grpc.so_reuseport", 0),
                # A learner that waits for a tuning job may ping as often as this.
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        prior = PriorService(vlm, limits, served, self._batcher, metrics, inject_faults, self._constrains)
        pb_grpc.add_PriorServiceServicer_to_server(prior, self._grpc)
        tuning = TuningService(vlm, limits, served, datasets, tuner, TARGETS if backend is None else backend.targets)
        pb_grpc.add_TuningServiceServicer_to_server(tuning, self._grpc)
        pb_grpc.add_AdapterServiceServicer_to_server(AdapterService(served, vlm), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if reflect:
            names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._grpc)
        self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
        """Binds, warms the model up, serves; returns the bound address, with the port that 0 became.

        Args:
            credentials: of TLS; None: no TLS.

        Raises:
            ValueError: the address cannot be bound, or the model answers otherwise with kept prefixes.
        """
        if address.startswith("unix:") and _answers(address.removeprefix("unix:")):
            raise ValueError(f"address: somebody listens on {address} already")  # gRPC would take it from them
        before = os.umask(0o177)  # a unix socket is for its owner alone
        try:
            if credentials is None:
                port = self._grpc.add_insecure_port(address)
            else:
                port = self._grpc.add_secure_port(address, credentials)
        except RuntimeError:
            port = 0
        finally:
            os.umask(before)
        if not port:
            raise ValueError(f"address: cannot listen on {address}; is it in use?")
        self._batcher.call(self._engine.check_prefixes).result()
        self._tuner.resume()  # before anybody can order the same again
        self._grpc.start()
        self._warm_up()
        self._report(health_pb2.HealthCheckResponse.SERVING)
        return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, lets running ones end within ``grace_s`` seconds, puts tuning off to the next start."""
        end = time.monotonic() + grace_s
        self._health.enter_graceful_shutdown()
        stopped = self._grpc.stop(grace_s)
        self._tuner.close(grace_s)
        stopped.wait()
        self._batcher.close(max(0.0, end - time.monotonic()))
        self._store.close()

    def _report(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *SERVICES):
            self._health.set(name, status)

    def _warm_up(self) -> None:
        """One answer of each kind, so that the first caller does not pay for what is built on first use."""
        task = next(iter(tasks.TASKS.values()))
        frame = np.zeros((84, 84, 3), np.uint8)
        for constrained in (False, True) if self._constrains else (False,):
            question = Question(task, None, constrained, task.max_reply_tokens, frame.shape)
            self._batcher.submit(question, [Observation(frame, {})]).result()


def _answers(path: str) -> bool:
    """Whether somebody accepts connections on a unix socket; what a crash left behind does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
