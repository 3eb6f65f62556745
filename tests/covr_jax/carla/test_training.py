"""A short training run over the scripted simulator."""

from __future__ import annotations

import pytest

pytest.importorskip("carla", reason="needs CARLA's client: pip install carla==0.9.16")

from covr_jax.loop import Trainer
from tests.covr_jax.carla.simulator import TIMEOUT, Simulator
from tests.covr_jax.carla.worlds import carla_env
from tests.covr_jax.runs import CONFIG, Records, change


class Checkpoints(Records):
    def __init__(self):
        super().__init__()
        self.at = []

    def checkpoint(self, decisions, learner, state, replay):
        assert not replay.running(), "an episode that cannot be driven again is no place to go on from"
        self.at.append(decisions)


def test_a_run_outlives_a_fault_and_keeps_checkpoints_between_episodes_alone():
    """Episodes of ten decisions; the third one is cut in its second, the run ends within the fourth."""
    config = change(
        env={"name": "carla/highway"},
        run={"step_unit": "decisions", "steps": 25, "random_decisions": 30, "eval_every": 25, "log_every": 5,
             "checkpoint_every": 8, "eval_episodes": 1},
    )  # fmt: skip
    sim, other, records = Simulator(), Simulator(), Checkpoints()
    size = CONFIG.env.render_size
    env, evaluation = (carla_env(each, size=size, vehicles=1, horizon=40) for each in (sim, other))
    third = 1 + 3 * 5 + 2 + 2 * 40 + 6  # connecting, warm-ups, clearing, two episodes, and into the third

    def before(call):
        if call == "World.tick" and sim.ticks == third:
            sim.before = lambda call: None
            raise RuntimeError(TIMEOUT)

    sim.before = before
    with Trainer(config, env, [evaluation], records) as trainer:
        trainer.run()
    env.close()
    evaluation.close()
    assert records.lines["metrics"][-1]["faults"] == 1 and env.faults == 1
    assert trainer.counters.episodes == 3 and trainer.counters.decisions == 25
    assert records.at == [10, 20], "after whole episodes, and none at the end"
    assert len(records.lines["evaluations"][-1]["returns"]) == 1
    assert sim.left == other.left == []
