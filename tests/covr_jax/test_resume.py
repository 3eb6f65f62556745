"""A trainer that was stopped or lost, and restored, ends as one that never was: state, replay and records."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

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


compiled = cache(Learner)


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch):
    monkeypatch.setattr(loop, "Learner", compiled)


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


def text(lines):
    """Records as text, where NaN equals NaN."""
    return json.dumps(lines, sort_keys=True)


CASES = {
    "deepmdp, a small replay": (
        change(learner={"base": "deepmdp", "augmentation": "none", "image_size": 24}, replay={"capacity": 150}),
        lambda: None,
    ),
    "dpl, hybrid acting, masked": (
        change(
            learner={"method": "dpl"}, prior={"hold": "mask", "lag": 9, "group": 4, "period": 40},
            run={"behaviour": "hybrid_step", "behaviour_every": 3},
        ),
        lambda: teachers.make("random", TASK, 1),
    ),
    "covr, truncated episodes": (
        change(learner={"method": "covr"}, rounds={"open_episode": "truncate", "psi0": 240}), Tunable,
    ),
    "per, its priorities": (
        change(learner={"base": "per", "updates_per_decision": 2}, replay={"capacity": 150}), lambda: None,
    ),
    "resact, the decision before": (
        change(learner={"base": "resact", "augmentation": "translate", "image_size": 26}), lambda: None,
    ),
    "spr, sequences": (change(learner={"base": "spr", "sequence_batch_size": 2}), lambda: None),
}  # fmt: skip
SLOW = ("per, its priorities", "resact, the decision before", "spr, sequences")


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow if case in SLOW else ()) for case in CASES])
def test_stopped_and_lost_and_restored_is_as_never_stopped(case, environments, tmp_path):
    config, prior = CASES[case]
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, checkpoint_every=500))
    never, records, _ = session(config, environments, prior(), Snapshots(tmp_path / "never", {}), {}, {})
    rng = seeds.generator(1, "episode", len(case))
    # Within the random decisions, within both episodes, and at the end of the first, of 125 decisions.
    ends = [(int(rng.integers(1, 20)), "stop"), (int(rng.integers(30, 120)), "stop"), (121, "lose"), (125, "stop")]
    ends += [(int(rng.integers(126, 190)), "stop"), (199, "lose")]
    lines, store = {}, tmp_path / "often"
    for decision, what in ends:
        last, lines, lost = session(config, environments, prior(), Snapshots(store, {}), lines, {decision: what})
        assert lost == (what == "lose") and last.counters.decisions == decision
    last, lines, _ = session(config, environments, prior(), Snapshots(store, {}), lines, {})
    assert text(lines) == text(records)
    assert same(whole(last), whole(never))


class SurvivingServer(Tunable):
    """Made versions stay, and what was asked for before gives them again; told to, it makes one and nobody hears."""

    def __init__(self):
        self.made, self.unheard = {}, 0
        super().__init__()

    def tune(self, samples, config, *, seed, progress, selection):
        asked = (self.version, seed, tuple(sample.return_to_go for sample in samples))
        if asked in self.made:
            return self._report(self.activate(self.made[asked])[0], len(samples))
        version = self.made[asked] = f"v{len(self.made) + 1}"
        self.activate(version)
        if self.unheard:
            self.unheard -= 1
            raise Lost
        return self._report(version, len(samples))


@pytest.mark.parametrize("first_stop", [pytest.param(None, marks=pytest.mark.slow), 128])
def test_a_round_that_was_lost_after_its_version_was_made_ends_with_that_version(environments, tmp_path, first_stop):
    config = change(learner={"method": "covr"}, rounds={"psi0": 350})  # rounds after 352 and 1056 frames
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, checkpoint_every=500))
    never, records, _ = session(config, environments, SurvivingServer(), Snapshots(tmp_path / "never", {}), {}, {})
    assert [line.get("adapter_version") for line in records["rounds"]] == [None, "v1"]
    server, lines = SurvivingServer(), {}
    if first_stop:
        _, lines, _ = session(config, environments, server, Snapshots(tmp_path, {}), lines, {first_stop: "stop"})
    server.unheard = 1
    last, lines, lost = session(config, environments, server, Snapshots(tmp_path, {}), lines, {})
    assert lost and last.counters.decisions == 132 and server.version == "v1"
    last, lines, _ = session(config, environments, server, Snapshots(tmp_path, {}), lines, {})
    assert text(lines) == text(records) and list(server.made.values()) == ["v1"]
    assert same(whole(last), whole(never))


def test_another_adapter_than_the_runs_is_refused(environments, tmp_path):
    config, server = change(learner={"method": "covr"}), Tunable()
    server.digest = "then"
    session(config, environments, server, Snapshots(tmp_path, {}), {}, {30: "stop"})
    server.activate = lambda version: (version, "now")
    with pytest.raises(ValueError, match="adapter base of run fake is not the one that the run was using"):
        session(config, environments, server, Snapshots(tmp_path, {}), {}, {})


def test_an_environment_that_does_not_repeat_itself_is_refused(environments, tmp_path, monkeypatch):
    config = change()
    _, lines, _ = session(config, environments, None, Snapshots(tmp_path, {}), {}, {30: "stop"})
    reset = environments[0].reset
    monkeypatch.setattr(environments[0], "reset", lambda seed: reset(seed=seed + 1))
    with pytest.raises(ValueError, match="does not repeat episode 0"):
        session(config, environments, None, Snapshots(tmp_path, {}), lines, {})


def test_without_the_start_of_its_episode_a_run_goes_back_to_the_checkpoint_before(environments, tmp_path):
    config = change(replay={"capacity": 60})
    session(config, environments, None, Snapshots(tmp_path, {}), {}, {100: "stop"})
    assert Snapshots(tmp_path, {}).newest() is None
    session(config, environments, None, Snapshots(tmp_path, {}), {}, {150: "stop"})  # 25 into the second episode
    assert Snapshots(tmp_path, {}).newest().state["counters"]["decisions"] == 150
