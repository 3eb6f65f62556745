"""From messages on the wire to checked values.

Every function refuses what is out of its limits with a ``Refusal``: a status code and one line that names the
field and what is allowed. Nothing that a client sends is ever a path, a format string or code.
"""

from __future__ import annotations

import dataclasses
import math
import re

import grpc
import numpy as np
from covr.prior.v1 import prior_pb2 as pb

from vlm_server import tasks
from vlm_server.defaults import TuningConfig
from vlm_server.engine import Observation
from vlm_server.limits import Limits
from vlm_server.refusals import Refusal, invalid, not_found
from vlm_server.tuning import Sample

_RUN = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"base|v[1-9][0-9]{0,8}")
_REQUEST_ID = re.compile(r"[!-~]{0,128}")
_SELECTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
MAX_SELECTION = 32  # numbers about how samples were chosen
_TARGETS = {pb.TuningConfig.TARGETS_ALL: "all", pb.TuningConfig.TARGETS_LANGUAGE: "language"}
_WEIGHT_RULES = {
    pb.TuningConfig.WEIGHT_RULE_MAX_ABS: "max_abs",
    pb.TuningConfig.WEIGHT_RULE_MIN_MAX: "min_max",
    pb.TuningConfig.WEIGHT_RULE_ONES: "ones",
    pb.TuningConfig.WEIGHT_RULE_UNIFORM: "uniform",
}
_CONSTRAINTS = {pb.Decoding.CONSTRAINT_FREE: False, pb.Decoding.CONSTRAINT_TEMPLATE: True}


def protocol(client: str, server: str) -> None:
    """Refuses a client that speaks another major version of the contract; "" says nothing of it."""
    if client and client.partition(".")[0] != server.partition(".")[0]:
        raise Refusal(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"protocol_version: this server speaks {server}, the client {client[:20]!r}; use equal major versions",
        )


def task(name: str) -> tasks.Task:
    """The task of a request; NOT_FOUND if there is none of this name."""
    try:
        return tasks.get(name)
    except ValueError as error:
        raise not_found(f"task: {error}") from None


def run(name: str) -> str:
    if not _RUN.fullmatch(name):
        raise invalid(f"run: must match [a-z0-9][a-z0-9_-]{{0,63}}, not {name[:80]!r}")
    return name


def version(name: str, field: str) -> str:
    if not _VERSION.fullmatch(name):
        raise invalid(f"{field}: must be base, v1, v2, ..., not {name[:80]!r}")
    return name


def adapter(run_name: str, version_name: str) -> tuple[str, str]:
    """The run and version that a question asks; both may be empty, but a version belongs to a run."""
    if not run_name and version_name not in ("", "base"):
        raise invalid(f"adapter: {version_name[:80]!r} needs a run")
    return run(run_name) if run_name else "", version(version_name, "adapter") if version_name else ""


def request_id(text: str) -> str:
    if not _REQUEST_ID.fullmatch(text):
        raise invalid("request_id: must be at most 128 printable ASCII characters without spaces")
    return text


def observation(message: pb.Observation, task: tasks.Task, limits: Limits, field: str) -> Observation:
    """One picture, uint8 [H,W,3] (a read-only view of the message's bytes), and its state."""
    frame = message.frame
    height, width = frame.height, frame.width
    if frame.channels != 3:
        raise invalid(f"{field}.frame.channels: must be 3 (RGB), not {frame.channels}")
    for side, value in (("height", height), ("width", width)):
        if not limits.min_side <= value <= limits.max_side:
            allowed = f"[{limits.min_side}, {limits.max_side}]"
            raise invalid(f"{field}.frame.{side}: must be in {allowed} pixels (min_side, max_side), not {value}")
    size = height * width * 3
    if len(frame.data) != size:
        raise invalid(f"{field}.frame.data: must be height * width * 3 = {size} bytes, not {len(frame.data)}")
    for name, value in message.state.items():
        if name not in task.state_names:
            allowed = ", ".join(task.state_names) or "none"
            raise invalid(f"{field}.state: {task.name} knows no {name[:40]!r}; it knows: {allowed}")
        if not abs(value) <= limits.max_state_value:
            allowed = f"+-{limits.max_state_value:g} (max_state_value)"
            raise invalid(f"{field}.state[{name}]: must be within {allowed}, not {value}")
    pixels = np.frombuffer(frame.data, np.uint8).reshape(height, width, 3)
    return Observation(pixels, dict(message.state))


