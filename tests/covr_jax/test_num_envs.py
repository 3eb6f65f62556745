"""Training in several environments at once: what is stored, labelled, judged and resumed is a function of the seed."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import jax
import numpy as np
import pytest

from covr_jax import envs, loop, seeds
from covr_jax.envs.vector import Workers
from covr_jax.loop import Trainer
from covr_jax.methods import BASES
from covr_jax.snapshots import Snapshots
from covr_jax.types import Label, LearnerState
from tests.covr_jax.runs import CONFIG, Fixed, Records, Tunable, change, same
from tests.covr_jax.test_resume import session, text, whole
from tests.covr_jax.worker_envs import seed_of, step_of

N = 3
RUN = {"num_envs": N, "step_unit": "decisions", "steps": 90, "random_decisions": 12, "eval_every": 45,
       "eval_episodes": 2, "log_every": 10, "checkpoint_every": 10}  # fmt: skip


def configured(kind: str = "Numbered", run: dict | None = None, **sections):
    name = f"gym/tests.covr_jax.worker_envs:{kind}-v0"
    return change(env={"name": name}, run=RUN | (run or {}), **sections)


@pytest.fixture(scope="module")
def environments():
    """N in processes, and one to evaluate in."""
    workers, other = Workers(configured().env, N), envs.make(configured().env)
    yield [workers, other]
    workers.close()


class Summing:
    """Stands for the learner, without its compilation: the parameter is a checksum of all batches and their order, and
    the policy's actions depend on it, on the stack and on the noise."""

    base, needs_value_critic = BASES["rad"], False

    def __init__(self, *_):
        pass

    def init(self, seed, render_size, value_critic):
        zero = np.zeros((), np.int32)
        return LearnerState({"sum": np.full((), seed, np.float32)}, {}, {}, {}, zero, np.zeros(2, np.uint32), {})

    def seen(self, observations):
        return np.stack([each.stack for each in observations])

    def sample_action(self, params, seen, key):
        noise = np.random.default_rng(np.asarray(jax.random.key_data(key))).normal(size=(len(seen), 1))
        return np.tanh(noise + self.mean_action(params, seen)).astype(np.float32)

    def mean_action(self, params, seen):
        return np.float32(params["sum"] / 100 + seen.mean((1, 2, 3))[:, None] / 1000)

    def update(self, state, batch):
        total = sum(float(np.asarray(leaf, np.float64).sum()) for leaf in batch if leaf is not None)
        checksum = np.full((), (0.7 * float(state.params["sum"]) + total) % 100, np.float32)
        updates = np.asarray(state.updates + 1, np.int32)
        return state.replace(params={"sum": checksum}, updates=updates), {"entropy": checksum}


@pytest.fixture(autouse=True)
def learner(monkeypatch):
    monkeypatch.setattr(loop, "Learner", Summing)


def train(config, environments, prior=None, learn: bool = True):
    records = Records()
    with Trainer(config, environments[0], environments[1:], records, prior) as trainer:
        if not learn:
            trainer._learn = lambda drawn: drawn.result()
        trainer.run()
    return trainer, records.lines


class Step(NamedTuple):
    """A transition as it ought to be stored, in the order of decisions."""

    id: int
    own: int  # decision of its environment
    episode: int
    time: int  # within the episode


def expected(decisions: int, seed: int = CONFIG.run.seed) -> list[Step]:
    """Environments take turns; one whose episode is over begins the next number instead of deciding."""
    steps, begun, turn = [], 0, 0
    episode, time, own = [-1] * N, [0] * N, [0] * N
    length = [0] * N
    while len(steps) < decisions:
        for i in range(N):
            if time[i] == length[i]:
                episode[i], time[i], begun = begun, 0, begun + 1
                length[i] = 5 + seeds.integer(seed, "episode", episode[i]) % 2**16 % 7
            else:
                steps.append(Step((turn - 1) * N + i, own[i], episode[i], time[i]))
                time[i], own[i] = time[i] + 1, own[i] + 1
        turn += 1
    return steps


