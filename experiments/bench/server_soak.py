"""Many questions and activations: do memory and open files of the server stay where they are?

    python -m experiments.bench.server_soak --out=soak.json

Clients ask --requests questions; meanwhile the active version changes --activations times, through three versions and
the base. Memory and open files are read all the time; the mean over the first tenth of the questions is compared with
that over the last; every answer is computed again, offline, from the version that it names. The exit status is 1 if an
answer failed or is wrong, one of the two grew by more than 3 %, or activations are missing.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
from absl import flags
from covr.prior.v1 import prior_pb2 as pb
from tqdm import tqdm

from experiments.bench import offline_answers, prior_server
from experiments.bench.offline_answers import Answer
from experiments.bench.prior_server import FREE, Client, Target
from vlm_server import command_line

_MODEL = flags.DEFINE_string("model", "tiny", "As of python -m vlm_server.")
_CLIENTS = flags.DEFINE_integer("clients", 16, "Clients that ask at once.", lower_bound=1)
_REQUESTS = flags.DEFINE_integer("requests", 20_000, "Questions in all.", lower_bound=100)
_ACTIVATIONS = flags.DEFINE_integer("activations", 100, "Activations in all.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "Also write the figures to this JSON file.")
RUN, FRAMES, VERSIONS, READINGS, ALLOWED = "soak", 64, ("v1", "v2", "v3", "base"), 400, 0.03


def main() -> int:
    frames = prior_server.frames(FRAMES)
    seen = [prior_server.observation(frame) for frame in frames]
    total, lock = _REQUESTS.value, threading.Lock()
    done = failed = switched = 0
    readings: list[tuple[int, float, int]] = []
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory() as folder:
        # Fewer adapters in memory than there are, so that they come and go.
        with prior_server.serving(_MODEL.value, Path(folder) / "adapters", "--max_resident_adapters=2") as server:
            operator = Client(server.address)
            for number in range(len(VERSIONS) - 1):
                prior_server.watched(operator, prior_server.tune(operator, RUN, 2, seed=number))

            def ask(index: int) -> None:
                nonlocal done, failed
                client = Client(server.address)
                for i in range(index, total, _CLIENTS.value):
                    try:
                        reply = client.ask([seen[i % FRAMES]], RUN, FREE)
                        by = reply.adapter
                        answers.append(Answer(i % FRAMES, by.version, by.digest, reply.predictions[0].text))
                        good = True
                    except Exception:  # whatever it is, it is no answer
                        good = False
                    with lock:
                        done, failed = done + 1, failed + (not good)
                        bar.update()
                        if done % max(1, total // READINGS) == 0:
                            readings.append((done, server.memory_mb(), server.open_files()))
                client.close()

            def activate(_: int) -> None:
                nonlocal switched
                while switched < _ACTIVATIONS.value and done < total:
                    if done * _ACTIVATIONS.value < switched * total:
                        moment.wait(0.01)
                        continue
                    version = VERSIONS[switched % len(VERSIONS)]
                    operator.adapters.ActivateAdapter(pb.ActivateAdapterRequest(run=RUN, version=version), timeout=120)
                    switched += 1

            moment = threading.Event()
            with tqdm(total=total, unit="question") as bar:
                seconds = prior_server.together(
                    lambda k: ask(k) if k < _CLIENTS.value else activate(k), _CLIENTS.value + 1
                )
            operator.close()
        adapters = Path(folder) / "adapters"
        wrong = offline_answers.wrong(adapters, _MODEL.value, RUN, answers, frames, constrained=False)
    first = [each for each in readings if each[0] <= total / 10]
    last = [each for each in readings if each[0] > total * 9 / 10]
    ends = {
        name: [float(np.mean([each[column] for each in part])) for part in (first, last)]
        for column, name in ((1, "memory_mb"), (2, "open_files"))
    }
    growth = {name: after / before - 1 for name, (before, after) in ends.items()}
    figures = {
        "first_and_last_tenth": ends, "growth": growth, "questions": done, "failed": failed, "wrong": wrong,
        "activations": switched, "seconds": seconds, "readings": readings,
    }  # fmt: skip
    rows = [
        *((f"{name}, first and last tenth", f"{a:.1f}, {b:.1f}") for name, (a, b) in ends.items()),
        *(Target(f"{name}, growth", share, "<=", ALLOWED) for name, share in growth.items()),
        ("questions", str(done)),
        Target("failed", failed, "=", 0),
        Target("wrong, computed again offline", wrong, "=", 0),
        Target("activations", switched, ">=", _ACTIVATIONS.value),
        ("answers a second", f"{done / seconds:.1f}"),
    ]
    return prior_server.judged(rows, figures, _OUT.value)


if __name__ == "__main__":
    command_line.run(main, "server_soak")
