"""How well the tiny model reads fresh pictures."""

from __future__ import annotations

import math
import re

import numpy as np
import torch

from vlm_server import pictures
from vlm_server.tiny_batches import Encoder

LONGEST = 6  # numbers in a reply that is measured; longer ones only repeat


@torch.no_grad()
def ask(
    model: torch.nn.Module, encoder: Encoder, frames: np.ndarray, questions: list[str], tokens: int
) -> list[str]:
    """Greedy answers of at most ``tokens`` tokens to pictures uint8 [N,84,84,3]."""
    inputs = encoder.question(frames, questions)
    out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in encoder.tokens.batch_decode(out, skip_special_tokens=True)]


def parse(text: str) -> dict[str, float]:
    """The named numbers of an answer; what does not read ``name: 0.00`` is left out."""
    return {name: float(value) for name, value in re.findall(r"(\S+): (-?\d\.\d\d)(?!\d)", text)}


def measure(
    model: torch.nn.Module, encoder: Encoder, batches: int = 24, batch: int = 16
) -> dict[str, dict[str, dict[str, float | None]]]:
    """By kind of picture and name of the number: mean absolute error of greedy answers (``mae``), that of
    the best constant answer (``constant``), share of pictures whose answer has the right sign (``sign``)
    and that names the number (``answered``). Colours are pooled, and so are the odd and the even places of
    action names.
    """
    return {kind: _measure(model, encoder, kind, batches, batch) for kind in pictures.KINDS}


def _measure(model: torch.nn.Module, encoder: Encoder, kind: str, batches: int, batch: int):
    rng = np.random.default_rng((10_000, list(pictures.KINDS).index(kind)))
    pairs: dict[str, list[tuple[float, float]]] = {}
    for _ in range(batches):
        drawn = pictures.KINDS[kind](rng, batch)
        if len(drawn.names[0]) > LONGEST:
            continue
        replies = ask(model, encoder, drawn.frames, drawn.questions, 12 * len(drawn.names[0]))
        for text, names, values in zip(replies, drawn.names, drawn.values, strict=True):
            found = parse(text)
            for place, (name, value) in enumerate(zip(names, values, strict=True)):
                pairs.setdefault(_pool(kind, name, place), []).append(
                    (found.get(name, math.nan), float(value))
                )
    return {key: _summary(np.array(p)) for key, p in pairs.items()}


def _pool(kind: str, name: str, place: int) -> str:
    return {"pair": name[-1], "named": ("odd", "even")[place % 2]}.get(kind, name)


def _summary(pairs: np.ndarray) -> dict[str, float | None]:
    given, truth = pairs.T
    answered = np.isfinite(given)
    mae = np.abs(given - truth)[answered].mean() if answered.any() else None
    figures = {
        "mae": mae,
        "constant": np.abs(truth - np.median(truth)).mean(),
        "sign": (np.sign(given) == np.sign(truth)).mean(),
        "answered": answered.mean(),
    }
    return {key: None if value is None else round(float(value), 3) for key, value in figures.items()}
