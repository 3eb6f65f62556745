"""A trainer that was stopped or lost, and restored, ends as one that never was: state, replay and records."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

from covr_jax import envs, loop, seeds
from covr_jax.learner import Learner
from covr_jax.loop import Trainer
from covr_jax.priors import teachers
from covr_jax.snapshots import Snapshots
from tests.covr_jax.runs import CONFIG, TASK, Records, Tunable, change, same


class Lost(BaseException):
    """Stands for a kill: nothing that handles errors handles it."""


class Kept(Records):
    """Records whose length a snapshot notes; ``at`` maps a decision to what happens after it."""

    def __init__(self, store, at):
        super().__init__()
        self.store, self.at, self.trainer = store, at, None

    def checkpoint(self, decisions, learner, state, replay):
        lengths = {stream: len(lines) for stream, lines in self.lines.items()}
        self.store.save(decisions, learner, state | {"lines": lengths}, replay)

    def progress(self, steps, notes):
        {"stop": self.trainer.stop, "lose": self._lose}.get(
            self.at.get(self.trainer.counters.decisions), lambda: None
        )()

    def _lose(self):
        raise Lost


@pytest.fixture(scope="module")
def environments():
    made = [envs.make(CONFIG.env) for _ in range(2)]
    yield made
    for env in made:
        env.close()


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(loop, "Learner", cache(Learner))


def session(config, environments, prior, store, lines, at):
    """One session. Returns the trainer, its records, and whether it was lost."""
    records = Kept(store, at)
    env, *eval_envs = environments
    with Trainer(config, env, eval_envs, records, prior) as trainer:
        records.trainer = trainer
        saved = store.newest()
        if saved is not None:
            trainer.restore(saved.learner(trainer.state), saved.state, saved.frames())
            records.lines = {name: lines[name][:count] for name, count in saved.state["lines"].items()}
        try:
            trainer.run()
        except Lost:
            return trainer, records.lines, True
        return trainer, records.lines, False


def whole(trainer):
    replay = trainer.replay
    return {"learner": trainer.state, "replay": replay.state(), "frames": replay.frames(np.asarray(replay.held))}


CASES = {
    "sac": (change(learner={"base": "sac", "augmentation": "none", "image_size": 24}), lambda: None),
    "rad, a small replay": (change(replay={"capacity": 150}), lambda: None),
    "deepmdp": (change(learner={"base": "deepmdp", "augmentation": "none", "image_size": 24}), lambda: None),
    "dpl": (change(learner={"method": "dpl"}), lambda: teachers.make("random", TASK, 1)),
    "dpl, masked": (
        change(learner={"method": "dpl"}, prior={"hold": "mask", "lag": 9, "group": 4, "period": 40}),
        lambda: teachers.make("random", TASK, 1),
    ),
    "covr": (change(learner={"method": "covr"}), Tunable),
    "covr, truncated episodes": (
        change(learner={"method": "covr"}, rounds={"open_episode": "truncate", "psi0": 240}), Tunable,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_lost_and_restored_is_as_never_stopped(case, environments, tmp_path):
    config, prior = CASES[case]
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, checkpoint_every=500))
    never, records, _ = session(config, environments, prior(), Snapshots(tmp_path / "never", {}), {}, {})
    rng = seeds.generator(1, "episode", len(case))
    # Stops within the random decisions, within both episodes, at the end of the first, of 125 decisions, and just
    # before the end. Each is followed by a session that is lost some decisions later.
    stops = [int(rng.integers(1, 20)), int(rng.integers(30, 120)), 125, int(rng.integers(126, 160)), 197]
    lines, store = {}, tmp_path / "often"
    for stop in stops:
        for decision, what in ((stop, "stop"), (stop + int(rng.integers(1, 3)), "lose")):
            last, lines, lost = session(
                config, environments, prior(), Snapshots(store, {}), lines, {decision: what}
            )
            assert lost == (what == "lose") and last.counters.decisions == decision
    last, lines, _ = session(config, environments, prior(), Snapshots(store, {}), lines, {})
    assert lines == records
    assert same(whole(last), whole(never))
