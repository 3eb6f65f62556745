from __future__ import annotations

import dataclasses
import itertools
import math
import threading

import numpy as np
import pytest
import torch

from tests.vlm_server import checkpoints
from vlm_server import lora, models, ralw, tasks, tuning
from vlm_server.adapters import AdapterStore
from vlm_server.defaults import TuningConfig
from vlm_server.engine import Engine, Observation
from vlm_server.tuning import Sample, TuningCancelled, TuningFailed

CARTPOLE = tasks.get("dmc/cartpole/swingup")
QUICK = TuningConfig(rank=4, alpha=8, dropout=0.1, learning_rate=1e-3, epochs=2, batch_size=4, holdout=0.25)


def noise(count: int = 16, seed: int = 0) -> list[Sample]:
    """Pictures, answers and returns that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    actions, returns = rng.uniform(-1, 1, count).round(2), rng.uniform(0.1, 1, count)
    frames = checkpoints.frames(count, 56, seed)
    return [
        Sample(Observation(f), (float(a),), float(g))
        for f, a, g in zip(frames, actions, returns, strict=True)
    ]


def same(first, second) -> bool:
    assert first.tensors.keys() == second.tensors.keys()
    return all(torch.equal(value, second.tensors[key]) for key, value in first.tensors.items())


def short(model_type: str) -> models.Vlm:
    """A random checkpoint that is asked in few words, for speed."""
    vlm = checkpoints.load(model_type)
    return dataclasses.replace(vlm, defaults=dataclasses.replace(vlm.defaults, prompt_style="short"))


@pytest.fixture(scope="module")
def vlm():
    return short("qwen2_5_vl")


def test_equal_jobs_give_equal_bytes(vlm, tmp_path):
    samples = noise()
    digests, statistics = [], []
    for i, (config, shaken) in enumerate([(QUICK, 0), (QUICK, 1), (dataclasses.replace(QUICK, seed=1), 0)]):
        torch.manual_seed(shaken)  # what other threads do with the global generator must not matter
        store = AdapterStore(tmp_path / str(i), vlm.digest)
        outcome = tuning.train(vlm, CARTPOLE, samples, None, config)
        record = store.create("run", outcome.write)
        digests.append(record.digest)
        statistics.append(record.manifest["statistics"])
    assert digests[0] == digests[1] != digests[2]
    assert statistics[0] == statistics[1]


def test_statistics_and_progress(vlm):
    samples = [
        dataclasses.replace(s, return_to_go=g) for s, g in zip(noise(20), [-2.0, 4.0] * 10, strict=True)
    ]
    seen = []
    config = dataclasses.replace(QUICK, holdout=0.2, batch_size=5, epochs=3)
    outcome = tuning.train(vlm, CARTPOLE, samples, None, config, lambda *now: seen.append(now))
    result = outcome.statistics
    assert (result.train_samples, result.holdout_samples) == (16, 4)
    steps = 3 * 4  # 16 samples in batches of 5: 5 5 5 1
    assert [now[:2] for now in seen] == [(i, steps) for i in range(1, steps + 1)] and result.steps == steps
    losses = [now[2] for now in seen]
    assert (result.train_loss_first, result.train_loss_last) == (losses[0], losses[-1])
    # Weights are max(g, 0) / 4: 1 for every other sample.
    positive = result.weight_positive_share * 16
    assert positive == round(positive) and 6 <= positive <= 10 and result.weight_mean == positive / 16
    assert result.holdout_loss_before > 0 and result.holdout_loss_after > 0 and result.seconds > 0


def test_losses_first_and_last_are_means_over_tenths(vlm):
    seen = []
    config = dataclasses.replace(QUICK, epochs=100, max_steps=20)
    outcome = tuning.train(vlm, CARTPOLE, noise(8), None, config, lambda *now: seen.append(now[2]))
    assert len(seen) == 20
    assert outcome.statistics.train_loss_first == pytest.approx(sum(seen[:2]) / 2)
    assert outcome.statistics.train_loss_last == pytest.approx(sum(seen[-2:]) / 2)


@torch.no_grad()
def nll(vlm, samples) -> float:
    """Per answer token, from one full forward pass a sample."""
    losses = []
    for sample in samples:
        prompt = CARTPOLE.prompt({}, vlm.defaults.prompt_style)
        batch = vlm.encoder([prompt], [sample.observation.frame], [CARTPOLE.format(sample.action)])
        labels = batch.pop("labels")[0, 1:]
        log_p = vlm.model(**batch).logits[0, :-1].log_softmax(-1)
        losses += [-float(log_p[t, y]) for t, y in enumerate(labels.tolist()) if y >= 0]
    return float(np.mean(losses))


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_the_held_out_loss_is_the_plain_nll_of_the_answers(model_type):
    vlm = checkpoints.load(model_type)
    samples = noise(6)
    samples = [dataclasses.replace(s, return_to_go=float(i + 1)) for i, s in enumerate(samples)]
    config = dataclasses.replace(QUICK, holdout=0.5, max_steps=1, batch_size=2)
    result = tuning.train(vlm, CARTPOLE, samples, None, config).statistics
    # Which three were held out shows in the others' mean weight, g/6.
    for held in itertools.combinations(range(6), 3):
        rest = [i + 1 for i in range(6) if i not in held]
        if result.holdout_loss_before == pytest.approx(nll(vlm, [samples[i] for i in held]), rel=1e-4):
            assert result.weight_mean == pytest.approx(sum(rest) / 6 / 3)
            return
    raise AssertionError("no three samples have this loss")


def bright_or_dark(count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        bright = bool(rng.integers(2))
        frame = rng.integers(170, 256, (56, 56, 3)) if bright else rng.integers(0, 86, (56, 56, 3))
        samples.append(Sample(Observation(frame.astype(np.uint8)), (0.8 if bright else -0.8,), 1.0))
    return samples


# Without the picture the sign costs ln 2 nats once an answer; answers have 7 tokens or more.
BLIND = math.log(2) / 9


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_every_architecture_learns_from_pictures(model_type):
    vlm = short(model_type)
    config = TuningConfig(
        rank=8,
        alpha=16,
        dropout=0.0,
        learning_rate=1e-2,
        epochs=20,
        max_steps=60,
        batch_size=16,
        label_smoothing=0.0,
        holdout=0.2,
    )
    result = tuning.train(vlm, CARTPOLE, bright_or_dark(120, seed=0), None, config).statistics
    assert result.holdout_loss_before > 1
    assert result.holdout_loss_after < BLIND / 2


def square_left_or_right(count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(count):
        side = float(rng.choice([-1.0, 1.0]))
        x = side * rng.uniform(0.25, 1.0)
        frame = np.full((84, 84, 3), rng.integers(20, 60, 3), np.uint8)
        frame[38:52, int(34 + 34 * x) : int(48 + 34 * x)] = (200, 180, 60)
        frame += rng.integers(0, 8, frame.shape, dtype=np.uint8)
        samples.append(Sample(Observation(frame), (-0.8 * side,), 1.0))
    return samples


def test_the_tiny_model_learns_where_a_square_is(tmp_path):
    vlm = models.load("tiny", "cpu")
    config = dataclasses.replace(vlm.defaults.tuning, epochs=10, max_steps=100, label_smoothing=0.0)
    outcome = tuning.train(vlm, CARTPOLE, square_left_or_right(400, seed=0), None, config)
    assert outcome.statistics.holdout_loss_after < BLIND / 2 < outcome.statistics.holdout_loss_before
    store = AdapterStore(tmp_path, vlm.digest)
    store.create("run", outcome.write)
    engine = Engine(vlm)
    engine.add_adapter("run/v1", store.verify("run", "v1").folder)
    fresh = square_left_or_right(64, seed=1)
    replies, _ = engine.predict(CARTPOLE, [s.observation for s in fresh], "run/v1", True)
    right = [CARTPOLE.parse(r.text)[0] == s.action for r, s in zip(replies, fresh, strict=True)]
    assert np.mean(right) > 0.9


def test_serving_stays_bit_identical_while_a_job_runs(vlm):
    engine, observations = Engine(vlm), [Observation(f) for f in checkpoints.frames(3)]
    expected = engine.predict(CARTPOLE, observations, None, False, 12)[0]
    before = {key: value.clone() for key, value in vlm.model.state_dict().items()}
    running, outcome = threading.Event(), []

    def job():
        config = dataclasses.replace(QUICK, epochs=15)
        outcome.append(tuning.train(vlm, CARTPOLE, noise(), None, config, lambda *now: running.set()))

    thread = threading.Thread(target=job)
    thread.start()
    assert running.wait(60)
    answers = 0
    while thread.is_alive():
        assert engine.predict(CARTPOLE, observations, None, False, 12)[0] == expected
        answers += 1
    thread.join()
    assert outcome and answers > 3
    # The answers were no burden to the job either, and neither touched the base.
    assert same(outcome[0], tuning.train(vlm, CARTPOLE, noise(), None, dataclasses.replace(QUICK, epochs=15)))
    assert all(torch.equal(value, before[key]) for key, value in vlm.model.state_dict().items())
    assert not any(p.requires_grad for p in vlm.model.parameters())


def test_a_job_goes_on_from_its_parent(vlm, tmp_path):
    store = AdapterStore(tmp_path, vlm.digest)
    samples = noise()
    first = tuning.train(vlm, CARTPOLE, samples, None, QUICK)
    parent = store.create("run", first.write).folder
    second = tuning.train(vlm, CARTPOLE, samples, parent, QUICK)
    # The same seed holds out the same samples; dropout is off when they are measured.
    assert second.statistics.holdout_loss_before == first.statistics.holdout_loss_after
    assert not same(first, second)
    for field, value in (("rank", 8), ("alpha", 4.0), ("targets", "language")):
        with pytest.raises(TuningFailed, match=f"another {field}"):
            tuning.train(vlm, CARTPOLE, samples, parent, dataclasses.replace(QUICK, **{field: value}))
    (parent / lora.WEIGHTS).write_bytes(b"")
    with pytest.raises(TuningFailed, match="unreadable"):
        tuning.train(vlm, CARTPOLE, samples, parent, QUICK)


def test_samples_without_weight_teach_nothing(vlm):
    """Eq. 6: other answers of the same length on samples of zero weight leave the adapter as it is."""
    samples = [dataclasses.replace(s, return_to_go=g) for s, g in zip(noise(), [1.0, -1.0] * 8, strict=True)]
    samples = [dataclasses.replace(s, action=(abs(s.action[0]) * 0.9,)) for s in samples]
    changed = [s if s.return_to_go > 0 else dataclasses.replace(s, action=(0.55,)) for s in samples]
    config = dataclasses.replace(QUICK, dropout=0.0)
    first, second = (tuning.train(vlm, CARTPOLE, data, None, config) for data in (samples, changed))
    assert same(first, second)
    config = dataclasses.replace(config, weight_rule="ones")
    first, second = (tuning.train(vlm, CARTPOLE, data, None, config) for data in (samples, changed))
    assert not same(first, second)


def test_nothing_to_learn_from_is_said(vlm):
    bad = [dataclasses.replace(s, return_to_go=-1.0) for s in noise()]
    with pytest.raises(TuningFailed, match="no sample has a positive weight under the rule max_abs"):
        tuning.train(vlm, CARTPOLE, bad, None, QUICK)
    with pytest.raises(TuningFailed, match="no samples"):
        tuning.train(vlm, CARTPOLE, [], None, QUICK)


@pytest.mark.parametrize(("count", "share"), [(400, 0.1), (100, 0.25), (16, 0.25), (13, 0.5), (8, 0.0), (1, 0.5)])
def test_whole_blocks_are_held_out(count, share):
    held = tuning.held_out(torch.ones(count), share, torch.Generator().manual_seed(0))
    assert held == tuning.held_out(torch.ones(count), share, torch.Generator().manual_seed(0))
    assert held == sorted(set(held)) and len(held) == min(round(share * count), count - 1)
    size = min(8, len(held))
    blocks = [[i for i in held if i // size == block] for block in sorted({i // size for i in held})] if held else []
    assert all(block == list(range(block[0], block[0] + len(block))) for block in blocks)
    assert sum(len(block) < size for block in blocks) <= 2  # the last of the samples, and the one that filled the share
    if count == 400:
        assert held != tuning.held_out(torch.ones(count), share, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("positive", [[3], [0, 1, 2, 3, 4, 5, 6, 7], [7, 8], [0, 15]])
def test_training_keeps_a_positive_weight(positive):
    weights = torch.zeros(16)
    weights[positive] = 1.0
    for seed in range(20):
        held = tuning.held_out(weights, 0.5, torch.Generator().manual_seed(seed))
        assert set(positive) - set(held) and len(held) in (0, 8)


def test_one_good_sample_is_enough(vlm):
    samples = [dataclasses.replace(s, return_to_go=-1.0) for s in noise(2)]
    samples[0] = dataclasses.replace(samples[0], return_to_go=1.0)
    for seed in range(4):
        config = dataclasses.replace(QUICK, holdout=0.5, max_steps=1, seed=seed)
        assert tuning.train(vlm, CARTPOLE, samples, None, config).statistics.weight_positive_share > 0


def test_the_base_models_own_dropout_stays_off(vlm, monkeypatch):
    expected = tuning.train(vlm, CARTPOLE, noise(), None, QUICK)

    def twin(model, real=lora.twin):
        tree = real(model)
        for module in tree.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.5
        return tree

    monkeypatch.setattr(lora, "twin", twin)
    assert same(expected, tuning.train(vlm, CARTPOLE, noise(), None, QUICK))
    assert not same(expected, tuning.train(vlm, CARTPOLE, noise(), None, dataclasses.replace(QUICK, dropout=0.0)))


def test_the_literal_weight_rule_says_what_it_leaves(vlm, caplog):
    samples = [dataclasses.replace(s, return_to_go=g) for s, g in zip(noise(4), [0.0, 9.0, 10.0, 1.0], strict=True)]
    config = dataclasses.replace(QUICK, holdout=0.0, max_steps=1)
    tuning.train(vlm, CARTPOLE, samples, None, config)
    assert not caplog.records
    tuning.train(vlm, CARTPOLE, samples, None, dataclasses.replace(config, weight_rule="min_max"))
    assert "2 of 4 samples have a weight > 0" in caplog.text


def test_language_targets(vlm):
    config = dataclasses.replace(QUICK, targets="language", max_steps=1)
    tensors = tuning.train(vlm, CARTPOLE, noise(8), None, config).tensors
    assert tensors and all(".language_model.layers." in key for key in tensors)
    tensors = tuning.train(vlm, CARTPOLE, noise(8), None, dataclasses.replace(config, targets="all")).tensors
    assert any(".visual.blocks." in key for key in tensors) and any(
        ".visual.merger." in key for key in tensors
    )
    assert not any("embed_tokens" in key or "lm_head" in key for key in tensors)


def test_without_held_out_samples_the_losses_are_nan(vlm, tmp_path):
    outcome = tuning.train(
        vlm, CARTPOLE, noise(4), None, dataclasses.replace(QUICK, holdout=0.0, max_steps=1)
    )
    assert math.isnan(outcome.statistics.holdout_loss_before) and math.isnan(
        outcome.statistics.holdout_loss_after
    )
    assert outcome.statistics.train_samples == 4
    assert outcome.write(tmp_path)["statistics"]["holdout_loss_before"] is None  # NaN is no JSON


def test_one_sample_is_trained_on(vlm):
    outcome = tuning.train(vlm, CARTPOLE, noise(1), None, dataclasses.replace(QUICK, holdout=0.5))
    assert (outcome.statistics.train_samples, outcome.statistics.holdout_samples) == (1, 0)


def test_cancellation_ends_a_job_between_steps(vlm):
    steps = []
    with pytest.raises(TuningCancelled):
        tuning.train(
            vlm, CARTPOLE, noise(), None, QUICK, lambda *now: steps.append(now), lambda: len(steps) == 2
        )
    assert len(steps) == 2


def test_a_loss_that_is_not_finite_fails_the_job(vlm, monkeypatch):
    real = ralw.loss
    monkeypatch.setattr(ralw, "loss", lambda logits, *rest: real(logits * math.nan, *rest))
    with pytest.raises(TuningFailed, match="not finite at step 1: use a smaller learning_rate"):
        tuning.train(vlm, CARTPOLE, noise(), None, dataclasses.replace(QUICK, holdout=0.0))


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_fails_the_job_alone(vlm, monkeypatch, error):
    def loss(*args, **kwargs):
        raise error

    monkeypatch.setattr(ralw, "loss", loss)
    with pytest.raises(TuningFailed, match="out of memory: use a smaller batch_size"):
        tuning.train(vlm, CARTPOLE, noise(), None, QUICK)


def test_other_errors_are_not_taken_for_little_memory(vlm, monkeypatch):
    def loss(*args, **kwargs):
        raise RuntimeError("shapes")

    monkeypatch.setattr(ralw, "loss", loss)
    with pytest.raises(RuntimeError, match="shapes"):
        tuning.train(vlm, CARTPOLE, noise(), None, QUICK)


def test_schedule_by_hand():
    # Warm-up over 1 of 10 steps, then down in tenths; over 20 of 400, then down in 381 equal parts.
    np.testing.assert_allclose(
        [tuning.schedule(i, 10) for i in range(10)], [1, *(k / 10 for k in range(9, 0, -1))]
    )
    assert tuning.schedule(0, 400) == 1 / 20 and tuning.schedule(19, 400) == 1.0
    assert tuning.schedule(399, 400) == pytest.approx(1 / 381)
    assert tuning.schedule(0, 1) == 1.0


def close(first, second) -> bool:
    """Adapters that differ by rounding alone: 1e-5 of a parameter's largest step, at float32."""
    assert first.tensors.keys() == second.tensors.keys()
    return all(torch.allclose(value, second.tensors[key], rtol=1e-4, atol=1e-6) for key, value in first.tensors.items())


