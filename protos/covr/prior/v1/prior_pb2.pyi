from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReplyStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_STATUS_UNSPECIFIED: _ClassVar[ReplyStatus]
    REPLY_STATUS_OK: _ClassVar[ReplyStatus]
    REPLY_STATUS_CLIPPED: _ClassVar[ReplyStatus]
    REPLY_STATUS_MALFORMED: _ClassVar[ReplyStatus]

class Promotion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROMOTION_UNSPECIFIED: _ClassVar[Promotion]
    PROMOTION_ALWAYS: _ClassVar[Promotion]
    PROMOTION_HOLDOUT_IMPROVES: _ClassVar[Promotion]

class JobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    JOB_STATE_UNSPECIFIED: _ClassVar[JobState]
    JOB_STATE_QUEUED: _ClassVar[JobState]
    JOB_STATE_RUNNING: _ClassVar[JobState]
    JOB_STATE_DONE: _ClassVar[JobState]
    JOB_STATE_FAILED: _ClassVar[JobState]
    JOB_STATE_CANCELLED: _ClassVar[JobState]
REPLY_STATUS_UNSPECIFIED: ReplyStatus
REPLY_STATUS_OK: ReplyStatus
REPLY_STATUS_CLIPPED: ReplyStatus
REPLY_STATUS_MALFORMED: ReplyStatus
PROMOTION_UNSPECIFIED: Promotion
PROMOTION_ALWAYS: Promotion
PROMOTION_HOLDOUT_IMPROVES: Promotion
JOB_STATE_UNSPECIFIED: JobState
JOB_STATE_QUEUED: JobState
JOB_STATE_RUNNING: JobState
JOB_STATE_DONE: JobState
JOB_STATE_FAILED: JobState
JOB_STATE_CANCELLED: JobState

class GetServerInfoRequest(_message.Message):
    __slots__ = ("protocol_version",)
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    def __init__(self, protocol_version: _Optional[str] = ...) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("protocol_version", "model", "model_digest", "model_type", "parameters", "limits", "tasks", "fault_injection")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_DIGEST_FIELD_NUMBER: _ClassVar[int]
    MODEL_TYPE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    FAULT_INJECTION_FIELD_NUMBER: _ClassVar[int]
    protocol_version: str
    model: str
    model_digest: str
    model_type: str
    parameters: int
    limits: Limits
    tasks: _containers.RepeatedCompositeFieldContainer[TaskInfo]
    fault_injection: bool
    def __init__(self, protocol_version: _Optional[str] = ..., model: _Optional[str] = ..., model_digest: _Optional[str] = ..., model_type: _Optional[str] = ..., parameters: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[TaskInfo, _Mapping]]] = ..., fault_injection: bool = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_message_bytes", "max_frames_per_request", "min_side", "max_side", "max_new_tokens", "max_queue", "max_concurrent_calls", "max_tuning_samples", "max_adapters_per_run", "max_pixels_per_request", "max_prompt_chars", "max_queue_per_client", "max_calls_per_client", "max_uploaded_bytes", "max_queued_jobs", "max_adapter_bytes", "max_state_value", "max_tuning_rank", "max_tuning_steps")
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAMES_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MIN_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_SIDE_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENT_CALLS_FIELD_NUMBER: _ClassVar[int]
    MAX_TUNING_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    MAX_ADAPTERS_PER_RUN_FIELD_NUMBER: _ClassVar[int]
    MAX_PIXELS_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_PROMPT_CHARS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_PER_CLIENT_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_PER_CLIENT_FIELD_NUMBER: _ClassVar[int]
    MAX_UPLOADED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUED_JOBS_FIELD_NUMBER: _ClassVar[int]
    MAX_ADAPTER_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STATE_VALUE_FIELD_NUMBER: _ClassVar[int]
    MAX_TUNING_RANK_FIELD_NUMBER: _ClassVar[int]
    MAX_TUNING_STEPS_FIELD_NUMBER: _ClassVar[int]
    max_message_bytes: int
    max_frames_per_request: int
    min_side: int
    max_side: int
    max_new_tokens: int
    max_queue: int
    max_concurrent_calls: int
    max_tuning_samples: int
    max_adapters_per_run: int
    max_pixels_per_request: int
    max_prompt_chars: int
    max_queue_per_client: int
    max_calls_per_client: int
    max_uploaded_bytes: int
    max_queued_jobs: int
    max_adapter_bytes: int
    max_state_value: float
    max_tuning_rank: int
    max_tuning_steps: int
    def __init__(self, max_message_bytes: _Optional[int] = ..., max_frames_per_request: _Optional[int] = ..., min_side: _Optional[int] = ..., max_side: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., max_queue: _Optional[int] = ..., max_concurrent_calls: _Optional[int] = ..., max_tuning_samples: _Optional[int] = ..., max_adapters_per_run: _Optional[int] = ..., max_pixels_per_request: _Optional[int] = ..., max_prompt_chars: _Optional[int] = ..., max_queue_per_client: _Optional[int] = ..., max_calls_per_client: _Optional[int] = ..., max_uploaded_bytes: _Optional[int] = ..., max_queued_jobs: _Optional[int] = ..., max_adapter_bytes: _Optional[int] = ..., max_state_value: _Optional[float] = ..., max_tuning_rank: _Optional[int] = ..., max_tuning_steps: _Optional[int] = ...) -> None: ...

