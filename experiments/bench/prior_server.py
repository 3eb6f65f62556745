"""What the benches of the prior server share: a server of their own, clients with connections of their own, targets,
records.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from covr.prior.v1 import prior_pb2 as pb
from covr.prior.v1 import prior_pb2_grpc as pb_grpc

from experiments import environment_info
from vlm_server import pictures

TASK = "dmc/cartpole/swingup"
DEADLINE_S = 120.0
PACKAGES = ("covr-jax", "torch", "transformers", "peft", "grpcio", "protobuf", "numpy")
FREE = pb.Decoding.CONSTRAINT_FREE


def frames(count: int, seed: int = 0) -> np.ndarray:
    """Drawn pictures, uint8 [count,84,84,3]."""
    return pictures.KINDS["shape"](np.random.default_rng(seed), count).frames


def observation(frame: np.ndarray) -> pb.Observation:
    height, width, channels = frame.shape
    return pb.Observation(frame=pb.Frame(height=height, width=width, channels=channels, data=frame.tobytes()))


@dataclass(frozen=True)
class Process:
    """A server that runs: its address, and where Linux tells of it."""

    address: str
    pid: int
    metrics_port: int

    def memory_mb(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextmanager
def serving(model: str, adapters: Path, *arguments: str, metrics_port: int = 0) -> Iterator[Process]:
    """A server as a process of its own.

    Raises:
        ValueError: it did not start; one line with its last words.
    """
    command = [sys.executable, "-m", "vlm_server", f"--model={model}", f"--adapters={adapters}", "--exit_with_parent"]
    log = adapters.parent / "server.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [*command, f"--metrics_port={metrics_port}", *arguments], stdout=subprocess.PIPE, stderr=words, text=True
        )
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise ValueError(f"the server did not start: {' '.join(log.read_text().splitlines()[-1:])}")
        yield Process(address, process.pid, metrics_port)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()


class Client:
    """One connection, which the server takes for one client."""

    def __init__(self, address: str):
        # Channels of one process share a connection unless told otherwise.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options)
        self._prior = pb_grpc.PriorServiceStub(self._channel)
        self.tuning = pb_grpc.TuningServiceStub(self._channel)
        self.adapters = pb_grpc.AdapterServiceStub(self._channel)

    def ask(self, seen: Sequence[pb.Observation], run: str = "", constraint: int = 0) -> pb.PredictResponse:
        decoding = pb.Decoding(constraint=constraint)
        request = pb.PredictRequest(task=TASK, run=run, observations=seen, decoding=decoding)
        return self._prior.Predict(request, timeout=DEADLINE_S)

    def close(self) -> None:
        self._channel.close()


def tune(client: Client, run: str, steps: int, seed: int, samples: int = 64) -> str:
    """Orders a job of ``steps`` steps on drawn pictures and random answers, which is activated; its id."""
    rng = np.random.default_rng(seed)
    learned = [
        pb.Sample(observation=observation(frame), action=[round(float(rng.uniform(-1, 1)), 2)], return_to_go=1.0)
        for frame in frames(samples, seed)
    ]
    upload = [
        pb.UploadSamplesRequest(header=pb.UploadHeader(task=TASK, run=run)),
        pb.UploadSamplesRequest(chunk=pb.SampleChunk(samples=learned)),
    ]
    dataset = client.tuning.UploadSamples(iter(upload), timeout=DEADLINE_S).dataset
    config = pb.TuningConfig(epochs=1000, max_steps=steps, seed=seed, learning_rate=3e-3)
    request = pb.StartTuningRequest(run=run, dataset=dataset, config=config, activate=True, request_id=f"bench-{seed}")
    return client.tuning.StartTuning(request, timeout=DEADLINE_S).job


def watched(client: Client, job: str) -> pb.WatchTuningResponse:
    """The last word on a job.

    Raises:
        ValueError: it made no version.
    """
    last = list(client.tuning.WatchTuning(pb.WatchTuningRequest(job=job), timeout=3600))[-1]
    if last.state != pb.JOB_STATE_DONE:
        raise ValueError(f"a tuning job ended as {pb.JobState.Name(last.state)}: {last.error}")
    return last


def together(work: Callable[[int], None], count: int) -> float:
    """Runs ``work(0)`` to ``work(count - 1)`` on threads of their own; seconds until all have ended.

    Raises:
        what one of them raised.
    """
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - started


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(milliseconds, q)) for q in (50, 90, 99)}


@dataclass(frozen=True)
class Target:
    """A figure that is held against a bound."""

    name: str
    measured: float
    relation: str  # one of _RELATIONS
    bound: float

    @property
    def held(self) -> bool:
        return bool(_RELATIONS[self.relation](self.measured, self.bound))

    @property
    def row(self) -> tuple[str, str, str, str]:
        wanted = f"{self.relation} {self.bound:g}"
        return self.name, f"{self.measured:.4g}", wanted, "held" if self.held else "missed"


_RELATIONS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


def judged(rows: Sequence[Target | tuple[str, str]], figures: dict[str, Any], out: str) -> int:
    """Prints a row a figure, what is wanted of it and whether it held; writes the figures; the exit status.

    Args:
        rows: targets, and names with texts of figures that nothing is wanted of.
        out: JSON file for the figures, the targets and what they may depend on; "" writes nothing.

    Returns:
        1 if a target was missed, else 0.
    """
    lines = [("", "measured", "wanted", "")]
    lines += [row.row if isinstance(row, Target) else (*row, "", "") for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    targets = [row for row in rows if isinstance(row, Target)]
    _write(out, figures | {"targets": [dataclasses.asdict(each) | {"held": each.held} for each in targets]})
    return int(not all(each.held for each in targets))


def _write(out: str, figures: dict[str, Any]) -> None:
    if out:
        environment = {
            "cpu_model": environment_info.cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "load_average": os.getloadavg(),
            "packages": {name: environment_info.version(name) for name in PACKAGES},
            "git": environment_info.git(Path(__file__).parent),
        }
        document = figures | {"environment": environment}
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(document, indent=2) + "\n")