def observations(request: pb.PredictRequest, task: tasks.Task, limits: Limits) -> list[Observation]:
    """The pictures of a question, which all have one size."""
    count = len(request.observations)
    if not 1 <= count <= limits.max_frames_per_request:
        most = limits.max_frames_per_request
        raise invalid(f"observations: must be 1 to {most} (max_frames_per_request), not {count}")
    checked = [observation(o, task, limits, f"observations[{i}]") for i, o in enumerate(request.observations)]
    pixels, most = sum(each.frame.size // 3 for each in checked), limits.max_pixels_per_request
    if pixels > most:
        raise invalid(f"observations: may have {most} pixels together (max_pixels_per_request), not {pixels}")
    for i, each in enumerate(checked):
        if each.frame.shape != checked[0].frame.shape:
            raise invalid(f"observations[{i}].frame: must have the size of observations[0].frame")
    return checked


def prompts(seen: list[Observation], task: tasks.Task, style: str, limits: Limits) -> list[str]:
    """What the model is asked about each observation, without the picture."""
    texts = [task.prompt(each.state, style) for each in seen]
    longest = max(map(len, texts))
    if longest > limits.max_prompt_chars:
        most = limits.max_prompt_chars
        raise invalid(f"observations: a prompt may have {most} characters (max_prompt_chars), not {longest}")
    return texts


def decoding(
    message: pb.Decoding, task: tasks.Task, limits: Limits, constrained: bool, tokens: int
) -> tuple[bool, int]:
    """Whether only replies that parse may be generated, and how many tokens at most.

    Args:
        constrained, tokens: the model's defaults; the tokens grow to what a reply of the task may need.
    """
    if message.constraint not in (pb.Decoding.CONSTRAINT_UNSPECIFIED, *_CONSTRAINTS):
        raise invalid(f"decoding.constraint: must be 0, 1 or 2, not {message.constraint}")
    most, asked = limits.max_new_tokens, message.max_new_tokens
    if asked > most:
        raise invalid(f"decoding.max_new_tokens: must be at most {most} (max_new_tokens), not {asked}")
    tokens = asked or min(max(tokens, task.max_reply_tokens), most)
    return _CONSTRAINTS.get(message.constraint, constrained), tokens


def sample(message: pb.Sample, task: tasks.Task, limits: Limits, index: int) -> Sample:
    """One sample to learn."""
    field = f"samples[{index}]"
    if len(message.action) != len(task.actions):
        raise invalid(f"{field}.action: must have {len(task.actions)} values, not {len(message.action)}")
    for action, value in zip(task.actions, message.action, strict=True):
        if not action.low <= value <= action.high:
            allowed = f"[{action.low:g}, {action.high:g}]"
            raise invalid(f"{field}.action: {action.name} must be in {allowed}, not {value:g}")
    if not math.isfinite(message.return_to_go):
        raise invalid(f"{field}.return_to_go: must be finite, not {message.return_to_go}")
    seen = observation(message.observation, task, limits, f"{field}.observation")
    return Sample(seen, tuple(message.action), message.return_to_go)


def tuning_config(message: pb.TuningConfig, defaults: TuningConfig, limits: Limits) -> TuningConfig:
    """The settings of a job: the model's defaults where the message leaves a field open."""
    fields: dict = {
        name: value
        for name in ("rank", "alpha", "learning_rate", "epochs", "batch_size", "seed")
        if (value := getattr(message, name))
    }
    optional = ("dropout", "max_steps", "label_smoothing", "holdout")
    fields |= {name: getattr(message, name) for name in optional if message.HasField(name)}
    for name, words in (("targets", _TARGETS), ("weight_rule", _WEIGHT_RULES)):
        value = getattr(message, name)
        if value and value not in words:
            raise invalid(f"config.{name}: must be 0 to {len(words)}, not {value}")
        if value:
            fields[name] = words[value]
    try:
        config = dataclasses.replace(defaults, **fields)
    except ValueError as error:
        raise invalid(f"config.{error}") from None
    if config.rank > limits.max_tuning_rank:
        most = limits.max_tuning_rank
        raise invalid(f"config.rank: must be at most {most} (max_tuning_rank), not {config.rank}")
    return config


def tuning_steps(config: TuningConfig, samples: int, limits: Limits) -> None:
    """Refuses a job with more optimiser steps than one may have."""
    steps = config.epochs * math.ceil(samples / config.batch_size)
    steps, most = min(steps, config.max_steps or steps), limits.max_tuning_steps
    if steps > most:
        raise invalid(f"config: a job may have {most} steps (max_tuning_steps), not {steps}; set config.max_steps")


def selection(message: pb.StartTuningRequest) -> dict[str, float]:
    """How the samples were chosen, for the lineage."""
    chosen = dict(message.selection)
    if len(chosen) > MAX_SELECTION:
        raise invalid(f"selection: may hold {MAX_SELECTION} numbers, not {len(chosen)}")
    for name, value in chosen.items():
        if not _SELECTION_NAME.fullmatch(name):
            raise invalid(f"selection: names must match [a-z][a-z0-9_]{{0,31}}, not {name[:40]!r}")
        if not math.isfinite(value):
            raise invalid(f"selection[{name}]: must be finite, not {value}")
    return chosen


def promotion(value: int) -> bool:
    """Whether a new version has to be better on held-out samples before it is activated."""
    if value not in pb.Promotion.values():
        raise invalid(f"promotion: must be 0, 1 or 2, not {value}")
    return value == pb.PROMOTION_HOLDOUT_IMPROVES
