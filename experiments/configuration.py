"""The configuration of a run: defaults <- presets <- flags <- ``--set key=value``; to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax import augment, methods, parallel, schedule
from covr_jax.config import Config
from covr_jax.replay.samplers import Uniform
from experiments.configuration_values import AUTO, coerce, field_types

PRESETS = Path(__file__).parent / "presets"
# Older records have no fields that begin so; what they show does not depend on them.
LATER = (
    "env.carla.",
    "env.driving.",
    "learner.alpha_zero_after",
    "learner.cycle_warmup",
    "learner.devices",
    "learner.guidance.phase",
    "learner.mask_block",
    "learner.sequence_batch_size",
    "learner.ver.",
    "learner.vpg.",
    "prior.ca_file",
    "prior.task_file",
    "prior.token_file",
    "prior.value_critic",
    "replay.ere_",
    "replay.per_",
    "replay.storage",
    "replay.top_share",
    "rounds.eddf.filter",
    "rounds.eddf.keep_top",
    "rounds.eddf.percentile",
    "rounds.eddf.score",
    "rounds.eddf.zscore",
    "rounds.keep_adapters",
    "rounds.promotion",
    "run.behaviour",
    "run.checkpoint_every",
    "run.num_envs",
)


class Built(NamedTuple):
    """A configuration and what the user changed to get it."""

    config: Config
    overrides: list[str]  # "preset=a,b" first, then "key=value" lines that --set accepts, in order of change


def build(
    preset: str = "",
    flags: Mapping[str, Any] | None = None,
    settings: Iterable[str] = (),
    folder: Path = PRESETS,
) -> Built:
    """The configuration that the command line describes; later sources win.

    ``preset``: names joined by commas, stacked left to right. ``flags``: dotted path -> value (text or
    typed); None means that the flag was not given. ``settings``: the texts of ``--set``. Fields that stay
    None are filled in by ``resolve``. Raises ValueError with one line for an unknown preset or key and for a
    value that is not allowed.
    """
    values: dict[str, Any] = {}
    names = [name.strip() for name in preset.split(",") if name.strip()]
    for name in names:
        values.update(load_preset(name, folder))
    changed: dict[str, Any] = {}
    for path, value in (flags or {}).items():
        if value is not None:
            changed.update(_set(path, value))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: must look like key=value, for example learner.discount=0.98")
        changed.update(_set(key.strip(), text))
    values.update(changed)
    config = _nested(Config, values)
    _check_together(config)
    lines = [f"preset={','.join(names)}"] if names else []
    return Built(config, lines + [f"{path}={as_text(value)}" for path, value in changed.items()])


def changed(config: Config, settings: Iterable[str]) -> Config:
    """``config`` after the texts of ``--set``. Raises ValueError as ``build`` does."""
    values = leaves(dataclasses.asdict(config))
    for setting in settings:
        key, _, text = setting.partition("=")
        values.update(_set(key.strip(), text))
    return _nested(Config, values)


def presets(folder: Path = PRESETS) -> list[str]:
    """Names of the presets there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_preset(name: str, folder: Path = PRESETS) -> dict[str, Any]:
    """Dotted path -> typed value of ``folder/<name>.toml``, whose tables mirror the dataclasses."""
    known = presets(folder)
    if name not in known:
        raise ValueError(
            f"unknown preset {name!r}: must be one of {', '.join(known) or '(no presets found)'}"
        )
    try:
        document = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
        values: dict[str, Any] = {}
        for path, value in leaves(document).items():
            values.update(_set(path, value, text=False))
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"preset {name}: {error}") from None
    return values


def resolve(config: Config) -> Config:
    """Fills the fields left None whose value is in a table of the learner; the environment fills its own.

    ``learner.target_entropy`` stays None (the learner takes minus the number of action dimensions).
    """
    learner, rounds, size = config.learner, config.rounds, config.env.render_size
    if learner.augmentation is None:
        learner = dataclasses.replace(learner, augmentation=methods.BASES[learner.base].augmentations[0])
    if learner.image_size is None:
        learner = dataclasses.replace(learner, image_size=round(size * augment.VIEW_SHARE[learner.augmentation]))
    if rounds.discount is None:
        rounds = dataclasses.replace(rounds, discount=learner.discount)
    resolved = dataclasses.replace(config, learner=learner, rounds=rounds)
    _check_together(resolved)
    return resolved


def to_json(config: Config) -> str:
    """One JSON object that mirrors the dataclasses, in their order; floats round-trip exactly."""
    return json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"