@pytest.fixture(scope="module")
def base(environments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Learner", Summing)
        return train(configured(), environments)


def test_environments_take_turns_and_their_frames_are_stored_in_order(base):
    trainer, lines = base
    steps = expected(90)
    assert trainer.counters.decisions == len(steps) and lines["metrics"][-1]["updates"] == len(steps) - 12
    assert trainer.counters.episodes > 9
    ids = np.array([step.id for step in steps])
    frames = trainer.replay.frames(ids)
    wanted = [seeds.integer(CONFIG.run.seed, "episode", step.episode) % 2**16 for step in steps]
    assert seed_of(frames).tolist() == wanted and step_of(frames).tolist() == [step.time for step in steps]
    actions = trainer.replay.actions(ids)
    np.testing.assert_array_equal(trainer.replay.rewards(ids), actions[:, 0])
    for decision in range(12):
        rng = seeds.generator(CONFIG.run.seed, "random_action", decision)
        np.testing.assert_array_equal(actions[decision], rng.uniform(-1, 1, 1).astype(np.float32))
    assert len(np.unique(actions)) == len(actions)  # no two environments act by the same noise


def test_the_order_of_data_is_the_seeds_whichever_environment_is_first(base, environments):
    late = Workers(configured("Late").env, N)
    try:
        trainer, lines = train(configured("Late"), [late, environments[1]])
    finally:
        late.close()
    assert text(lines) == text(base[1]) and same(whole(trainer), whole(base[0]))
    other, _ = train(configured(run={"seed": 4}), environments)
    assert not same(other.state.params, base[0].state.params)


class Telling(Fixed):
    """Its answers are readable from the pictures."""

    def __init__(self):
        super().__init__(None)

    def predict(self, observations):
        return [Label(self.action(each.frame), "ok", "", "telling", "") for each in observations]

    @staticmethod
    def action(frame):
        return np.array([seed_of(frame) % 1000 / 1000 + step_of(frame) / 1e5], np.float32)


@pytest.mark.parametrize("hold", ["hold", "mask"])
def test_each_environment_is_asked_about_by_its_own_steps_and_keeps_its_own_labels(environments, hold):
    prior = {"period": 3, "lag": 7, "group": 2, "hold": hold}
    run = {"random_decisions": 1000, "eval_every": 1000}
    trainer, _ = train(configured(run=run, learner={"method": "dpl"}, prior=prior), environments, Telling())
    stored = trainer.replay.state()
    asked: dict[int, Step] = {}  # environment -> its latest question
    for step in expected(90):
        environment = step.id % N
        if step.time == 0 or step.own % 3 == 0:
            asked[environment] = step
        question = asked[environment]
        age = step.own - question.own
        assert question.episode == step.episode and stored["prior_ok"][step.id] == (not age or hold == "hold")
        if stored["prior_ok"][step.id]:
            frame = trainer.replay.frames(np.array([question.id]))[0]
            np.testing.assert_array_equal(stored["prior_actions"][step.id], Telling.action(frame))
            assert stored["prior_age"][step.id] == age


def test_the_prior_takes_turns_in_each_environment(environments):
    run = {"random_decisions": 0, "eval_every": 1000, "behaviour": "hybrid_step", "behaviour_every": 3}
    config = configured(run=run, learner={"method": "ask"}, prior={"period": 1, "lag": 0, "group": 1})
    trainer, _ = train(config, environments, Telling(), learn=False)
    for step in expected(90):
        told = Telling.action(trainer.replay.frames(np.array([step.id]))[0])
        assert (trainer.replay.actions(np.array([step.id]))[0] == told) == (step.own % 3 == 2)


def test_d_f_holds_each_environments_closed_episodes_with_their_returns(environments):
    config = configured(run={"random_decisions": 1000, "eval_every": 1000}, learner={"method": "covr"})
    trainer, _ = train(config, environments, Tunable())
    episodes = defaultdict(list)
    for step in expected(90):
        episodes[step.episode].append(step)
    closed = {k: v for k, v in episodes.items() if len(v) == 5 + seeds.integer(3, "episode", k) % 2**16 % 7}
    taken = trainer.rounds.memory.take()
    assert len(closed) == trainer.counters.episodes and len(taken.ids) == sum(map(len, closed.values()))
    found = dict(zip(taken.ids.tolist(), zip(taken.returns, taken.time, taken.states, strict=True), strict=True))
    for steps in closed.values():
        to_go = 0.0
        for step in reversed(steps):
            to_go = float(trainer.replay.rewards(np.array([step.id]))[0]) + 0.99 * to_go
            value, time, state = found[step.id]
            assert value == pytest.approx(to_go, rel=1e-6, abs=1e-6)
            assert time == step.time == state["step"]


def test_stopped_and_lost_and_restored_is_as_never_stopped(environments, tmp_path):
    """Rounds, labels, the prior's turns and several running episodes included."""
    config = configured(
        run={"behaviour": "hybrid_step", "behaviour_every": 4}, learner={"method": "covr"},
        prior={"period": 2, "lag": 5, "group": 4}, rounds={"psi0": 14, "cold_start": 1, "vlm_episodes": 1},
    )  # fmt: skip
    never, records, _ = session(config, environments, Tunable(), Snapshots(tmp_path / "never", {}), {}, {})
    assert len(records["rounds"]) >= 3 and records["rounds"][1]["total"] > 0
    turns = [step.id // N for step in expected(90)]
    ends = [d for d in range(1, 90) if turns[d] != turns[d - 1]]  # decisions done after each turn
    lines, store = {}, tmp_path / "often"
    for decision, what in ((ends[1], "stop"), (ends[8], "stop"), (ends[14], "lose"), (ends[17], "stop")):
        last, lines, lost = session(config, environments, Tunable(), Snapshots(store, {}), lines, {decision: what})
        assert lost == (what == "lose") and last.counters.decisions == decision
    last, lines, _ = session(config, environments, Tunable(), Snapshots(store, {}), lines, {})
    assert text(lines) == text(records) and same(whole(last), whole(never))


def test_what_cannot_be_is_refused(environments):
    with pytest.raises(ValueError, match=r"replay\.capacity=299: must hold .* 300 transitions"):
        Trainer(configured(replay={"capacity": 299}), environments[0], [], Records())
    with pytest.raises(ValueError, match=r"run\.num_envs=1, but the trainer was given 3"):
        Trainer(configured(run={"num_envs": 1}), environments[0], [], Records())
