"""The training loop on a real task, small enough for seconds: equalities between runs, counters, outages.

Ledger rows held here (docs/fidelity.md): S6, E22.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.config import Config, EddfConfig
from covr_jax.loop import Trainer
from covr_jax.priors import teachers
from covr_jax.priors.source import PriorUnavailable
from covr_jax.types import Label
from tests.covr_jax.runs import CONFIG, TASK, Fixed, Records, Tunable, change, same


class Gone(Fixed):
    def __init__(self):
        super().__init__(None)

    def predict(self, observations):
        raise PriorUnavailable("no prior server at nowhere; start one")


MALFORMED = Fixed(Label(None, "malformed", "left", "base", ""))


def train(config: Config, prior=None):
    env, eval_env = envs.make(config.env), envs.make(config.env)
    try:
        records = Records()
        with Trainer(config, env, [eval_env], records, prior) as trainer:
            state = trainer.run()
        return jax.device_get(state), records.lines
    finally:
        env.close()
        eval_env.close()


@pytest.fixture(scope="module")
def base():
    return train(CONFIG)


def test_records_carry_both_counters_and_come_when_due(base):
    _, lines = base
    assert [(line["frames"], line["decisions"]) for line in lines["metrics"]] == [
        (400, 50), (800, 100), (1200, 150), (1600, 200),
    ]  # fmt: skip
    assert [line["frames"] for line in lines["evaluations"]] == [800, 1600]
    assert [len(line["returns"]) for line in lines["evaluations"]] == [2, 2]
    assert lines["metrics"][-1]["updates"] == 180  # one a decision after 20 random ones
    assert lines["metrics"][-1]["episodes"] == 1  # of 125 decisions


def test_driving_counts_decisions_and_records_each_episodes_own_accounting():
    run = {"step_unit": "decisions", "steps": 60, "random_decisions": 55, "eval_every": 30, "log_every": 30}
    config = change(env={"name": "toy/highway"}, run=run)
    _, lines = train(config)
    assert [(line["decisions"], len(line["returns"])) for line in lines["evaluations"]] == [(30, 2), (60, 2)]
    for line in lines["evaluations"]:
        assert line["totals"]["return_sum"] == pytest.approx(line["returns"])
        pairs = zip(line["totals"]["return_sum"], line["totals"]["distance_m"], strict=True)
        assert all(er <= dd for er, dd in pairs)
    assert lines["metrics"][-1]["frames"] <= 4 * 60
    assert train(config)[1] == lines


def test_the_same_seed_gives_the_same_run_and_another_does_not(base):
    state, lines = train(CONFIG)
    assert same(state, base[0]) and lines == base[1]
    assert not same(train(change(run={"seed": 4}))[0].params, base[0].params)


def test_evaluation_does_not_change_training(base):
    state, _ = train(change(run={"eval_every": 400, "eval_episodes": 1}))
    assert same(state, base[0])


@pytest.mark.parametrize("method", ["dpl", "covr"])
@pytest.mark.parametrize("prior", [MALFORMED, Gone()], ids=["malformed", "gone"])
def test_without_a_valid_label_a_run_is_its_base_bit_for_bit(base, method, prior):
    state, lines = train(change(learner={"method": method}), prior)
    assert same(state, base[0])
    for ours, bases in zip(lines["metrics"], base[1]["metrics"], strict=True):
        assert {name: ours[name] for name in bases} == bases
    assert lines["evaluations"] == base[1]["evaluations"]
    last = lines["metrics"][-1]
    assert last["labels_ok"] == 0 and last["label_distance"] is None
    assert last["prior_available"] == (prior is MALFORMED)
    assert last["labels_malformed" if prior is MALFORMED else "labels_unavailable"] > 0


def test_a_required_prior_that_is_gone_stops_the_run():
    with pytest.raises(PriorUnavailable):
        train(change(learner={"method": "dpl"}, prior={"required": True}), Gone())


def test_labels_guide_the_actor_and_nothing_runs_ahead_of_the_lag(base):
    state, lines = train(change(learner={"method": "dpl"}), teachers.make("zeros", TASK, 1))
    assert not same(state.params["actor"], base[0].params["actor"])
    last = lines["metrics"][-1]
    assert last["guidance_loss"] > 0 and 0 < last["prior_share"] <= 1
    # Questions when the frame counter crosses a multiple of ten: at decisions 0 and, of 8 frames each, four of five.
    assert last["labels_ok"] == pytest.approx(0.8 * 200, abs=4)


def test_rounds_fire_by_schedule_and_the_cold_start_asks_nothing():
    _, lines = train(change(learner={"method": "covr"}), Tunable())
    # psi 400, 800; 1000 frames are one episode, so the first round finds no closed one.
    assert [(line["frames"], line["round"], line["total"]) for line in lines["rounds"]] == [(400, 0, 0), (1200, 1, 75)]
    assert "adapter_version" not in lines["rounds"][0]
    assert lines["rounds"][1]["adapter_version"] == "v1"
    assert lines["rounds"][1]["kept"] >= 32
    labels = {line["frames"]: line["labels_ok"] for line in lines["metrics"]}
    assert labels[400] == 0 and labels[800] > 0


def test_before_the_first_update_the_entropy_is_that_of_the_uniform_policy():
    _, lines = train(change(learner={"method": "covr"}, rounds={"psi0": 80}, run={"steps": 160}), Tunable())
    assert lines["rounds"][0]["entropy"] == pytest.approx(np.log(2))


def test_a_method_that_asks_needs_a_prior():
    with pytest.raises(ValueError, match="needs a prior"):
        train(change(learner={"method": "covr"}))


def test_decisions_as_the_unit_of_everything():
    config = change(
        learner={"method": "dpl"},
        run={"step_unit": "decisions", "steps": 130, "log_every": 50, "eval_every": 130, "eval_episodes": 1},
    )
    _, lines = train(config, teachers.make("zeros", TASK, 1))
    assert [(line["frames"], line["decisions"]) for line in lines["metrics"]] == [(400, 50), (800, 100)]
    assert lines["evaluations"][-1]["decisions"] == 130
    assert 100 / 10 - 1 <= lines["metrics"][-1]["labels_ok"] <= 100 / 10


def test_several_updates_a_decision():
    _, lines = train(change(learner={"updates_per_decision": 3}, run={"steps": 800, "eval_every": 800}))
    assert lines["metrics"][-1]["updates"] == 3 * 80


@pytest.mark.parametrize("score", ["reward", "q"])
def test_rounds_judge_steps_by_what_they_are_told_to(score):
    eddf = EddfConfig(score=score, filter="percentile", percentile=80)
    config = change(learner={"method": "covr"}, rounds={"eddf": eddf, "vlm_episodes": 0}, run={"steps": 1200})
    env = envs.make(config.env)
    try:
        with Trainer(config, env, [env], Records(), Tunable()) as trainer:
            trainer._evaluate = lambda: None
            tuned, scored = [], {}
            tune = trainer.prior.tune
            trainer.prior.tune = lambda samples, *rest, **named: tuned.append(samples) or tune(samples, *rest, **named)
            judge = trainer._score()
            trainer._score = lambda: lambda ids: scored.setdefault(len(ids), judge(ids))
            trainer.run()
            (scores,), (samples,) = scored.values(), tuned
            ids = np.arange(50, 125)  # of the episode that closed after the first round
            if score == "reward":
                np.testing.assert_array_equal(scores, trainer.replay.rewards(ids))
            kept = ids[scores > np.percentile(scores, 80)]
            np.testing.assert_array_equal([s.action for s in samples], trainer.replay.actions(kept))
    finally:
        env.close()
