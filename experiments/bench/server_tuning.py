"""Questions while the model is tuned: are the answers right, how slow are they, how long does an activation stop them?

    python -m experiments.bench.server_tuning --out=tuning.json

Clients ask without a pause, first while the server is idle else, then while --jobs tuning jobs run one after the other,
each of which activates its version. Afterwards every answer is computed again, offline, from the version that it names,
and has to be the same to the letter. An answer that fails, or names another digest than the version on disk, is wrong.
Fewer adapters fit into memory than there are versions, so that each activation evicts one that may still be asked. The
exit status is 1 if a target is missed; where fewer than --requests questions fell into the jobs, raise --steps.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from absl import flags
from tqdm import tqdm

from experiments.bench import offline_answers, prior_server
from experiments.bench.offline_answers import Answer
from experiments.bench.prior_server import FREE, Client, Target
from vlm_server import command_line

_MODEL = flags.DEFINE_string("model", "tiny", "As of python -m vlm_server.")
_CLIENTS = flags.DEFINE_integer("clients", 4, "Clients that ask at once.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 2000, "Questions that have to fall into the jobs.", lower_bound=1)
_IDLE = flags.DEFINE_integer("idle_requests", 400, "Questions before them.", lower_bound=1)
_JOBS = flags.DEFINE_integer("jobs", 3, "Tuning jobs.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 300, "Optimiser steps of a job.", lower_bound=1)
_RESIDENT = flags.DEFINE_integer("max_resident_adapters", 1, "As of python -m vlm_server.", lower_bound=1)
_PORT = flags.DEFINE_integer("metrics_port", 19123, "Free port for the server's metrics.", lower_bound=1024)
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
RUN, FRAMES = "bench", 64
_SHORT = re.compile(r'activation_pause_seconds_bucket\{le="0.1"\} ([0-9.]+)')
_COUNT = re.compile(r"activation_pause_seconds_count ([0-9.e+-]+)")
_SUM = re.compile(r"activation_pause_seconds_sum ([0-9.e+-]+)")


@dataclass(frozen=True)
class Asked:
    """One question and what came of it."""

    frame: int
    began: float  # seconds on this process's clock
    ended: float
    version: str = ""
    digest: str = ""
    text: str = ""
    error: str = ""

    @property
    def milliseconds(self) -> float:
        return (self.ended - self.began) * 1e3


class Askers:
    """Clients that ask one question after the other until they are stopped."""

    def __init__(self, address: str, bar: tqdm):
        self.asked: list[Asked] = []
        self._bar, self._stop = bar, threading.Event()
        self._clients = [Client(address) for _ in range(_CLIENTS.value)]
        self._seen = [prior_server.observation(frame) for frame in prior_server.frames(FRAMES)]
        self._thread = threading.Thread(target=lambda: prior_server.together(self._ask, len(self._clients)))
        self._thread.start()

    def _ask(self, index: int) -> None:
        frame = index
        while not self._stop.is_set():
            frame = (frame + len(self._clients)) % FRAMES
            began = time.perf_counter()
            try:
                reply = self._clients[index].ask([self._seen[frame]], RUN, FREE)
                known = (reply.adapter.version, reply.adapter.digest, reply.predictions[0].text)
                self.asked.append(Asked(frame, began, time.perf_counter(), *known))
            except Exception as error:  # whatever it is, it is no answer
                self.asked.append(Asked(frame, began, time.perf_counter(), error=str(error)))
            self._bar.update()

    def wait(self, count: int) -> None:
        """Returns when so many more questions have ended."""
        until = len(self.asked) + count
        while len(self.asked) < until:
            time.sleep(0.01)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for client in self._clients:
            client.close()


def main() -> int:
    torch.set_num_threads(1)
    activated: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "adapters"
        resident = f"--max_resident_adapters={_RESIDENT.value}"
        with prior_server.serving(_MODEL.value, folder, resident, metrics_port=_PORT.value) as server:
            tuner = Client(server.address)
            with tqdm(total=_IDLE.value + _REQUESTS.value, unit="question") as bar:
                askers = Askers(server.address, bar)
                bar.set_description("idle")
                askers.wait(_CLIENTS.value * 4)  # connections and first batches
                began = time.perf_counter()
                askers.wait(_IDLE.value)
                tuning = time.perf_counter()
                for number in range(_JOBS.value):
                    bar.set_description(f"job {number + 1} of {_JOBS.value}")
                    job = prior_server.tune(tuner, RUN, _STEPS.value, seed=number)
                    prior_server.watched(tuner, job)
                    activated.append((time.perf_counter(), f"v{number + 1}"))
                ended = time.perf_counter()
                askers.wait(_CLIENTS.value * 4)  # of the last version, too
                askers.close()
            pauses = urllib.request.urlopen(f"http://127.0.0.1:{_PORT.value}/metrics", timeout=10).read().decode()
            tuner.close()
        answers = [Answer(each.frame, each.version, each.digest, each.text) for each in askers.asked if not each.error]
        frames = prior_server.frames(FRAMES)
        wrong = offline_answers.wrong(folder, _MODEL.value, RUN, answers, frames, constrained=False)
    idle = [each.milliseconds for each in askers.asked if began <= each.began < tuning and not each.error]
    during = [each for each in askers.asked if tuning <= each.began < ended]
    busy = [each.milliseconds for each in during if not each.error]
    figures = {
        "questions_during_tuning": len(during),
        "failed": sum(bool(each.error) for each in askers.asked),
        "wrong": wrong,
        "answers_by_version": Counter(each.version for each in askers.asked if not each.error),
        "idle_ms": prior_server.percentiles(idle),
        "tuning_ms": prior_server.percentiles(busy),
        "p50_over_idle": prior_server.percentiles(busy)["p50"] / prior_server.percentiles(idle)["p50"],
        "pauses": (count := int(float(_COUNT.search(pauses)[1]))),  # an activation makes two
        "pause_ms_mean": float(_SUM.search(pauses)[1]) / count * 1e3,
        "pauses_within_100_ms": int(float(_SHORT.search(pauses)[1])),
        "gap_ms": {version: _gap(askers.asked, moment) for moment, version in activated},
        "seconds_of_tuning": ended - tuning,
        "settings": {flag.name: flag.value for flag in (_MODEL, _CLIENTS, _REQUESTS, _JOBS, _STEPS, _RESIDENT)},
    }
    rows = [
        Target("questions during the jobs", len(during), ">=", _REQUESTS.value),
        Target("failed", figures["failed"], "=", 0),
        Target("wrong, computed again offline", wrong, "=", 0),
        ("answers by version", str(dict(figures["answers_by_version"]))),
        ("p50 ms, idle and during", f"{figures['idle_ms']['p50']:.1f}, {figures['tuning_ms']['p50']:.1f}"),
        Target("their ratio", figures["p50_over_idle"], "<=", 2.5),
        Target("pause of an activation (it makes two), mean ms", figures["pause_ms_mean"], "<=", 100),
        Target("pauses of at most 100 ms", figures["pauses_within_100_ms"], "=", count),
        ("longest time without an answer around each, ms", str(figures["gap_ms"])),
    ]
    return prior_server.judged(rows, figures, _OUT.value)


def _gap(asked: list[Asked], moment: float) -> float:
    """The longest time without an answer that touches the second before or after a moment, milliseconds."""
    between = itertools.pairwise(sorted(each.ended for each in asked))
    return round(max(b - a for a, b in between if b > moment - 1 and a < moment + 1) * 1e3, 1)


if __name__ == "__main__":
    command_line.run(main, "server_tuning")
