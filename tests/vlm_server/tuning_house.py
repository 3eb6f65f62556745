"""A tuner with real stores, queues and threads, whose trainings end as a test says."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from peft import LoraConfig

from vlm_server import datasets, lora, tasks, tuning
from vlm_server.adapters import AdapterStore
from vlm_server.batching import Batcher
from vlm_server.defaults import TuningConfig
from vlm_server.engine import Observation
from vlm_server.jobs import Job
from vlm_server.orders import Order, OrderBook
from vlm_server.serving import ResidentEngine, ServedAdapters
from vlm_server.tuner import Tuner
from vlm_server.tuning import Sample, Statistics, TuningCancelled, TuningFailed

MODEL = "0" * 64
TASK = tasks.get("carla/highway")


def samples(value: float) -> tuple[Sample, ...]:
    """Three samples that differ in all that a sample may differ in; the first one's return is ``value``."""
    rng = np.random.default_rng(abs(int(value * 1000)))
    states = ({"speed": 7.25, "yaw": -90.0}, {}, {"yaw": 1e-9})
    return tuple(
        Sample(
            Observation(rng.integers(0, 256, (8 + i, 8, 3), dtype=np.uint8), state),
            tuple(float(x) for x in rng.uniform(-1, 1, 2).astype(np.float32)),
            value / (i + 1),
        )
        for i, state in enumerate(states)
    )


class Training:
    """Stands for ``tuning.train``: jobs wait in it until told how to end. Adapters hold their sample's return."""

    def __init__(self):
        self.endings: queue.Queue[str] = queue.Queue()
        self.entered = threading.Semaphore(0)

    def __call__(self, vlm, task, samples, parent, config, progress, cancelled):
        self.entered.release()
        while True:
            if cancelled():
                raise TuningCancelled("cancelled")
            try:
                ending = self.endings.get(timeout=0.002)
                break
            except queue.Empty:
                continue
        if ending == "fail":
            raise TuningFailed("the loss is not finite at step 1")
        statistics = Statistics(*[0.0] * len(Statistics.__dataclass_fields__))
        value = samples[0].return_to_go

        def write(folder: Path) -> dict:
            lora.save(folder, LoraConfig(r=1), {"a": torch.full((2,), value)})
            return {"statistics": {"holdout_loss_before": None, "holdout_loss_after": None}}

        return SimpleNamespace(statistics=statistics, write=write)


class Engine:
    """Takes any adapter."""

    def add_adapter(self, key, folder): ...

    def remove_adapter(self, key): ...

    def check(self, key): ...


class House:
    """All that a server has for tuning, over one folder, from its start to its end."""

    def __init__(self, root: Path, training: Training, max_queued: int = 2, digest: str = MODEL):
        self.root, self.training = root, training
        tuning.train = training
        self.ended: list[str] = []
        self.store = AdapterStore(root, digest)
        self.engine = Engine()
        engine = ResidentEngine(self.engine, self.store, 4)
        self.batcher = Batcher(engine)
        self.sets = datasets.DataSets(2**20)
        self.book = OrderBook(root, self.store.check_room)
        self.served = served = ServedAdapters(self.store, engine, self.batcher, digest)
        vlm = SimpleNamespace(name="fake", digest=digest)
        self.tuner = Tuner(vlm, served, self.sets, self.book, max_queued, self.ended.append)
        self.tuner.resume()

    def submit(self, run: str, ident: str, value: float = 1.0, request_id: str = "", parent: str = "base") -> Job:
        with self.sets.upload(run, TASK) as upload:
            for sample in samples(value):
                upload.append(sample)
            data = upload.finish()
        order = Order(
            ident, run, request_id or ident, TASK.name, data.digest, parent, self.store._model_digest,
            TuningConfig(rank=4, learning_rate=1e-3), activate=True, selection={"tau": 0.1},
        )  # fmt: skip
        return self.tuner.submit(order, data)

    def states(self, job: Job) -> list[str]:
        return [progress.state for progress in self.tuner.jobs.watch(job, lambda: True, poll_s=0.01)]

    def close(self) -> None:
        self.tuner.close(10)
        self.batcher.close(10)
        self.store.close()
