"""Answers per second of the prior server, and where the time of an answer goes.

    python -m experiments.bench.server_throughput --out=throughput.json

The same pictures are answered in four ways, which take turns so that other work on the machine falls on all of them:

- plain: transformers' own loop, a picture at a time: chat template and processor, ``generate``, decoding of the tokens;
- bare: the ``generate`` call of that loop alone, its inputs prepared before;
- one: one client of the server that waits for each answer;
- many: --clients clients at once, each waiting for its answers.

All decode freely and greedily on one thread, and their texts are compared. Ratios are medians over the rounds. The exit
status is 1 if a target is missed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch
from absl import flags
from tqdm import tqdm

from experiments.bench import prior_server
from experiments.bench.prior_server import FREE, Client, Target
from vlm_server import command_line, models, tasks
from vlm_server.engine import Engine, Observation

_MODEL = flags.DEFINE_string("model", "tiny", "As of python -m vlm_server.")
_CLIENTS = flags.DEFINE_integer("clients", 16, "Clients at once.", lower_bound=2)
_ANSWERS = flags.DEFINE_integer("answers", 64, "Pictures of a round; the clients share them.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds that count, after one that does not.", lower_bound=1)
_DELAY = flags.DEFINE_float("max_delay_ms", 2.0, "As of python -m vlm_server.", lower_bound=0.0)
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")


class Plain:
    """What somebody without a server would write with transformers."""

    def __init__(self, vlm: models.Vlm):
        self._vlm, task = vlm, tasks.get(prior_server.TASK)
        self._prompt = task.prompt({}, vlm.defaults.prompt_style)
        self._tokens = max(vlm.defaults.max_new_tokens, task.max_reply_tokens)

    def prepare(self, frame) -> dict[str, torch.Tensor]:
        content = [{"type": "text", "text": self._prompt}, {"type": "image", "image": frame}]
        turn = {"role": "user", "content": content if self._vlm.defaults.text_first else content[::-1]}
        return self._vlm.processor.apply_chat_template(
            [[turn]], tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
        )

    @torch.inference_mode()
    def generate(self, inputs: dict[str, torch.Tensor], tokens: int = 0) -> torch.Tensor:
        return self._vlm.model.generate(**inputs, max_new_tokens=tokens or self._tokens)

    def text(self, inputs: dict[str, torch.Tensor], tokens: torch.Tensor) -> str:
        return self._vlm.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> int:
    torch.set_num_threads(1)
    vlm = models.load(_MODEL.value, "cpu")
    plain, count = Plain(vlm), _ANSWERS.value
    frames = prior_server.frames(count)
    seen = [prior_server.observation(frame) for frame in frames]
    prepared = [plain.prepare(frame) for frame in frames]
    texts: dict[str, dict[int, str]] = {"plain": {}, "one": {}, "many": {}}
    latencies: dict[str, list[float]] = {"bare": [], "one": [], "many": []}
    replies: dict[str, list] = {"one": [], "many": []}

    def plainly() -> None:
        for i, frame in enumerate(frames):
            inputs = plain.prepare(frame)
            texts["plain"][i] = plain.text(inputs, plain.generate(inputs))

    def barely() -> None:
        for inputs in prepared:
            started = time.perf_counter()
            plain.generate(inputs)
            latencies["bare"].append((time.perf_counter() - started) * 1e3)

    def ask(kind: str, client: Client, indices: range) -> None:
        for i in indices:
            started = time.perf_counter()
            reply = client.ask([seen[i]], constraint=FREE)
            latencies[kind].append((time.perf_counter() - started) * 1e3)
            texts[kind][i] = reply.predictions[0].text
            replies[kind].append(reply)

    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"--max_delay_ms={_DELAY.value}",)
        with prior_server.serving(_MODEL.value, Path(folder) / "adapters", *arguments) as server:
            clients = [Client(server.address) for _ in range(_CLIENTS.value)]
            ways = {
                "plain": plainly,
                "bare": barely,
                "one": lambda: ask("one", clients[0], range(count)),
                "many": lambda: prior_server.together(
                    lambda k: ask("many", clients[k], range(k, count, len(clients))), len(clients)
                ),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            with tqdm(total=(_ROUNDS.value + 1) * len(ways), unit="way") as bar:
                for turn in range(_ROUNDS.value + 1):
                    for name, way in ways.items():
                        bar.set_description(name)
                        started = time.perf_counter()
                        way()
                        if turn:
                            seconds[name].append(time.perf_counter() - started)
                        bar.update()
                    if not turn:
                        for kept in (*latencies.values(), *replies.values()):
                            kept.clear()
            for client in clients:
                client.close()
    return _report(plain, vlm, frames, prepared, seconds, latencies, replies, texts)


def _report(plain, vlm, frames, prepared, seconds, latencies, replies, texts) -> int:
    def faster(fast: str, slow: str) -> float:
        return statistics.median(s / f for f, s in zip(seconds[fast], seconds[slow], strict=True))

    count, clients = _ANSWERS.value, _CLIENTS.value
    per_round = [statistics.median(latencies[kind]) for kind in ("one", "bare")]
    figures = {
        "answers_per_second": {name: count / statistics.median(each) for name, each in seconds.items()},
        "many_over_one": faster("many", "one"),
        "many_over_plain": faster("many", "plain"),
        "one_latency_over_bare": per_round[0] / per_round[1],
        "latency_ms": {name: prior_server.percentiles(each) for name, each in latencies.items()},
        "parts_ms": {kind: _parts(latencies[kind], replies[kind]) for kind in replies},
        "generate_ms": {f"batch_{size}": _generation(vlm, frames, size) for size in (1, min(clients, count))},
        "batch_size_of_many": statistics.mean(reply.timings.batch_size for reply in replies["many"]),
        "different_texts": {kind: sum(texts[kind][i] != texts["plain"][i] for i in range(count)) for kind in replies},
        "seconds": seconds,
        "settings": {"model": _MODEL.value, "clients": clients, "answers": count, "max_delay_ms": _DELAY.value},
    }
    rows = [(f"{name}: answers a second", f"{value:.1f}") for name, value in figures["answers_per_second"].items()]
    rows += [
        Target(f"{clients} clients over one", figures["many_over_one"], ">=", 5),
        Target(f"{clients} clients over the plain loop", figures["many_over_plain"], ">=", 4),
        Target("one client's latency over the bare generate call", figures["one_latency_over_bare"], "<=", 1.15),
        Target("texts that differ from the plain loop's", sum(figures["different_texts"].values()), "=", 0),
        ("frames in a batch of many", f"{figures['batch_size_of_many']:.1f}"),
    ]
    for kind, parts in figures["parts_ms"].items():
        rows.append((f"{kind}: where the time goes, ms", ", ".join(f"{k} {v:.2f}" for k, v in parts.items())))
    for size, parts in figures["generate_ms"].items():
        rows.append((f"{size}: generation, ms", ", ".join(f"{k} {v:.2f}" for k, v in parts.items())))
    return prior_server.judged(rows, figures, _OUT.value)


def _parts(latencies: list[float], replies: list) -> dict[str, float]:
    """Medians, milliseconds: what the server says of itself, and the rest: wire, and threads at its ends."""
    stages = ("queue", "encode", "generate")
    parts = {stage: [getattr(reply.timings, f"{stage}_ms") for reply in replies] for stage in stages}
    parts["wire"] = [whole - sum(each) for whole, *each in zip(latencies, *parts.values(), strict=True)]
    return {name: statistics.median(each) for name, each in parts.items()}


def _generation(vlm: models.Vlm, frames, size: int) -> dict[str, float]:
    """Medians of an engine in this process, milliseconds a batch: up to the first token, and all that follow."""
    engine, task = Engine(vlm), tasks.get(prior_server.TASK)
    seen = [Observation(frame) for frame in frames[:size]]
    first, whole = [], []
    for turn in range(9):
        for tokens, kept in ((1, first), (64, whole)):
            timings = engine.predict(task, seen, max_new_tokens=tokens)[1]
            if turn:
                kept.append(timings.generate_ms)
    return {"prefill": statistics.median(first), "decoding": statistics.median(whole) - statistics.median(first)}


if __name__ == "__main__":
    command_line.run(main, "server_throughput")
