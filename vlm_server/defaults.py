"""What a server does when a request leaves it open: settings of a model, and of a tuning job."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

TARGETS = ("all", "language")
WEIGHT_RULES = ("max_abs", "min_max", "ones", "uniform")
PROMPT_STYLES = ("full", "short")


def _check(name: str, value: float, low: float, high: float, kind: type = float) -> None:
    integral = isinstance(value, int) and not isinstance(value, bool)
    right_kind = integral if kind is int else integral or isinstance(value, float)
    if not right_kind or not math.isfinite(value) or not low <= value <= high:
        noun = "an integer" if kind is int else "a number"
        raise ValueError(f"{name} must be {noun} in [{low:g}, {high:g}], not {value!r}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """One LoRA job. Defaults follow what COVR states and leaves open (C18): rank 128, alpha 256, dropout 0.05
    on all linear layers, one epoch, a fresh optimiser per job.

    Raises:
        ValueError: a field out of its limits; the message names it and what is allowed.
    """

    rank: int = 128
    alpha: float = 256.0
    dropout: float = 0.05
    targets: str = (
        "all"  # "all": the vision tower's linear layers, too; "language": the language model's alone
    )
    learning_rate: float = 1e-5
    epochs: int = 1
    max_steps: int = 0  # 0: no bound besides the epochs
    batch_size: int = 8
    micro_batch: int = 0  # samples that go through the model at a time, their gradients added up; 0: the whole batch
    checkpointing: bool = False  # activations within a layer are computed again instead of kept
    label_smoothing: float = 0.1
    weight_rule: str = "max_abs"
    holdout: float = 0.1  # share of the samples, in blocks of neighbours, that is kept out of training
    seed: int = 0

    def __post_init__(self) -> None:
        _check("rank", self.rank, 1, 1024, int)
        _check("alpha", self.alpha, 1e-3, 1e4)
        _check("dropout", self.dropout, 0.0, 0.9)
        _check("learning_rate", self.learning_rate, 1e-9, 1.0)
        _check("epochs", self.epochs, 1, 1000, int)
        _check("max_steps", self.max_steps, 0, 10**7, int)
        _check("batch_size", self.batch_size, 1, 4096, int)
        _check("micro_batch", self.micro_batch, 0, 4096, int)
        if not isinstance(self.checkpointing, bool):
            raise ValueError(f"checkpointing must be true or false, not {self.checkpointing!r}")
        _check("label_smoothing", self.label_smoothing, 0.0, 0.9)
        _check("holdout", self.holdout, 0.0, 0.5)
        _check("seed", self.seed, 0, 2**64 - 1, int)
        _one_of("targets", self.targets, TARGETS)
        _one_of("weight_rule", self.weight_rule, WEIGHT_RULES)


@dataclasses.dataclass(frozen=True)
class ServingDefaults:
    """How one model is asked. The field defaults are those of a released checkpoint; a folder may bring its
    own in ``serving.json``.

    Raises:
        ValueError: a field out of its limits.
    """

    prompt_style: str = "full"
    constrained: bool = False  # only replies that parse can be generated
    max_new_tokens: int = 256
    text_first: bool = True  # the instruction before the picture
    tuning: TuningConfig = TuningConfig()

    def __post_init__(self) -> None:
        _one_of("prompt_style", self.prompt_style, PROMPT_STYLES)
        _check("max_new_tokens", self.max_new_tokens, 1, 4096, int)
        for name in ("constrained", "text_first"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")


def read(folder: Path) -> ServingDefaults:
    """The defaults of the model in ``folder``: its ``serving.json``, or the field defaults without one.

    Raises:
        ValueError: the file is not JSON, names an unknown field or holds a value out of its limits.
    """
    file = folder / "serving.json"
    if not file.is_file():
        return ServingDefaults()
    try:
        fields = json.loads(file.read_text())
        tuning = _build(TuningConfig, fields.pop("tuning", {}))
        return dataclasses.replace(_build(ServingDefaults, fields), tuning=tuning)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None


def _build(kind: type, fields: dict):
    known = {field.name for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise ValueError(f"unknown field {name!r}; known: {', '.join(sorted(known))}")
    return kind(**fields)
