"""The prior server's model on an accelerator. Run by `make test-gpu`."""

from __future__ import annotations

import pytest
import torch

from tests.vlm_server import checkpoints
from vlm_server import models, tasks, tuning
from vlm_server.defaults import TuningConfig
from vlm_server.engine import Engine, Observation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator"),
]
TASK = tasks.get("dmc/cartpole/swingup")


@pytest.fixture(scope="module")
def vlm():
    return models.load("tiny", device="cuda")


def test_constrained_replies_parse(vlm):
    frames = checkpoints.frames(4, 84, 0)
    replies, _ = Engine(vlm).predict(TASK, [Observation(frame, {}) for frame in frames], None, True, 0)
    assert [TASK.parse(reply.text)[1] for reply in replies] == ["ok"] * 4


def test_a_tuning_job_lowers_its_loss(vlm):
    frames = checkpoints.frames(32, 84, 1)
    samples = [tuning.Sample(Observation(frame, {}), (0.5,), 1.0) for frame in frames]
    losses = []
    config = TuningConfig(rank=8, alpha=16, dropout=0.0, learning_rate=3e-3, epochs=10, batch_size=8)
    tuning.train(vlm, TASK, samples, None, config, lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < losses[0]