@pytest.mark.parametrize("micro", [1, 3])
def test_gradients_that_are_added_up_are_those_of_the_whole_batch(vlm, micro):
    """Eq. 6 counts the whole batch's tokens, whatever the parts are; weights of parts differ."""
    samples = noise(8)  # in batches of 4: 3 and 1 for micro 3
    config = dataclasses.replace(QUICK, dropout=0.0, holdout=0.0, epochs=2)
    losses = {0: [], micro: []}
    outcomes = [
        tuning.train(vlm, CARTPOLE, samples, None, dataclasses.replace(config, micro_batch=size),
                     lambda *now, size=size: losses[size].append(now[2]))
        for size in losses
    ]  # fmt: skip
    assert losses[micro] == pytest.approx(losses[0], rel=1e-5) and len(losses[0]) == 4
    assert close(*outcomes) and not same(*outcomes)
    larger = tuning.train(vlm, CARTPOLE, samples, None, dataclasses.replace(config, micro_batch=64))
    assert same(larger, outcomes[0])


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_layers_that_are_computed_again_give_the_same_adapter(model_type, monkeypatch):
    """With dropout, whose masks have to be the same both times."""
    vlm, counts = short(model_type), []
    config = dataclasses.replace(QUICK, dropout=0.3, holdout=0.25, epochs=1)
    outcomes = []
    for checkpointing in (False, True):
        calls = []

        def twin(model, real=lora.twin, calls=calls):
            tree = real(model)
            tree.model.language_model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
            return tree

        monkeypatch.setattr(lora, "twin", twin)
        chosen = dataclasses.replace(config, checkpointing=checkpointing)
        outcomes.append(tuning.train(vlm, CARTPOLE, noise(8), None, chosen))
        counts.append(len(calls))
        monkeypatch.undo()
    steps = outcomes[0].statistics.steps
    assert steps == 2 and counts[1] == counts[0] + steps  # once more a step, and not where nothing is learnt
    assert close(*outcomes)
    plain, again = (outcome.statistics.holdout_loss_after for outcome in outcomes)
    assert again == pytest.approx(plain, rel=1e-5)
