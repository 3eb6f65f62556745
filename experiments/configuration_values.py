"""What one configuration field may hold: typed parsing, allowed choices and ranges.

The dataclasses of ``covr_jax.config`` name every field and its default; the two tables here say which of the
values that the type admits are meaningful. ``auto`` stands for None, "the table value of the task or of the
base", on the command line and in presets (``none`` is a value of its own for ``learner.augmentation``).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from typing import Any, NamedTuple

from covr_jax import augment, behaviour, filters, methods
from covr_jax.config import Config
from covr_jax.envs.driving import scenarios
from covr_jax.replay import storage

AUTO = "auto"
TEACHERS = ("oracle", "noisy", "half", "zeros", "random")

CHOICES: dict[str, tuple[str, ...]] = {
    "env.render_quality": ("default", "fast"),
    "env.driving.weather": tuple(scenarios.WEATHERS),
    "env.driving.camera": tuple(scenarios.CAMERAS),
    "env.driving.start": tuple(scenarios.STARTS),
    "env.driving.placement": tuple(scenarios.PLACEMENTS),
    "env.driving.traffic": tuple(scenarios.TRAFFIC),
    "env.driving.pedestrians": tuple(scenarios.PEDESTRIANS),
    "env.driving.reward": scenarios.REWARD_CHOICES,
    "env.driving.repeat_reward": ("sum", "mean"),
    "env.driving.horizon_unit": ("ticks", "decisions"),
    "learner.base": tuple(methods.BASES),
    "learner.method": tuple(methods.METHODS),
    "learner.augmentation": augment.NAMES,
    "learner.guidance.action": ("sample", "mean"),
    "learner.guidance.reduction": ("sum", "mean"),
    "learner.vpg.reduction": ("sum", "mean"),
    "learner.vpg.gate": ("value_critic", "advantage", "online_critic", "ones"),
    "learner.vpg.scale": ("joint", "separate", "none"),
    "learner.ver.distance": ("transition", "action"),
    "learner.ver.next": ("real", "predicted"),
    "learner.ver.other": ("prior", "policy"),
    "learner.ver.rule": ("intended", "literal", "affine"),
    "replay.storage": storage.STORAGES,
    "prior.hold": ("hold", "mask"),
    "prior.constraint": ("default", "free", "template"),
    "rounds.schedule": ("linear", "literal", "additive", "doubling", "constant"),
    "rounds.open_episode": ("drop", "truncate"),
    "rounds.promotion": ("always", "holdout"),
    "rounds.stale_labels": ("keep_warm", "keep", "latest"),
    "rounds.eddf.rule": ("intended", "literal", "relaxed"),
    "rounds.eddf.entropy": ("per_dim", "joint"),
    "rounds.eddf.compare": ("z", "raw"),
    "rounds.eddf.score": filters.SCORES,
    "rounds.eddf.filter": filters.KINDS,
    "rounds.weights": ("max_abs", "min_max", "ones", "uniform"),
    "rounds.targets": ("all", "language"),
    "run.step_unit": ("frames", "decisions"),
    "run.behaviour": behaviour.KINDS,
}


class Range(NamedTuple):
    """An interval of numbers; an open end is excluded."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def words(self) -> str:
        if self.high == math.inf:
            sign = ">" if self.low_open else ">="
            return "finite" if self.low == -math.inf else f"{sign} {self.low:g}"
        return f"in {'(' if self.low_open else '['}{self.low}, {self.high}{')' if self.high_open else ']'}"


FINITE = Range()
POSITIVE = Range(low=0, low_open=True)
NON_NEGATIVE = Range(low=0)
SHARE = Range(low=0, high=1)
BELOW_ONE = Range(low=0, high=1, high_open=True)
RATE = Range(low=0, high=1, low_open=True)

