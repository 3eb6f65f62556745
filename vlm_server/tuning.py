"""LoRA fine-tuning on weighted samples: one job, on a module tree of its own.

The tree shares the base model's storage with the serving one and nothing else, so that a job may run on any
thread while the engine answers. Everything random comes from generators seeded by the job: on a CPU the same
samples and settings give the same adapter, byte for byte, on one machine and thread count. Several processes that
run the same job share every batch and step together (``process_group``); one alone is a group of one.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from vlm_server import lora, ralw
from vlm_server.defaults import TuningConfig
from vlm_server.encoding import IGNORED
from vlm_server.engine import Observation
from vlm_server.models import Vlm
from vlm_server.process_group import ALONE, ProcessGroup
from vlm_server.tasks import Task

CLIP_NORM = 1.0
BETAS = (0.9, 0.95)
WARM_UP_SHARE, WARM_UP_STEPS = 0.1, 20  # the shorter of the two
HOLDOUT_BLOCK = 8  # consecutive samples that are held out together
_NAME = "tuned"
_log = logging.getLogger(__name__)


class TuningFailed(Exception):
    """The job ended without an adapter; one line says why."""


class TuningCancelled(TuningFailed):
    """``cancelled`` said so."""


@dataclass(frozen=True)
class Sample:
    """What a picture shows, the answer to learn (in the task's order), and its return to go, reward units."""

    observation: Observation
    action: tuple[float, ...]
    return_to_go: float


@dataclass(frozen=True)
class Statistics:
    """What a job did; the wire's TuningResult has the same fields."""

    train_loss_first: float  # RALW losses (COVR, Eq. 6), means over the first and last tenth of the steps
    train_loss_last: float
    holdout_loss_before: (
        float  # nats per answer token, unweighted, no smoothing; NaN without held-out samples
    )
    holdout_loss_after: float
    train_samples: int
    holdout_samples: int
    weight_mean: float  # of the RALW weights over the training samples
    weight_positive_share: float
    steps: int
    seconds: float


@dataclass(frozen=True)
class TuningOutcome:
    """A trained adapter, in memory."""

    tensors: dict[str, torch.Tensor]
    lora_config: LoraConfig
    config: TuningConfig
    statistics: Statistics
    processes: int = 1  # that shared the batches

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes the adapter's files into ``folder`` and returns what a manifest should say about the job.

        Wall-clock time is left out: equal jobs have equal manifests.
        """
        lora.save(folder, self.lora_config, self.tensors)
        figures = dataclasses.asdict(self.statistics)
        del figures["seconds"]
        figures = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        return {"tuning": dataclasses.asdict(self.config), "processes": self.processes, "statistics": figures}


def train(
    vlm: Vlm,
    task: Task,
    samples: Sequence[Sample],
    parent_adapter: Path | None,
    config: TuningConfig,
    progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    cancelled: Callable[[], bool] = lambda: False,
    group: ProcessGroup = ALONE,
) -> TuningOutcome:
    """Fine-tunes an adapter on the samples with the RALW loss (COVR, Eq. 6), answer tokens only.

    AdamW with warm-up and linear decay to zero, gradients clipped to norm 1; the optimiser is fresh in each
    job, the adapter goes on from its parent (C18). Weights are normalised over all samples of the job, which
    are one round's (C13).

    Args:
        parent_adapter: folder of the adapter to go on from; None: a fresh one.
        progress: called after each step with (step from 1, steps, RALW loss of the step).
        cancelled: asked before each batch, and each part of one.
        group: of processes that call this with the same arguments. Each takes its share of every batch through the
            model, Eq. 6 is over the whole batch, and all of them end with the same adapter.

    Raises:
        TuningFailed: nothing to learn from (no samples, all weights zero), a parent of another shape, a loss
            that is not finite, or too little memory.
        TuningCancelled: ``cancelled`` returned True.
    """
    started = time.perf_counter()
    try:
        outcome = _train(vlm, task, samples, parent_adapter, config, progress, cancelled, group)
    except lora.AdapterInvalid as error:
        raise TuningFailed(f"parent: {error}") from None
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # On the CPU torch raises a plain RuntimeError.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise TuningFailed("out of memory: use a smaller batch_size or rank") from None
    finally:
        if vlm.device.type == "cuda":
            torch.cuda.empty_cache()
    seconds = time.perf_counter() - started
    return dataclasses.replace(outcome, statistics=dataclasses.replace(outcome.statistics, seconds=seconds))


def _train(vlm, task, samples, parent_adapter, config, progress, cancelled, group) -> TuningOutcome:
    if not samples:
        raise TuningFailed("the data set holds no samples")
    generator = torch.Generator().manual_seed(config.seed)
    weights = ralw.weights([sample.return_to_go for sample in samples], config.weight_rule, generator)
    if config.weight_rule == "min_max":
        positive = int((weights > 0).sum())
        _log.warning("weight rule min_max (C13): %d of %d samples have a weight > 0", positive, len(samples))
    held = held_out(weights, config.holdout, generator)
    holdout, training = [samples[i] for i in held], sorted({*range(len(samples))}.difference(held))
    if not bool((weights[training] > 0).any()):
        raise TuningFailed(
            f"no sample has a positive weight under the rule {config.weight_rule}: nothing to learn from"
        )
    tree, lora_config = _tree(vlm, parent_adapter, config, group)
    parameters = [p for p in tree.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=BETAS, weight_decay=0.0)
    batches = math.ceil(len(training) / config.batch_size)
    steps = min(config.epochs * batches, config.max_steps or math.inf)

    def ask() -> None:
        if cancelled():
            raise TuningCancelled("cancelled")

    before = _holdout_loss(vlm, tree, task, holdout, config.batch_size, ask, group)
    losses: list[float] = []
    lora.switch_dropout(tree, True)  # and not the base model's, as ``tree.train()`` would
    while len(losses) < steps:
        shuffled = [training[i] for i in torch.randperm(len(training), generator=generator).tolist()]
        for start in range(0, len(training), config.batch_size):
            if len(losses) == steps:
                break
            chosen = shuffled[start : start + config.batch_size]
            optimizer.param_groups[0]["lr"] = config.learning_rate * schedule(len(losses), steps)
            optimizer.zero_grad()
            batch = [samples[i] for i in chosen]
            losses.append(_backward(vlm, tree, task, batch, weights[chosen], parameters, config, ask, group))
            norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            if not math.isfinite(losses[-1]) or not math.isfinite(float(norm)):
                raise TuningFailed(
                    f"the loss is not finite at step {len(losses)}: use a smaller learning_rate"
                )
            optimizer.step()
            progress(len(losses), steps, losses[-1])
    tensors = lora.state(tree, _NAME)
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise TuningFailed("the adapter's values are not finite: use a smaller learning_rate")
    lora.switch_dropout(tree, False)
    after = _holdout_loss(vlm, tree, task, holdout, config.batch_size, ask, group)
    tenth = max(1, len(losses) // 10)
    statistics = Statistics(
        train_loss_first=sum(losses[:tenth]) / tenth,
        train_loss_last=sum(losses[-tenth:]) / tenth,
        holdout_loss_before=before,
        holdout_loss_after=after,
        train_samples=len(training),
        holdout_samples=len(holdout),
        weight_mean=float(weights[training].mean()),
        weight_positive_share=float((weights[training] > 0).float().mean()),
        steps=len(losses),
        seconds=0.0,
    )
    return TuningOutcome(tensors, lora_config, config, statistics)


def held_out(weights: torch.Tensor, share: float, generator: torch.Generator) -> list[int]:
    """Indices of the samples that only measure, in order: ``share`` of them, at least one fewer than all.

    Samples come in order of time and neighbours are near copies, so whole blocks of them are held out. A block with
    all the positive weight that is left for training stays in training; fewer samples are then held out.
    """
    count = min(round(share * len(weights)), len(weights) - 1)
    blocks = torch.arange(len(weights)).split(max(1, min(HOLDOUT_BLOCK, count)))
    left, held = int((weights > 0).sum()), []
    for i in torch.randperm(len(blocks), generator=generator).tolist():
        block = blocks[i][: count - len(held)]
        positive = int((weights[block] > 0).sum())
        if positive < left:
            left -= positive
            held += block.tolist()
    return sorted(held)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate at ``step`` (from 0): linear warm-up, then linear decay that would reach
    zero one step after the last."""
    warm_up = max(1, min(WARM_UP_STEPS, math.ceil(WARM_UP_SHARE * steps)))
    return min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up + 1))


