"""Between our types and the messages of covr.prior.v1: what is sent, and what of a reply is believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from covr.prior.v1 import prior_pb2 as pb

from covr_jax.config import RoundsConfig
from covr_jax.types import Label, Sample, TuningReport

CONSTRAINTS = {
    "default": pb.Decoding.CONSTRAINT_UNSPECIFIED,
    "free": pb.Decoding.CONSTRAINT_FREE,
    "template": pb.Decoding.CONSTRAINT_TEMPLATE,
}
TARGETS = {"all": pb.TuningConfig.TARGETS_ALL, "language": pb.TuningConfig.TARGETS_LANGUAGE}
WEIGHTS = {
    "max_abs": pb.TuningConfig.WEIGHT_RULE_MAX_ABS,
    "min_max": pb.TuningConfig.WEIGHT_RULE_MIN_MAX,
    "ones": pb.TuningConfig.WEIGHT_RULE_ONES,
    "uniform": pb.TuningConfig.WEIGHT_RULE_UNIFORM,
}
PROMOTIONS = {"always": pb.PROMOTION_ALWAYS, "holdout": pb.PROMOTION_HOLDOUT_IMPROVES}
JOB_STATES = {number: name.removeprefix("JOB_STATE_").lower() for name, number in pb.JobState.items()}
_STATUS = {pb.REPLY_STATUS_OK: "ok", pb.REPLY_STATUS_CLIPPED: "clipped"}
_ROUNDING = 1e-6  # a bound that was rounded to float32 on the way


def observation(frame: np.ndarray, state: Mapping[str, float], state_names: Sequence[str]) -> pb.Observation:
    """The newest frame, and of the state what the task's prompt may mention (servers refuse other names).

    Raises ValueError for a frame that is not uint8 [H, W, 3].
    """
    frame = np.ascontiguousarray(frame)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame must be uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    height, width, channels = frame.shape
    message = pb.Frame(height=height, width=width, channels=channels, data=frame.tobytes())
    known = {name: state[name] for name in state_names if name in state}
    return pb.Observation(frame=message, state=known)


def label(answer: pb.Prediction, adapter: pb.AdapterRef, action_dim: int) -> Label:
    """The label of one answer; status "malformed" unless its action is [action_dim] numbers in [-1, 1]."""
    action = np.asarray(answer.action, np.float32)
    status = _STATUS.get(answer.status)
    readable = action.shape == (action_dim,) and bool(np.all(np.abs(action) <= 1 + _ROUNDING))
    if status is None or not readable:  # NaN compares false
        return Label(None, "malformed", answer.text, adapter.version, adapter.digest, answer.prompt)
    return Label(np.clip(action, -1, 1), status, answer.text, adapter.version, adapter.digest, answer.prompt)


def sample(taken: Sample, state_names: Sequence[str]) -> pb.Sample:
    return pb.Sample(
        observation=observation(taken.frame, taken.state, state_names),
        action=np.asarray(taken.action, np.float32).tolist(),
        return_to_go=taken.return_to_go,
    )


def tuning_config(config: RoundsConfig, seed: int) -> pb.TuningConfig:
    """The wire's form of a round's settings, every value given explicitly.

    Raises ValueError where a value is not allowed or a zero would mean the server's default.
    """
    for name in ("rank", "alpha", "learning_rate", "epochs", "batch_size"):
        if not getattr(config, name) > 0:
            raise ValueError(f"rounds.{name} is {getattr(config, name)}; it must be above 0")
    for name, allowed in (("targets", TARGETS), ("weights", WEIGHTS), ("promotion", PROMOTIONS)):
        if getattr(config, name) not in allowed:
            raise ValueError(f"rounds.{name} is {getattr(config, name)!r}; allowed: {', '.join(allowed)}")
    return pb.TuningConfig(
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=TARGETS[config.targets],
        learning_rate=config.learning_rate,
        epochs=config.epochs,
        max_steps=config.max_steps,
        batch_size=config.batch_size,
        label_smoothing=config.label_smoothing,
        weight_rule=WEIGHTS[config.weights],
        holdout=config.holdout,
        seed=seed,
    )


def chunks(messages: Iterable, count: int, size: int) -> Iterator[list]:
    """Protobuf messages in order, in lists of at most ``count`` messages and ``size`` bytes on the wire.

    A single message over ``size`` goes alone.
    """
    part: list = []
    used = 0
    for message in messages:
        cost = message.ByteSize() + 8  # tag and length
        if part and (len(part) == count or used + cost > size):
            yield part
            part, used = [], 0
        part.append(message)
        used += cost
    if part:
        yield part


def report(result: pb.TuningResult) -> TuningReport:
    names = TuningReport._fields[2:]  # called alike on the wire
    values = {name: getattr(result, name) for name in names}
    return TuningReport(version=result.adapter.version, digest=result.adapter.digest, **values)
