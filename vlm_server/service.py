"""The three services: requests in, checked; replies out, with who answered.

Exceptions become status codes around them (``interception.Refusals``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from vlm_server import admission, batching, datasets, jobs, malformed, requests, tasks
from vlm_server.adapters import BASE, AdapterRecord
from vlm_server.engine import Reply
from vlm_server.limits import Limits
from vlm_server.metrics import Metrics
from vlm_server.models import Vlm
from vlm_server.orders import Order
from vlm_server.refusals import Refusal, exhausted, invalid, not_found
from vlm_server.serving import Pinned, ServedAdapters
from vlm_server.tuner import Made, Tuner

PROTOCOL = "1.1"
_STATUS = {
    "ok": pb.REPLY_STATUS_OK,
    "clipped": pb.REPLY_STATUS_CLIPPED,
    "malformed": pb.REPLY_STATUS_MALFORMED,
}
_STATES = {
    jobs.QUEUED: pb.JOB_STATE_QUEUED,
    jobs.RUNNING: pb.JOB_STATE_RUNNING,
    jobs.DONE: pb.JOB_STATE_DONE,
    jobs.FAILED: pb.JOB_STATE_FAILED,
    jobs.CANCELLED: pb.JOB_STATE_CANCELLED,
}


def _reference(pinned: Pinned) -> pb.AdapterRef:
    return pb.AdapterRef(version=pinned.version, digest=pinned.digest)


class PriorService(pb_grpc.PriorServiceServicer):
    """Questions."""

    def __init__(
        self,
        vlm: Vlm,
        limits: Limits,
        adapters: ServedAdapters,
        batcher: batching.Batcher,
        metrics: Metrics,
        inject_faults: bool,
        constrains: bool,
    ):
        """
        Args:
            constrains: whether the engine can write nothing but replies that parse.
        """
        self._vlm, self._limits, self._adapters, self._batcher = vlm, limits, adapters, batcher
        self._metrics, self._inject_faults, self._constrains = metrics, inject_faults, constrains

    def GetServerInfo(self, request, context):
        requests.protocol(request.protocol_version, PROTOCOL)
        vlm, limits = self._vlm, self._limits
        return pb.GetServerInfoResponse(
            protocol_version=PROTOCOL,
            model=vlm.name,
            model_digest=vlm.digest,
            model_type=vlm.model_type,
            parameters=vlm.parameters,
            limits=pb.Limits(**dataclasses.asdict(limits)),
            tasks=[_task_info(task) for task in tasks.TASKS.values()],
            fault_injection=self._inject_faults,
        )

    def Predict(self, request, context):
        task = requests.task(request.task)
        observations = requests.observations(request, task, self._limits)
        defaults = self._vlm.defaults
        prompts = requests.prompts(observations, task, defaults.prompt_style, self._limits)
        constrained, tokens = requests.decoding(
            request.decoding, task, self._limits, defaults.constrained, defaults.max_new_tokens
        )
        if constrained and not self._constrains:
            raise invalid("decoding.constraint: this server's backend writes freely; ask with CONSTRAINT_FREE")
        run, version = requests.adapter(request.run, request.adapter)
        with self._adapters.pinned(run, version) as pinned:
            shape = observations[0].frame.shape
            question = batching.Question(task, pinned.key, constrained, tokens, shape)
            future = self._batcher.submit(question, observations, admission.client(context, run))
            if not context.add_callback(future.cancel):
                future.cancel()  # the call is over already
            answer = future.result()
        self._metrics.answered(answer)
        return pb.PredictResponse(
            predictions=[
                self._prediction(task, reply, prompt, tokens)
                for reply, prompt in zip(answer.replies, prompts, strict=True)
            ],
            adapter=_reference(pinned),
            timings=pb.Timings(
                queue_ms=answer.queue_ms,
                encode_ms=answer.encode_ms,
                generate_ms=answer.generate_ms,
                batch_size=answer.batch_size,
            ),
        )

    def _prediction(self, task: tasks.Task, reply: Reply, prompt: str, max_tokens: int) -> pb.Prediction:
        action, status = task.parse(reply.text)
        why = malformed.reason(task, reply.text, reply.new_tokens >= max_tokens) if action is None else ""
        self._metrics.replied(status, reply.new_tokens, why)
        return pb.Prediction(
            status=_STATUS[status],
            action=action or (),
            text=reply.text,
            new_tokens=reply.new_tokens,
            prompt=prompt,
        )


class TuningService(pb_grpc.TuningServiceServicer):
    """Fine-tuning jobs."""

    def __init__(
        self,
        vlm: Vlm,
        limits: Limits,
        adapters: ServedAdapters,
        sets: datasets.DataSets,
        tuner: Tuner,
        targets: tuple[str, ...],
    ):
        """
        Args:
            targets: of ``TuningConfig``, whose adapters the engine serves.
        """
        self._vlm, self._limits, self._adapters, self._sets, self._tuner = vlm, limits, adapters, sets, tuner
        self._targets = targets

    def UploadSamples(self, request_iterator, context):
        first = next(request_iterator, pb.UploadSamplesRequest())
        if first.WhichOneof("part") != "header":
            raise invalid("header: must be the first message of an upload")
        task, run = requests.task(first.header.task), requests.run(first.header.run)
        most = self._limits.max_tuning_samples
        with self._sets.upload(run, task) as upload:
            for message in request_iterator:
                if message.WhichOneof("part") != "chunk":
                    raise invalid("chunk: every message after the header must hold one")
                for sample in message.chunk.samples:
                    index = len(upload.samples)
                    if index == most:
                        raise invalid(f"samples: a data set may hold {most} (max_tuning_samples)")
                    try:
                        upload.append(requests.sample(sample, task, self._limits, index))
                    except datasets.NoRoom:
                        room = self._limits.max_uploaded_bytes
                        raise exhausted(
                            f"samples: uploads fill the {room} bytes they may (max_uploaded_bytes)"
                        ) from None
            if not upload.samples:
                raise invalid("samples: a data set needs at least one")
            data = upload.finish()
        return pb.UploadSamplesResponse(dataset=data.id, samples=len(data.samples), digest=data.digest)

    def StartTuning(self, request, context):
        run, request_id = requests.run(request.run), requests.request_id(request.request_id)
        config = requests.tuning_config(request.config, self._vlm.defaults.tuning, self._limits)
        if config.targets not in self._targets:
            raise invalid(f"config.targets: this server's backend serves {', '.join(self._targets)} alone")
        job = self._tuner.jobs.find(run, request_id) if request_id else None
        if job is None:
            version = requests.version(request.parent, "parent") if request.parent else ""
            gated, selection = requests.promotion(request.promotion), requests.selection(request)
            most, keep = self._limits.max_adapters_per_run, request.keep_latest
            full = len(self._adapters.list(run)) >= most and not 0 < keep <= most
            if full and not (request_id and self._adapters.made_by(run, request_id)):
                raise exhausted(
                    f"run: {run} has the {most} adapter versions that it may (max_adapters_per_run); "
                    "delete some, or set keep_latest"
                )
            with self._adapters.pinned(run, version) as parent, self._taken(request.dataset, run) as data:
                requests.tuning_steps(config, len(data.samples), self._limits)
                ident = uuid.uuid4().hex
                order = Order(
                    job=ident,
                    run=run,
                    request_id=request_id or ident,
                    task=data.task.name,
                    samples=data.digest,
                    parent=parent.version,
                    base_digest=self._vlm.digest,
                    config=config,
                    activate=request.activate,
                    gated=gated,
                    keep_latest=keep,
                    selection=selection,
                )
                job = self._submit(order, data)
        return pb.StartTuningResponse(job=job.id)

    @contextmanager
    def _taken(self, dataset: str, run: str) -> Iterator[datasets.DataSet]:
        data = self._sets.take(dataset, run)
        if data is None:
            raise not_found(f"dataset: run {run} has none called {dataset[:80]!r}; upload it (again)")
        try:
            yield data
        finally:
            self._sets.release(dataset)

    def _submit(self, order: Order, data: datasets.DataSet) -> jobs.Job:
        try:
            return self._tuner.submit(order, data)
        except jobs.QueueFull:
            most = self._limits.max_queued_jobs
            raise exhausted(f"{most} tuning jobs wait in the queue (max_queued_jobs); try again later") from None

    def WatchTuning(self, request, context):
        job = self._job(request.job)
        for progress in self._tuner.jobs.watch(job, context.is_active):
            yield pb.WatchTuningResponse(
                state=_STATES[progress.state],
                step=progress.step,
                steps=progress.steps,
                loss=progress.loss,
                result=progress.result and _tuning_result(progress.result),
                error=progress.error,
            )

    def CancelTuning(self, request, context):
        progress = self._tuner.cancel(self._job(request.job))
        return pb.CancelTuningResponse(state=_STATES[progress.state])

    def _job(self, ident: str) -> jobs.Job:
        job = self._tuner.jobs.get(ident)
        if job is None:
            raise not_found(f"job: there is none called {ident[:80]!r}")
        return job


class AdapterService(pb_grpc.AdapterServiceServicer):
    """Versions of adapters."""

    def __init__(self, adapters: ServedAdapters, vlm: Vlm):
        self._adapters = adapters
        self._base = Pinned(BASE, vlm.digest)

    def ListAdapters(self, request, context):
        run = requests.run(request.run)
        active = self._adapters.active(run)
        versions = [self._info(record, active) for record in self._adapters.list(run)]
        return pb.ListAdaptersResponse(adapters=[self._base_info(active), *versions])

    def GetAdapter(self, request, context):
        run, version = requests.run(request.run), requests.version(request.version, "version")
        active = self._adapters.active(run)
        if version == BASE:
            return pb.GetAdapterResponse(adapter=self._base_info(active))
        return pb.GetAdapterResponse(adapter=self._info(self._adapters.get(run, version), active))

    def ActivateAdapter(self, request, context):
        run, version = requests.run(request.run), requests.version(request.version, "version")
        return pb.ActivateAdapterResponse(adapter=_reference(self._adapters.activate(run, version)))

    def RollBackAdapter(self, request, context):
        run = requests.run(request.run)
        pinned = self._adapters.roll_back(run)
        if pinned is None:
            words = f"run: {run} has no version that was active before the one that is"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, words)
        return pb.RollBackAdapterResponse(adapter=_reference(pinned))

    def DeleteAdapter(self, request, context):
        run, version = requests.run(request.run), requests.version(request.version, "version")
        if version == BASE:
            raise invalid("version: base always exists")
        self._adapters.delete(run, version)
        return pb.DeleteAdapterResponse()

    def _base_info(self, active: str) -> pb.AdapterInfo:
        return pb.AdapterInfo(adapter=_reference(self._base), active=active == BASE, manifest_json="{}")

    def _info(self, record: AdapterRecord, active: str) -> pb.AdapterInfo:
        return pb.AdapterInfo(
            adapter=pb.AdapterRef(version=record.version, digest=record.digest),
            parent=record.parent,
            active=record.version == active,
            manifest_json=json.dumps(record.manifest, sort_keys=True),
        )


def _task_info(task: tasks.Task) -> pb.TaskInfo:
    actions = [pb.ActionInfo(name=a.name, low=a.low, high=a.high, sign=a.sign) for a in task.actions]
    return pb.TaskInfo(name=task.name, actions=actions, state=task.state_names)


def _tuning_result(made: Made) -> pb.TuningResult:
    adapter = pb.AdapterRef(version=made.version, digest=made.digest)
    result = pb.TuningResult(adapter=adapter, activated=made.activated, not_activated=made.not_activated)
    for name in result.DESCRIPTOR.fields_by_name.keys() & made.statistics.keys():
        setattr(result, name, math.nan if made.statistics[name] is None else made.statistics[name])
    return result