def _tree(
    vlm: Vlm, parent: Path | None, config: TuningConfig, group: ProcessGroup
) -> tuple[torch.nn.Module, LoraConfig]:
    tree = lora.twin(vlm.model)
    wanted = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        bias="none",
        target_modules=vlm.architecture.targets(config.targets),
    )
    if parent is None:
        lora.add_fresh(tree, wanted, _NAME, config.seed)
    else:
        saved = lora.read(parent)
        lora.add_saved(tree, saved, _NAME)
        for name, field in (("rank", "r"), ("alpha", "lora_alpha"), ("targets", "target_modules")):
            if getattr(saved.config, field) != getattr(wanted, field):
                raise TuningFailed(f"the parent adapter has another {name}; keep it, or start from base")
    # Each process has other samples, which get other masks.
    generator = lora.use_dropout(tree, _NAME, config.dropout, (config.seed + group.rank) % 2**64)
    if config.checkpointing:
        lora.checkpoint_layers(tree, generator)
    lora.switch_dropout(tree, False)
    lora.train_only(tree, _NAME)
    return tree, wanted


def _backward(
    vlm, tree, task, samples, weights, parameters, config: TuningConfig, ask: Callable[[], None], group: ProcessGroup
) -> float:
    """The RALW loss of one batch, whose gradient is in ``parameters`` afterwards.

    Each process takes its share, and ``micro_batch`` samples of it through the model at a time. N_v of Eq. 6 counts
    the tokens of the whole batch, so that the sum of parts is divided once, at the end.
    """
    size = min(config.micro_batch or len(samples), len(samples))
    undivided = size == len(samples) and group.size == 1
    samples, weights = group.share(samples), group.share(weights)
    total, tokens = 0.0, 0
    for start in range(0, len(samples), size):
        ask()
        part = slice(start, start + size)
        logits, labels = _forward(vlm, tree, task, samples[part])
        loss = ralw.loss(logits, labels, weights[part], config.label_smoothing)
        if undivided:
            loss.backward()
            return float(loss.detach())
        count = int((labels != IGNORED).sum())
        (loss * count).backward()
        total, tokens = total + float(loss.detach()) * count, tokens + count
    total, tokens = group.sum(total, tokens)
    group.sum_gradients(parameters)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad /= tokens
    return total / tokens


