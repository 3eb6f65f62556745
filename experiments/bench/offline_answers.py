"""Answers of a server, computed again without it: an answer that its version does not give is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from experiments.bench import prior_server
from vlm_server import models, tasks
from vlm_server.adapters import BASE, AdapterStore
from vlm_server.engine import Engine, Observation


class Answer(NamedTuple):
    """What a client was told."""

    frame: int  # number of the picture
    version: str
    digest: str
    text: str


def wrong(folder: Path, model: str, run: str, answers: Sequence[Answer], frames: Sequence, constrained: bool) -> int:
    """How many answers their version, asked alone, does not give to the letter, or have a digest that is not its own.

    Args:
        folder: of the adapters, which no server uses any more.
        frames: pictures that the answers' numbers mean.
        constrained: how the server decoded.
    """
    vlm = models.load(model, "cpu")
    engine, store = Engine(vlm), AdapterStore(folder, vlm.digest)
    digests = {BASE: vlm.digest} | {record.version: record.digest for record in store.list(run)}
    for version in digests.keys() - {BASE}:
        engine.add_adapter(version, store.verify(run, version).folder)
    task = tasks.get(prior_server.TASK)
    tokens = max(vlm.defaults.max_new_tokens, task.max_reply_tokens)
    known: dict[tuple[str, int], str] = {}
    count = 0
    for each in tqdm(answers, desc="computed again", unit="answer"):
        key = (each.version, each.frame)
        if key not in known and each.version in digests:
            adapter = None if each.version == BASE else each.version
            seen = [Observation(frames[each.frame])]
            known[key] = engine.predict(task, seen, adapter, constrained, tokens)[0][0].text
        count += known.get(key) != each.text or digests.get(each.version) != each.digest
    store.close()
    return count
