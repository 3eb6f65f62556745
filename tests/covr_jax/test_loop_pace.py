"""What the loop may not do while it runs: compile again, wait for the device, or depend on where frames lie."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax import envs
from covr_jax.learner import Learner
from covr_jax.loop import Trainer
from tests.covr_jax.runs import CONFIG, Records, change, same

STORAGES = ("host", "device")


class Timed(Records):
    def __init__(self):
        super().__init__()
        self.timings = []

    def timing(self, record):
        self.timings.append(record)


@pytest.fixture(scope="module")
def environments():
    with envs.make(CONFIG.env) as training, envs.make(CONFIG.env) as evaluation:
        yield training, evaluation


@pytest.fixture(scope="module")
def ended(environments):
    """Two runs of 180 decisions that differ in ``replay.storage`` alone: trainers and records."""
    run = {"steps": 1440, "log_every": 240, "eval_every": 480, "eval_episodes": 1}
    with pytest.MonkeyPatch.context() as patch:
        learner = Learner(CONFIG.learner, 1, CONFIG.env.frame_stack)
        patch.setattr("covr_jax.loop.Learner", lambda *_: learner)  # compiled once
        ends = {}
        for where in STORAGES:
            records = Timed()
            config = change(replay={"capacity": 90, "storage": where}, run=run)
            with Trainer(config, environments[0], environments[1:], records) as trainer:
                trainer.run()
            ends[where] = trainer, records
    return ends


def test_a_run_is_the_same_from_both_storages(ended):
    (host, host_records), (device, device_records) = (ended[where] for where in STORAGES)
    assert same((host.state.params, host.state.opt), (device.state.params, device.state.opt))
    held = np.asarray(host.replay.held)
    np.testing.assert_array_equal(host.replay.frames(held), device.replay.frames(held))
    assert len(host_records.lines["metrics"]) == 6 and str(host_records.lines) == str(device_records.lines)
    assert {record["replay_storage"] for record in device_records.timings} == {"device"}


def test_nothing_is_compiled_after_warm_up(ended):
    """From the first evaluation on: over updates, ends of episodes, records and evaluations."""
    for where in STORAGES:
        programs = {record["frames"]: record["programs"] for record in ended[where][1].timings}
        assert list(programs) == [240, 480, 720, 960, 1200, 1440]
        assert programs[720] == programs[1440]
    assert ended["host"][1].timings[0]["programs"] > 0


class Unread:
    """A scalar on the device: whoever wants its value would wait for the update."""

    def _read(self, *_):
        raise AssertionError("the loop waited for an update's metrics")

    __array__ = __float__ = __int__ = __bool__ = __str__ = __repr__ = _read


def test_metrics_are_not_waited_for_between_two_records(environments, monkeypatch):
    with Trainer(change(run={"random_decisions": 5}), environments[0], [], Records()) as trainer:
        monkeypatch.setattr(trainer.learner, "update", lambda state, batch: (state, {"critic_loss": Unread()}))
        monkeypatch.setattr(trainer.learner, "sample_action", lambda *_: np.zeros((1, 1), np.float32))
        with pytest.raises(AssertionError, match="waited for an update"):  # at the first record
            trainer.episode()
    assert trainer.steps == trainer.config.run.log_every