class TaskInfo(_message.Message):
    __slots__ = ("name", "actions", "state")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    name: str
    actions: _containers.RepeatedCompositeFieldContainer[ActionInfo]
    state: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., actions: _Optional[_Iterable[_Union[ActionInfo, _Mapping]]] = ..., state: _Optional[_Iterable[str]] = ...) -> None: ...

class ActionInfo(_message.Message):
    __slots__ = ("name", "low", "high", "sign")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    SIGN_FIELD_NUMBER: _ClassVar[int]
    name: str
    low: float
    high: float
    sign: str
    def __init__(self, name: _Optional[str] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., sign: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("height", "width", "channels", "data")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    channels: int
    data: bytes
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("frame", "state")
    class StateEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    FRAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    frame: Frame
    state: _containers.ScalarMap[str, float]
    def __init__(self, frame: _Optional[_Union[Frame, _Mapping]] = ..., state: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Decoding(_message.Message):
    __slots__ = ("constraint", "max_new_tokens")
    class Constraint(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONSTRAINT_UNSPECIFIED: _ClassVar[Decoding.Constraint]
        CONSTRAINT_FREE: _ClassVar[Decoding.Constraint]
        CONSTRAINT_TEMPLATE: _ClassVar[Decoding.Constraint]
    CONSTRAINT_UNSPECIFIED: Decoding.Constraint
    CONSTRAINT_FREE: Decoding.Constraint
    CONSTRAINT_TEMPLATE: Decoding.Constraint
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    constraint: Decoding.Constraint
    max_new_tokens: int
    def __init__(self, constraint: _Optional[_Union[Decoding.Constraint, str]] = ..., max_new_tokens: _Optional[int] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("task", "run", "adapter", "observations", "decoding")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    OBSERVATIONS_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    task: str
    run: str
    adapter: str
    observations: _containers.RepeatedCompositeFieldContainer[Observation]
    decoding: Decoding
    def __init__(self, task: _Optional[str] = ..., run: _Optional[str] = ..., adapter: _Optional[str] = ..., observations: _Optional[_Iterable[_Union[Observation, _Mapping]]] = ..., decoding: _Optional[_Union[Decoding, _Mapping]] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("status", "action", "text", "new_tokens", "prompt")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    status: ReplyStatus
    action: _containers.RepeatedScalarFieldContainer[float]
    text: str
    new_tokens: int
    prompt: str
    def __init__(self, status: _Optional[_Union[ReplyStatus, str]] = ..., action: _Optional[_Iterable[float]] = ..., text: _Optional[str] = ..., new_tokens: _Optional[int] = ..., prompt: _Optional[str] = ...) -> None: ...

class AdapterRef(_message.Message):
    __slots__ = ("version", "digest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    version: str
    digest: str
    def __init__(self, version: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "encode_ms", "generate_ms", "batch_size")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    ENCODE_MS_FIELD_NUMBER: _ClassVar[int]
    GENERATE_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    encode_ms: float
    generate_ms: float
    batch_size: int
    def __init__(self, queue_ms: _Optional[float] = ..., encode_ms: _Optional[float] = ..., generate_ms: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...

class PredictResponse(_message.Message):
    __slots__ = ("predictions", "adapter", "timings")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    adapter: AdapterRef
    timings: Timings
    def __init__(self, predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., adapter: _Optional[_Union[AdapterRef, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("observation", "action", "return_to_go")
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RETURN_TO_GO_FIELD_NUMBER: _ClassVar[int]
    observation: Observation
    action: _containers.RepeatedScalarFieldContainer[float]
    return_to_go: float
    def __init__(self, observation: _Optional[_Union[Observation, _Mapping]] = ..., action: _Optional[_Iterable[float]] = ..., return_to_go: _Optional[float] = ...) -> None: ...

class UploadHeader(_message.Message):
    __slots__ = ("task", "run")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    task: str
    run: str
    def __init__(self, task: _Optional[str] = ..., run: _Optional[str] = ...) -> None: ...

class SampleChunk(_message.Message):
    __slots__ = ("samples",)
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    def __init__(self, samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ...) -> None: ...

class UploadSamplesRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UploadHeader
    chunk: SampleChunk
    def __init__(self, header: _Optional[_Union[UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[SampleChunk, _Mapping]] = ...) -> None: ...

class UploadSamplesResponse(_message.Message):
    __slots__ = ("dataset", "samples", "digest")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    samples: int
    digest: str
    def __init__(self, dataset: _Optional[str] = ..., samples: _Optional[int] = ..., digest: _Optional[str] = ...) -> None: ...

class TuningConfig(_message.Message):
    __slots__ = ("rank", "alpha", "dropout", "targets", "learning_rate", "epochs", "max_steps", "batch_size", "label_smoothing", "weight_rule", "holdout", "seed")
    class Targets(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TARGETS_UNSPECIFIED: _ClassVar[TuningConfig.Targets]
        TARGETS_ALL: _ClassVar[TuningConfig.Targets]
        TARGETS_LANGUAGE: _ClassVar[TuningConfig.Targets]
    TARGETS_UNSPECIFIED: TuningConfig.Targets
    TARGETS_ALL: TuningConfig.Targets
    TARGETS_LANGUAGE: TuningConfig.Targets
    class WeightRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        WEIGHT_RULE_UNSPECIFIED: _ClassVar[TuningConfig.WeightRule]
        WEIGHT_RULE_MAX_ABS: _ClassVar[TuningConfig.WeightRule]
        WEIGHT_RULE_MIN_MAX: _ClassVar[TuningConfig.WeightRule]
        WEIGHT_RULE_ONES: _ClassVar[TuningConfig.WeightRule]
        WEIGHT_RULE_UNIFORM: _ClassVar[TuningConfig.WeightRule]
    WEIGHT_RULE_UNSPECIFIED: TuningConfig.WeightRule
    WEIGHT_RULE_MAX_ABS: TuningConfig.WeightRule
    WEIGHT_RULE_MIN_MAX: TuningConfig.WeightRule
    WEIGHT_RULE_ONES: TuningConfig.WeightRule
    WEIGHT_RULE_UNIFORM: TuningConfig.WeightRule
    RANK_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    DROPOUT_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    MAX_STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    LABEL_SMOOTHING_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_RULE_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    rank: int
    alpha: float
    dropout: float
    targets: TuningConfig.Targets
    learning_rate: float
    epochs: int
    max_steps: int
    batch_size: int
    label_smoothing: float
    weight_rule: TuningConfig.WeightRule
    holdout: float
    seed: int
    def __init__(self, rank: _Optional[int] = ..., alpha: _Optional[float] = ..., dropout: _Optional[float] = ..., targets: _Optional[_Union[TuningConfig.Targets, str]] = ..., learning_rate: _Optional[float] = ..., epochs: _Optional[int] = ..., max_steps: _Optional[int] = ..., batch_size: _Optional[int] = ..., label_smoothing: _Optional[float] = ..., weight_rule: _Optional[_Union[TuningConfig.WeightRule, str]] = ..., holdout: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class StartTuningRequest(_message.Message):
    __slots__ = ("run", "dataset", "parent", "config", "activate", "request_id", "promotion", "keep_latest", "selection")
    class SelectionEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ACTIVATE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROMOTION_FIELD_NUMBER: _ClassVar[int]
    KEEP_LATEST_FIELD_NUMBER: _ClassVar[int]
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    run: str
    dataset: str
    parent: str
    config: TuningConfig
    activate: bool
    request_id: str
    promotion: Promotion
    keep_latest: int
    selection: _containers.ScalarMap[str, float]
    def __init__(self, run: _Optional[str] = ..., dataset: _Optional[str] = ..., parent: _Optional[str] = ..., config: _Optional[_Union[TuningConfig, _Mapping]] = ..., activate: bool = ..., request_id: _Optional[str] = ..., promotion: _Optional[_Union[Promotion, str]] = ..., keep_latest: _Optional[int] = ..., selection: _Optional[_Mapping[str, float]] = ...) -> None: ...

class StartTuningResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class WatchTuningRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class WatchTuningResponse(_message.Message):
    __slots__ = ("state", "step", "steps", "loss", "result", "error")
    STATE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    step: int
    steps: int
    loss: float
    result: TuningResult
    error: str
    def __init__(self, state: _Optional[_Union[JobState, str]] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., loss: _Optional[float] = ..., result: _Optional[_Union[TuningResult, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class TuningResult(_message.Message):
    __slots__ = ("adapter", "activated", "train_loss_first", "train_loss_last", "holdout_loss_before", "holdout_loss_after", "train_samples", "holdout_samples", "weight_mean", "weight_positive_share", "seconds", "not_activated")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIRST_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_LAST_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_LOSS_BEFORE_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_LOSS_AFTER_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    HOLDOUT_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_MEAN_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_POSITIVE_SHARE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NOT_ACTIVATED_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterRef
    activated: bool
    train_loss_first: float
    train_loss_last: float
    holdout_loss_before: float
    holdout_loss_after: float
    train_samples: int
    holdout_samples: int
    weight_mean: float
    weight_positive_share: float
    seconds: float
    not_activated: str
    def __init__(self, adapter: _Optional[_Union[AdapterRef, _Mapping]] = ..., activated: bool = ..., train_loss_first: _Optional[float] = ..., train_loss_last: _Optional[float] = ..., holdout_loss_before: _Optional[float] = ..., holdout_loss_after: _Optional[float] = ..., train_samples: _Optional[int] = ..., holdout_samples: _Optional[int] = ..., weight_mean: _Optional[float] = ..., weight_positive_share: _Optional[float] = ..., seconds: _Optional[float] = ..., not_activated: _Optional[str] = ...) -> None: ...

class CancelTuningRequest(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: str
    def __init__(self, job: _Optional[str] = ...) -> None: ...

class CancelTuningResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: JobState
    def __init__(self, state: _Optional[_Union[JobState, str]] = ...) -> None: ...

class AdapterInfo(_message.Message):
    __slots__ = ("adapter", "parent", "active", "manifest_json")
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    PARENT_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_JSON_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterRef
    parent: str
    active: bool
    manifest_json: str
    def __init__(self, adapter: _Optional[_Union[AdapterRef, _Mapping]] = ..., parent: _Optional[str] = ..., active: bool = ..., manifest_json: _Optional[str] = ...) -> None: ...

class ListAdaptersRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class ListAdaptersResponse(_message.Message):
    __slots__ = ("adapters",)
    ADAPTERS_FIELD_NUMBER: _ClassVar[int]
    adapters: _containers.RepeatedCompositeFieldContainer[AdapterInfo]
    def __init__(self, adapters: _Optional[_Iterable[_Union[AdapterInfo, _Mapping]]] = ...) -> None: ...

class GetAdapterRequest(_message.Message):
    __slots__ = ("run", "version")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: str
    def __init__(self, run: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterInfo
    def __init__(self, adapter: _Optional[_Union[AdapterInfo, _Mapping]] = ...) -> None: ...

class ActivateAdapterRequest(_message.Message):
    __slots__ = ("run", "version")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: str
    def __init__(self, run: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ActivateAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterRef
    def __init__(self, adapter: _Optional[_Union[AdapterRef, _Mapping]] = ...) -> None: ...

class RollBackAdapterRequest(_message.Message):
    __slots__ = ("run",)
    RUN_FIELD_NUMBER: _ClassVar[int]
    run: str
    def __init__(self, run: _Optional[str] = ...) -> None: ...

class RollBackAdapterResponse(_message.Message):
    __slots__ = ("adapter",)
    ADAPTER_FIELD_NUMBER: _ClassVar[int]
    adapter: AdapterRef
    def __init__(self, adapter: _Optional[_Union[AdapterRef, _Mapping]] = ...) -> None: ...

class DeleteAdapterRequest(_message.Message):
    __slots__ = ("run", "version")
    RUN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    run: str
    version: str
    def __init__(self, run: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class DeleteAdapterResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
