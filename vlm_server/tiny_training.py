"""How the tiny model learns to see and to answer: two stages over procedural pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from vlm_server import pictures
from vlm_server.tiny_batches import Encoder, patches

SEEING = (
    0.5  # share of the steps that train the vision tower alone; such a step takes half the time of the others
)
PEAK = 2e-3  # learning rate; 4e-3 diverges
VISION_PEAK = 1e-3  # of the vision tower once words are trained, too
WARM_UP = 60  # steps
EASY = 0.04  # share of the steps in words that see one shape on one colour before anything else
# Chance of each kind of picture.
MIX = {"easy_shape": 0.08, "shape": 0.12, "pair": 0.06, "bar": 0.33, "arm": 0.23, "named": 0.18}

Report = Callable[[int, int, str, float], None]  # step, steps of the stage, kind of picture, loss


def learning_rate(step: int, steps: int) -> float:
    """Factor on the peak: a linear warm-up, then linear to 3%."""
    return min(1, (step + 1) / WARM_UP) * (1 - 0.97 * step / steps)


def nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood in nats a token. Logits [N,T,V] at t predict labels [N,T] at t+1; labels
    of -100 are ignored.
    """
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)


def facts_error(guess: torch.Tensor, facts: np.ndarray) -> torch.Tensor:
    """Mean squared error over the facts that a picture has; guess [N,F], facts [N,F] with NaN elsewhere."""
    truth = torch.from_numpy(facts)
    known = ~truth.isnan()
    return (guess[known] - truth[known]).square().mean()


class Trainer:
    """First the vision tower learns to hold what there is to see, read out by a linear layer that is thrown
    away; then the whole model learns to put it into words, with the read-out as an auxiliary loss. Words
    alone leave the digits unread for thousands of steps.
    """

    def __init__(self, model: torch.nn.Module, encoder: Encoder, seed: int, batch: int):
        self.model, self.encoder, self.batch = model, encoder, batch
        self.rng = np.random.default_rng(seed)
        self.vision = model.model.visual
        self.read_out = torch.nn.Linear(model.config.text_config.hidden_size, len(pictures.FACTS))
        self.losses: dict[str, list[float]] = {"facts": [], "words": []}

    def see(self, steps: int, report: Report) -> None:
        """Trains the vision tower on the facts."""
        optimizer = _adamw(
            [{"params": [*self.vision.parameters(), *self.read_out.parameters()], "peak": PEAK}]
        )
        for step in range(steps):
            kind, drawn = self._draw()
            pixels, grid = patches(drawn.frames)
            loss = facts_error(self.read_out(self.vision(pixels, grid_thw=grid).pooler_output), drawn.facts)
            _step(optimizer, loss, step, steps)
            self.losses["facts"].append(loss.item())
            report(step, steps, kind, loss.item())

    def say(self, steps: int, report: Report) -> None:
        """Trains the whole model on questions and answers."""
        vision = {id(p) for p in self.vision.parameters()}
        words = [p for p in self.model.parameters() if id(p) not in vision]
        groups = [
            {"params": words, "peak": PEAK},
            {"params": [*self.vision.parameters(), *self.read_out.parameters()], "peak": VISION_PEAK},
        ]
        optimizer, seen = _adamw(groups), []
        # One picture is one token, so the merger's rows are the pictures.
        hook = self.vision.merger.register_forward_hook(lambda module, inputs, out: seen.append(out))
        for step in range(steps):
            kind, drawn = self._draw(easy=step < EASY * steps)
            inputs, labels = self.encoder.pairs(drawn.frames, drawn.questions, drawn.answers)
            loss = nll(self.model(**inputs, use_cache=False).logits, labels)
            _step(optimizer, loss + facts_error(self.read_out(seen.pop()), drawn.facts), step, steps)
            self.losses["words"].append(loss.item())
            report(step, steps, kind, loss.item())
        hook.remove()

    def _draw(self, easy: bool = False) -> tuple[str, pictures.Pictures]:
        kind = "easy_shape" if easy else str(self.rng.choice(list(MIX), p=list(MIX.values())))
        return kind, pictures.KINDS[kind](self.rng, self.batch)


def _adamw(groups: list[dict]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.01, fused=True)


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * learning_rate(step, steps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()


def train(
    model: torch.nn.Module, encoder: Encoder, seed: int, steps: int, batch: int, report: Report | None = None
) -> dict[str, list[float]]:
    """Trains ``model`` in place; returns the loss of every step, under "facts" (first stage) and "words"."""
    # The read-out is drawn from torch's generator.
    torch.manual_seed(seed)
    trainer = Trainer(model, encoder, seed, batch)
    report = report or (lambda step, steps, kind, loss: None)
    model.train()
    seeing = round(SEEING * steps)
    trainer.see(seeing, report)
    trainer.say(steps - seeing, report)
    model.eval()
    return trainer.losses