def _forward(vlm: Vlm, tree: torch.nn.Module, task: Task, samples: Sequence[Sample]):
    """Logits [B,T,V] of the answers' positions, and their labels [B,T]."""
    style = vlm.defaults.prompt_style
    batch = vlm.encoder(
        [task.prompt(sample.observation.state, style) for sample in samples],
        [sample.observation.frame for sample in samples],
        [task.format(sample.action) for sample in samples],
    )
    batch = {key: value.to(vlm.device) for key, value in batch.items()}
    labels = batch.pop("labels")
    # Answers end their rows; each is predicted from the token before it. No other logits are needed, and at a
    # vocabulary of 150,000 none can be afforded.
    longest = int((labels != IGNORED).sum(1).max())
    logits = tree(**batch, logits_to_keep=longest + 1, use_cache=False).logits
    return logits[:, :-1], labels[:, -longest:]


@torch.no_grad()
def _holdout_loss(
    vlm, tree, task, samples, batch_size: int, ask: Callable[[], None], group: ProcessGroup
) -> float:
    """Unweighted NLL per answer token, nats; NaN without samples."""
    total, tokens, samples = 0.0, 0, group.share(samples)
    for start in range(0, len(samples), batch_size):
        ask()
        part = samples[start : start + batch_size]
        logits, labels = _forward(vlm, tree, task, part)
        count = int((labels != IGNORED).sum())
        total += float(ralw.loss(logits, labels, torch.ones(len(part)), label_smoothing=0.0)) * count
        tokens += count
    total, tokens = group.sum(total, tokens)
    return total / tokens if tokens else math.nan