def from_json(text: str) -> Config:
    """The configuration that ``to_json`` wrote. ValueError for unknown or missing fields, bad values."""
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is no valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError("the configuration must be one JSON object")
    values: dict[str, Any] = {}
    for path, value in leaves(document).items():
        values.update(_set(path, value, text=False))
    missing = [path for path in field_types() if path not in values and not path.startswith(LATER)]
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(missing)}")
    return _nested(Config, values)


def as_text(value: Any) -> str:
    """``value`` as ``--set`` reads it back."""
    if value is None:
        return AUTO
    if isinstance(value, tuple):
        return ",".join(as_text(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _set(path: str, value: Any, text: bool = True) -> dict[str, Any]:
    known = field_types()
    if path not in known:
        raise ValueError(_unknown(path, list(known)))
    return {path: coerce(path, known[path], value, text)}


def _unknown(path: str, known: list[str]) -> str:
    inside = [k for k in known if k.startswith(path + ".")]
    if inside:
        return f"{path} is a table, set its fields: {', '.join(inside)}"
    leaf = path.rsplit(".", 1)[-1]
    same = [k for k in known if k.rsplit(".", 1)[-1] == leaf]
    leaves = difflib.get_close_matches(leaf, [k.rsplit(".", 1)[-1] for k in known], n=1)
    similar = [k for k in known if k.rsplit(".", 1)[-1] in leaves]
    # A wrong table with the right field name is a likelier slip than a field name that merely looks alike.
    near = difflib.get_close_matches(path, same or known, n=1, cutoff=0.6 if not same else 0.0) or similar[:1]
    hint = (
        f", did you mean {near[0]}?"
        if near
        else f"; tables: {', '.join(dict.fromkeys(k.split('.')[0] for k in known))}"
    )
    return f"unknown key {path!r}{hint}"


def leaves(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted path -> value of nested dictionaries, in their order."""
    paths: dict[str, Any] = {}
    for key, value in table.items():
        paths |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return paths


def _nested(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    chosen = {}
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        path = prefix + f.name
        if dataclasses.is_dataclass(hints[f.name]):
            chosen[f.name] = _nested(hints[f.name], values, path + ".")
        elif path in values:
            chosen[f.name] = values[path]
    return cls(**chosen)


def _check_together(config: Config) -> None:
    """Rules that span several fields."""
    env, learner = config.env, config.learner
    if not len(learner.filters) == len(learner.kernels) == len(learner.strides):
        raise ValueError("learner.filters, learner.kernels and learner.strides must have the same length")
    if learner.log_std_min >= learner.log_std_max:
        raise ValueError("learner.log_std_min must be below learner.log_std_max")
    allowed = methods.BASES[learner.base].augmentations
    if learner.augmentation is not None and learner.augmentation not in allowed:
        raise ValueError(
            f"learner.augmentation={learner.augmentation!r}: base {learner.base} allows {', '.join(allowed)}"
        )
    if config.replay.top_share and methods.BASES[learner.base].sampler is not Uniform:
        raise ValueError(f"replay.top_share={config.replay.top_share}: base {learner.base} has a sampler of its own")
    if learner.augmentation is not None and learner.image_size is not None:
        augment.check(learner.augmentation, env.render_size, learner.image_size)
    parallel.check(learner.devices, batch_size=learner.batch_size)
    if methods.BASES[learner.base].sequence:
        parallel.check(learner.devices, sequence_batch_size=learner.sequence_batch_size)
    if config.run.behaviour != "policy" and not methods.METHODS[learner.method].asks_prior:
        asking = ", ".join(name for name, method in methods.METHODS.items() if method.asks_prior)
        raise ValueError(f"run.behaviour={config.run.behaviour} needs a method that asks a prior: {asking}")
    if config.run.num_envs > 1 and env.name.startswith("carla/"):
        raise ValueError(
            f"run.num_envs={config.run.num_envs}: {env.name} allows 1, for its episodes cannot be driven again after a "
            "checkpoint; toy/, dmc/ and gym/ allow several"
        )
    due = schedule.tuning_steps(config.run.steps, config.rounds.psi0, config.rounds.schedule)
    longest = max((now - before for before, now in zip([0, *due], due, strict=False)), default=0)
    if methods.METHODS[learner.method].tunes_prior and config.replay.capacity < longest:
        raise ValueError(f"replay.capacity={config.replay.capacity}: a round needs its steps, up to {longest} here")
