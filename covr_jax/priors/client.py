"""The gRPC client of a prior server (covr.prior.v1): asks, tunes, activates."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence

import grpc
from covr.prior.channel import connect
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from covr_jax.config import RoundsConfig
from covr_jax.priors import wire
from covr_jax.priors.source import PriorUnavailable, Progress, TuningFailed
from covr_jax.types import Label, Observation, Sample, TuningReport

PROTOCOL = "1.1"  # of covr.prior.v1; servers of another major version are refused
CHUNK_BYTES = 1_900_000  # of one upload message; below the 2 MB that any server takes


class GrpcPrior:
    """One task and one run on one prior server. Thread-safe; every call has a deadline.

    ``version`` is the adapter version that answers now, as far as this client knows ("base": none), ``digest`` that
    of its weights (of the base model's for "base"; "" before it is known).

    Args:
      address: "host:port", "grpc://host:port", "grpcs://host:port" (TLS) or "unix:path".
      task: name that the server knows, e.g. "dmc/cartpole/swingup".
      run: namespace of the adapters; "" asks the base model and cannot be tuned.
      deadline_s: of one call of predict, seconds.
      constraint: "default", "free" or "template" decoding.
      token_file: holds the token that the server wants; "": none.
      ca_file: PEM certificates that the server's is checked against; "": the system's.

    Raises (one line each):
      PriorUnavailable: nobody answers at the address.
      ValueError: the server speaks another major version or does not know the task; bad arguments.
    """

    def __init__(
        self,
        address: str,
        task: str,
        run: str = "",
        deadline_s: float = 60.0,
        constraint: str = "default",
        token_file: str = "",
        ca_file: str = "",
    ):
        if constraint not in wire.CONSTRAINTS:
            raise ValueError(f"prior.constraint is {constraint!r}; allowed: {', '.join(wire.CONSTRAINTS)}")
        if not deadline_s > 0:
            raise ValueError(f"prior.deadline_s is {deadline_s}; it must be above 0 seconds")
        self.address = address.removeprefix("grpcs://").removeprefix("grpc://")
        self.task = task
        self.run = run
        self.deadline_s = deadline_s
        self._files = token_file, ca_file
        self._decoding = pb.Decoding(constraint=wire.CONSTRAINTS[constraint])
        with connect(address, 4 << 20, *self._files) as channel:
            info = self._info(pb_grpc.PriorServiceStub(channel))
        known = self._checked_task(info)
        self.limits = info.limits
        self.action_dim = len(known.actions)
        self._state_names = tuple(known.state)
        self._channel = connect(address, info.limits.max_message_bytes or 4 << 20, *self._files)
        self._prior = pb_grpc.PriorServiceStub(self._channel)
        self._tuning = pb_grpc.TuningServiceStub(self._channel)
        self._adapters = pb_grpc.AdapterServiceStub(self._channel)
        self.version, self.digest = self._active()

    def info(self) -> pb.GetServerInfoResponse:
        """Model, limits and tasks of the server, asked now."""
        return self._info(self._prior)

    def predict(self, observations: Sequence[Observation]) -> list[Label]:
        """One label per observation, in order.

        An answer of the wrong length, with NaN or outside [-1, 1] is a label with status "malformed". More
        observations than a request may hold go out as several requests, all within one deadline.

        Raises:
          PriorUnavailable: no answer within the deadline, an RPC error, or the wrong number of answers.
          ValueError: a frame that is not uint8 [H, W, 3].
        """
        end = time.monotonic() + self.deadline_s
        labels: list[Label] = []
        limits = self.limits
        messages = [wire.observation(seen.frame, seen.state, self._state_names) for seen in observations]
        room = (limits.max_message_bytes or 4 << 20) - 4096  # task, run and framing
        count = limits.max_frames_per_request or len(messages)
        if limits.max_pixels_per_request and messages:
            largest = max(each.frame.height * each.frame.width for each in messages)
            count = max(1, min(count, limits.max_pixels_per_request // largest))
        for part in wire.chunks(messages, count, room):
            request = pb.PredictRequest(
                task=self.task,
                run=self.run,
                # By name: a job that a killed learner had ordered may activate its version at any time.
                adapter=self.version if self.run else "",
                observations=part,
                decoding=self._decoding,
            )
            try:
                reply = self._prior.Predict(request, timeout=_left(end))
            except (grpc.RpcError, ValueError) as error:  # grpc raises ValueError on a closed channel
                raise PriorUnavailable(self._line("Predict", error)) from error
            if len(reply.predictions) != len(part):
                raise PriorUnavailable(
                    f"prior server at {self.address} gave {len(reply.predictions)} answers to {len(part)} "
                    "questions; check its version"
                )
            labels += [wire.label(answer, reply.adapter, self.action_dim) for answer in reply.predictions]
        return labels

    def activate(self, version: str) -> tuple[str, str]:
        """Makes an adapter version ("base": none) answer for this run; its (version, digest).

        Raises PriorUnavailable on any RPC error, an unknown version included.
        """
        request = pb.ActivateAdapterRequest(run=self.run, version=version)
        try:
            adapter = self._adapters.ActivateAdapter(request, timeout=self.deadline_s).adapter
        except (grpc.RpcError, ValueError) as error:
            raise PriorUnavailable(self._line(f"ActivateAdapter({version})", error)) from error
        self.version, self.digest = adapter.version, adapter.digest
        return self.version, self.digest

    def tune(
        self,
        samples: Sequence[Sample],
        config: RoundsConfig,
        seed: int,
        parent: str = "",
        progress: Progress | None = None,
        selection: Mapping[str, float] | None = None,
    ) -> TuningReport:
        """Uploads the samples, tunes a version from ``parent`` ("": the one that answers) and activates it.

        Returns when the job has ended, within ``config.deadline_s`` seconds. The same samples, settings and parent
        give the version that they gave before: a run that was killed in a round and resumed finds it.
        ``selection`` says how the samples were chosen; what is finite of it goes into the version's lineage.

        Raises:
          TuningFailed: the job failed or was late (it is then cancelled), or an RPC error.
          ValueError: a value of ``config`` that the server would take for "my default".
        """
        tuning = wire.tuning_config(config, seed)
        limit = self.limits.max_tuning_samples
        if limit and len(samples) > limit:
            raise TuningFailed(
                f"{len(samples)} samples are over the {limit} that the prior server at {self.address} takes"
            )
        end = time.monotonic() + config.deadline_s
        parent = parent or (self.version if self.run else "")  # which another job may have replaced on the server
        job = ""
        try:
            uploaded = self._tuning.UploadSamples(self._upload(samples), timeout=_left(end))
            request = pb.StartTuningRequest(
                run=self.run,
                dataset=uploaded.dataset,
                parent=parent,
                config=tuning,
                activate=True,
                request_id=_request_id(parent, uploaded.digest, tuning),
                promotion=wire.PROMOTIONS[config.promotion],
                keep_latest=config.keep_adapters,
                selection={name: value for name, value in (selection or {}).items() if math.isfinite(value)},
            )
            job = self._tuning.StartTuning(request, timeout=_left(end)).job
            last = self._watch(job, end, progress)
        except BaseException as error:  # Ctrl-C too: nobody waits for the job any more
            if job:
                self._cancel(job)
            if isinstance(error, grpc.RpcError | ValueError):
                raise TuningFailed(self._line("tuning", error)) from error
            raise
        if last.state != pb.JOB_STATE_DONE or not last.HasField("result"):
            state = wire.JOB_STATES.get(last.state, "unknown")
            reason = " ".join(last.error.split()) or "the server gives no reason"
            raise TuningFailed(f"tuning at {self.address} ended as {state}: {reason}")
        if last.result.activated:
            self.version, self.digest = last.result.adapter.version, last.result.adapter.digest
        return wire.report(last.result)

    def close(self) -> None:
        """Closes the channel; calls in flight end with PriorUnavailable or TuningFailed."""
        self._channel.close()

    def _info(self, stub: pb_grpc.PriorServiceStub) -> pb.GetServerInfoResponse:
        try:
            request = pb.GetServerInfoRequest(protocol_version=PROTOCOL)
            return stub.GetServerInfo(request, timeout=self.deadline_s)
        except (grpc.RpcError, ValueError) as error:
            line = self._line("GetServerInfo", error)
            refused = isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.FAILED_PRECONDITION
            raise ValueError(line) if refused else PriorUnavailable(line) from error

    def _active(self) -> tuple[str, str]:
        """Version and digest of what answers for this run."""
        if not self.run:
            return "base", ""
        try:
            reply = self._adapters.ListAdapters(pb.ListAdaptersRequest(run=self.run), timeout=self.deadline_s)
        except grpc.RpcError as error:
            self._channel.close()
            raise PriorUnavailable(self._line("ListAdapters", error)) from error
        known = (known.adapter for known in reply.adapters if known.active)
        return next(((adapter.version, adapter.digest) for adapter in known), ("base", ""))

    def _checked_task(self, info: pb.GetServerInfoResponse) -> pb.TaskInfo:
        major = PROTOCOL.partition(".")[0]
        if info.protocol_version.partition(".")[0] != major:
            raise ValueError(
                f"prior server at {self.address} speaks protocol {info.protocol_version!r}; "
                f"this learner needs {major}.x"
            )
        for known in info.tasks:
            if known.name == self.task:
                return known
        names = ", ".join(sorted(known.name for known in info.tasks)) or "none"
        raise ValueError(f"prior server at {self.address} does not know task {self.task!r}; it knows {names}")

    def _upload(self, samples: Sequence[Sample]) -> Iterator[pb.UploadSamplesRequest]:
        yield pb.UploadSamplesRequest(header=pb.UploadHeader(task=self.task, run=self.run))
        messages = (wire.sample(each, self._state_names) for each in samples)
        room = min(CHUNK_BYTES, (self.limits.max_message_bytes or CHUNK_BYTES) - 64)
        for part in wire.chunks(messages, len(samples), room):
            yield pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=part))

    def _watch(self, job: str, end: float, progress: Progress | None) -> pb.WatchTuningResponse:
        last = pb.WatchTuningResponse(error="the server ended the stream early")
        for last in self._tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=_left(end)):
            if progress is not None and last.state == pb.JOB_STATE_RUNNING:
                progress(last.step, last.steps, last.loss)
        return last

    def _cancel(self, job: str) -> None:
        try:
            self._tuning.CancelTuning(pb.CancelTuningRequest(job=job), timeout=min(5.0, self.deadline_s))
        except (grpc.RpcError, ValueError):
            pass  # the first error is the one to tell

    def _line(self, what: str, error: Exception) -> str:
        """One line for a person: call, code, address, the server's words, what to do."""
        if not isinstance(error, grpc.RpcError):
            return f"{what} at {self.address}: {error}"
        code, details = error.code(), " ".join((error.details() or "").split())
        hint = {
            grpc.StatusCode.UNAVAILABLE: "start one with python -m vlm_server, or check the address",
            grpc.StatusCode.DEADLINE_EXCEEDED: "it hangs or is slow; raise the deadline or restart it",
            grpc.StatusCode.RESOURCE_EXHAUSTED: "ask less often or raise the server's limits",
            grpc.StatusCode.UNIMPLEMENTED: "this is no prior server, or an old one",
            grpc.StatusCode.UNAUTHENTICATED: "set prior.token_file",
            grpc.StatusCode.PERMISSION_DENIED: "get a token with that scope from python -m vlm_server.tokens",
        }.get(code, "see the server's log")
        return f"{what} failed with {code.name} at prior server {self.address} ({details[:300]}); {hint}"


def _request_id(parent: str, samples_digest: str, config: pb.TuningConfig) -> str:
    """32 hex digits, a function of what is asked for."""
    parts = (parent.encode(), samples_digest.encode(), config.SerializeToString(deterministic=True))
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).hexdigest()[:32]


def _left(end: float) -> float:
    """Seconds until ``end``; just above zero when it has passed, so that the call itself reports it."""
    return max(end - time.monotonic(), 1e-3)
