"""D_f, the schedule's counter and one round against numbers worked out by hand.

Ledger rows held here (docs/fidelity.md): C9, C19, C20.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from covr_jax.config import EddfConfig, RoundsConfig
from covr_jax.covr_rounds import ReturnMemory, Rounds, run_round, statistics
from covr_jax.priors.source import PriorUnavailable, TuningFailed
from covr_jax.types import TuningReport


def _filled(open_episode: str) -> ReturnMemory:
    """One closed episode with rewards 1, 2, 4 and an open one with rewards 8, 16."""
    memory = ReturnMemory(discount=0.5, open_episode=open_episode)
    for i, reward in enumerate([1.0, 2.0, 4.0]):
        memory.step(10 + i, reward, {"speed": float(i)})
    memory.close_episode()
    for i, reward in enumerate([8.0, 16.0]):
        memory.step(20 + i, reward, {})
    return memory


def test_returns_are_filled_in_when_the_episode_closes():
    steps = _filled("drop").take()
    assert steps.ids.tolist() == [10, 11, 12]
    assert steps.returns.tolist() == [3.0, 4.0, 4.0]  # 1 + 2/2 + 4/4, 2 + 4/2, 4
    assert steps.time.tolist() == [0, 1, 2]
    assert steps.states == [{"speed": 0.0}, {"speed": 1.0}, {"speed": 2.0}]


def test_truncate_takes_the_open_episode_with_the_rewards_so_far():
    steps = _filled("truncate").take()
    assert steps.ids.tolist() == [10, 11, 12, 20, 21]
    assert steps.returns[3:].tolist() == [16.0, 16.0]  # 8 + 16/2, 16


@pytest.mark.parametrize("open_episode", ["drop", "truncate"])
def test_steps_after_a_round_belong_to_the_next_one(open_episode):
    memory = _filled(open_episode)
    memory.take()
    memory.step(22, 32.0, {})
    memory.close_episode()
    steps = memory.take()
    assert steps.ids.tolist() == [22]
    assert steps.returns.tolist() == [32.0]
    assert steps.time.tolist() == [2]
    assert not len(memory.take().ids)


def test_warm_up_steps_stay_out_but_their_time_counts():
    memory = ReturnMemory(0.5, "drop")
    memory.step(1, 1.0, {}, enters=False)
    memory.step(2, 2.0, {})
    memory.close_episode()
    steps = memory.take()
    assert (steps.ids.tolist(), steps.time.tolist()) == ([2], [1])


def test_rounds_fire_after_the_step_that_reaches_psi():
    rounds = Rounds(RoundsConfig(psi0=10), discount=0.99, action_dim=1)
    fired = []
    for step in range(4, 101, 4):  # four frames a decision
        if rounds.advance(4):
            fired.append(step)
            rounds.finish()
    assert fired == [12, 32, 64]  # f >= 10, then 20, then 30, counted anew after each


def test_labels_are_trusted_after_the_cold_start():
    config = RoundsConfig(cold_start=2)
    for stale, expected in [("keep", 0), ("keep_warm", 2), ("latest", 1)]:
        rounds = Rounds(dataclasses.replace(config, stale_labels=stale), 0.99, 1)
        assert rounds.trusted_from == math.inf and not rounds.asking
        rounds.adapter_round = 1  # the second and third round made no adapter
        for _ in range(3):
            rounds.finish()
        assert rounds.asking and rounds.trusted_from == expected
    assert Rounds(dataclasses.replace(config, cold_start_labels=True), 0.99, 1).asking


def test_the_discount_of_g_is_the_learners_unless_given():
    for given, expected in [(None, 1.5), (0.0, 1.0)]:
        rounds = Rounds(RoundsConfig(discount=given, open_episode="truncate", eddf=EddfConfig(minimum=1)), 0.5, 1)
        rounds.memory.step(0, 1.0, {})
        rounds.memory.step(1, 1.0, {})
        assert rounds.filter(0.0).steps.returns[0] == expected


def test_statistics_show_which_decisions_of_an_episode_were_kept():
    rounds = Rounds(RoundsConfig(eddf=EddfConfig(minimum=1)), 1.0, 1)
    for i in range(40):
        rounds.memory.step(i, 1.0, {})  # returns 40, 39, ... 1: the early decisions score highest
    rounds.memory.close_episode()
    record = statistics(rounds.filter(0.0))
    kept = np.asarray(record["kept_time_hist"])
    assert kept.sum() == record["kept"] < 20 and kept[10:].sum() == 0


def test_entropy_is_taken_per_dimension_unless_told_otherwise():
    for entropy, expected in [("per_dim", -1.0), ("joint", -6.0)]:
        config = RoundsConfig(open_episode="truncate", eddf=EddfConfig(entropy=entropy, minimum=1))
        rounds = Rounds(config, 0.5, action_dim=6)
        rounds.memory.step(0, 1.0, {})
        assert rounds.filter(-6.0).entropy == expected


class FakeReplay:
    trusted_from = 0.0

    def frames(self, ids):
        return np.asarray(ids, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)

    def actions(self, ids):
        return np.asarray(ids, np.float32)[:, None] / 100


class FakeVlm:
    run, version, digest = "fake", "base", ""

    def __init__(self, error=None):
        self.error, self.samples = error, None

    def predict(self, observations):
        return []

    def close(self):
        pass

    def activate(self, version):
        return version, ""

    def tune(self, samples, config, *, seed, progress, selection):
        if self.error:
            raise self.error
        self.samples, self.version = samples, "v1"
        return TuningReport("v1", "d", True, 2.0, 1.0, 2.5, 1.5, 9, 1, 0.5, 1.0, 12.0)


def _round(prior, required=False):
    config = RoundsConfig(cold_start=1, eddf=EddfConfig(minimum=1))
    rounds, replay = Rounds(config, 1.0, 1), FakeReplay()
    for i in range(40):
        rounds.memory.step(i, float(i == 39), {})
        rounds.memory.close_episode()
    scores = {"base": [1.0, 3.0], "v1": [10.0, 20.0]}
    record = run_round(
        rounds, prior, replay, 0.0, 7, lambda: scores[prior.version], lambda *_: None, required=required
    )
    return record, rounds, replay


def test_a_round_tunes_on_what_was_kept_and_shows_the_vlm_alone():
    prior = FakeVlm()
    record, rounds, replay = _round(prior)
    assert [s.return_to_go for s in prior.samples] == [1.0]  # the one step above the median
    assert prior.samples[0].action == pytest.approx([0.39])
    assert prior.samples[0].frame[0, 0, 0] == 39
    assert (record["kept"], record["total"], record["adapter_version"]) == (1, 40, "v1")
    assert (record["vlm_return_before"], record["vlm_return_after"]) == (2.0, 15.0)
    assert "seconds" not in record
    assert rounds.done == 1 and replay.trusted_from == 1


def test_a_failed_round_leaves_the_adapter_and_says_why():
    record, rounds, _ = _round(FakeVlm(TuningFailed("no memory")))
    assert record["error"] == "no memory" and "adapter_version" not in record
    assert rounds.done == 1
    assert _round(FakeVlm(TuningFailed("no memory")), required=True)[0]["error"] == "no memory"
    with pytest.raises(PriorUnavailable):
        _round(FakeVlm(PriorUnavailable("gone")), required=True)


def test_a_round_without_a_finished_episode_is_recorded():
    rounds = Rounds(RoundsConfig(), 1.0, 1)
    rounds.memory.step(0, 1.0, {})
    assert statistics(rounds.filter(0.0))["total"] == 0