RANGES: dict[str, Range] = {
    "env.render_size": Range(low=8, high=1024),
    "env.frame_stack": POSITIVE,
    "env.action_repeat": POSITIVE,
    "env.camera": Range(low=-1),
    "env.carla.ports": Range(low=1, high=65533),
    "env.carla.restart_every": NON_NEGATIVE,
    "env.carla.timeout_s": POSITIVE,
    "env.carla.start_timeout_s": POSITIVE,
    "env.driving.vehicles": Range(low=0, high=40),
    "env.driving.horizon": POSITIVE,
    "env.driving.collision_ticks": NON_NEGATIVE,
    "learner.image_size": Range(low=8, high=1024),
    "learner.filters": POSITIVE,
    "learner.kernels": POSITIVE,
    "learner.strides": POSITIVE,
    "learner.feature_dim": POSITIVE,
    "learner.hidden_dim": POSITIVE,
    "learner.model_hidden_dim": POSITIVE,
    "learner.log_std_min": FINITE,
    "learner.log_std_max": FINITE,
    "learner.batch_size": POSITIVE,
    "learner.sequence_batch_size": POSITIVE,
    "learner.mask_block": POSITIVE,
    "learner.cycle_warmup": POSITIVE,
    "learner.updates_per_decision": POSITIVE,
    "learner.devices": POSITIVE,
    "learner.discount": SHARE,
    "learner.critic_lr": NON_NEGATIVE,
    "learner.actor_lr": NON_NEGATIVE,
    "learner.encoder_lr": NON_NEGATIVE,
    "learner.decoder_lr": NON_NEGATIVE,
    "learner.decoder_weight_decay": NON_NEGATIVE,
    "learner.alpha_lr": NON_NEGATIVE,
    "learner.alpha_beta1": BELOW_ONE,
    "learner.initial_temperature": POSITIVE,
    "learner.target_entropy": FINITE,
    "learner.critic_tau": RATE,
    "learner.encoder_tau": RATE,
    "learner.actor_period": POSITIVE,
    "learner.target_period": POSITIVE,
    "learner.guidance.weight": NON_NEGATIVE,
    "learner.guidance.every": POSITIVE,
    "learner.guidance.phase": NON_NEGATIVE,
    "learner.alpha_zero_after": NON_NEGATIVE,
    "learner.vpg.weight": NON_NEGATIVE,
    "learner.ver.weight": NON_NEGATIVE,
    "learner.ver.low": NON_NEGATIVE,
    "learner.ver.high": NON_NEGATIVE,
    "learner.ver.slope": FINITE,
    "learner.ver.centre": FINITE,
    "replay.capacity": POSITIVE,
    "replay.per_exponent": NON_NEGATIVE,
    "replay.top_share": SHARE,
    "replay.per_beta": SHARE,
    "replay.per_epsilon": POSITIVE,
    "replay.ere_eta": RATE,
    "replay.ere_minimum": POSITIVE,
    "prior.period": POSITIVE,
    "prior.lag": NON_NEGATIVE,
    "prior.group": POSITIVE,
    "prior.deadline_s": POSITIVE,
    "prior.teacher_noise": NON_NEGATIVE,
    "rounds.psi0": POSITIVE,
    "rounds.cold_start": NON_NEGATIVE,
    "rounds.discount": SHARE,
    "rounds.vlm_episodes": NON_NEGATIVE,
    "rounds.eddf.minimum": NON_NEGATIVE,
    "rounds.eddf.percentile": Range(low=0, high=100),
    "rounds.label_smoothing": BELOW_ONE,
    "rounds.holdout": BELOW_ONE,
    "rounds.rank": POSITIVE,
    "rounds.alpha": POSITIVE,
    "rounds.dropout": BELOW_ONE,
    "rounds.learning_rate": NON_NEGATIVE,
    "rounds.epochs": POSITIVE,
    "rounds.max_steps": NON_NEGATIVE,
    "rounds.keep_adapters": NON_NEGATIVE,
    "rounds.batch_size": POSITIVE,
    "rounds.deadline_s": POSITIVE,
    "run.seed": Range(low=0, high=2**32 - 1),
    "run.steps": POSITIVE,
    "run.num_envs": Range(low=1, high=256),
    "run.behaviour_every": POSITIVE,
    "run.behaviour_share": SHARE,
    "run.random_decisions": NON_NEGATIVE,
    "run.eval_every": POSITIVE,
    "run.eval_episodes": POSITIVE,
    "run.log_every": POSITIVE,
    "run.checkpoint_every": POSITIVE,
}


@functools.cache
def field_types(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> annotation of every leaf field, in the order of the dataclasses."""
    paths: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        kind = hints[f.name]
        if dataclasses.is_dataclass(kind):
            paths.update(field_types(kind, f"{prefix}{f.name}."))
        else:
            paths[prefix + f.name] = kind
    return paths


def coerce(path: str, kind: Any, value: Any, text: bool) -> Any:
    """``value`` as the annotation ``kind`` wants it; ``text``: strings may spell numbers and tuples.

    Raises ValueError with one line that names the path and what is allowed, also for choices and ranges.
    """
    inner, optional = _without_none(kind)
    if optional and (value is None or value == AUTO):
        return None
    typed = _typed(path, inner, value, text, optional)
    _check(path, typed)
    return typed


def _without_none(kind: Any) -> tuple[Any, bool]:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        rest = [k for k in typing.get_args(kind) if k is not type(None)]
        return rest[0], True
    return kind, False


def _typed(path: str, kind: Any, value: Any, text: bool, optional: bool) -> Any:
    if typing.get_origin(kind) is tuple:
        element = typing.get_args(kind)[0]
        if text and isinstance(value, str):
            value = [part for part in value.strip().strip("()[]").split(",") if part.strip()]
        if isinstance(value, list | tuple) and value:
            return tuple(_typed(path, element, part, text, False) for part in value)
        raise ValueError(f"{path}={value!r}: must be a list of {element.__name__}s such as 32,32,32")
    if kind is bool and isinstance(value, bool):
        return value
    if text and isinstance(value, str) and kind is not str:
        value = _parsed(kind, value.strip())
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is str and isinstance(value, str):
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    raise ValueError(f"{path}={value!r}: must be {words}{f', or {AUTO}' if optional else ''}")


def _parsed(kind: type, text: str) -> Any:
    """The number or truth value that ``text`` spells, or ``text`` itself if it spells none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind is int and re.fullmatch(r"[+-]?\d+(_\d+)*", text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    if kind is int:  # 1e5 is a common way to write a budget
        return int(number) if math.isfinite(number) and number.is_integer() else text
    return number


def _check(path: str, value: Any) -> None:
    allowed = CHOICES.get(path)
    if allowed is not None and value not in allowed:
        raise ValueError(f"{path}={value!r}: must be one of {', '.join(allowed)}")
    limits = RANGES.get(path)
    for number in value if isinstance(value, tuple) else (value,):
        if limits is not None and not limits.holds(number):
            raise ValueError(f"{path}={number!r}: must be {limits.words()}")
    if path == "prior.source":
        _check_source(value)


def _check_source(source: str) -> None:
    if source.startswith("teacher:") and source.removeprefix("teacher:") not in TEACHERS:
        raise ValueError(f"prior.source={source!r}: a teacher must be one of {', '.join(TEACHERS)}")
    if source.startswith(("grpc://", "grpcs://")) and not re.fullmatch(
        r"grpcs?://(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}", source
    ):
        raise ValueError(f"prior.source={source!r}: must look like grpc://host:port")
    if not source:
        raise ValueError(
            "prior.source='': must be tiny, a Hugging Face id or folder, grpc://host:port or teacher:<name>"
        )
