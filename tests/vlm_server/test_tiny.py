"""The shipped tiny model, its pre-training program and the pictures that it learns from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from vlm_server import (
    architectures,
    defaults,
    models,
    pictures,
    pretrain_tiny,
    tasks,
    tiny_batches,
    tiny_figures,
    tiny_model,
    tiny_training,
)

TINY = models.TINY


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((TINY / "PRETRAINING.json").read_text())


@pytest.fixture(scope="module")
def shipped():
    kind = Qwen2_5_VLForConditionalGeneration
    model = kind.from_pretrained(TINY, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(TINY, local_files_only=True)


def only(name: str, values: np.ndarray) -> np.ndarray:
    return values[:, pictures.FACTS.index(name)]


# --- the shipped folder


def test_weights_are_the_recorded_ones(record):
    assert pretrain_tiny.sha256(TINY / "model.safetensors") == record["weights_sha256"]


def test_program_is_the_recorded_one(record):
    assert pretrain_tiny.sha256(*pretrain_tiny.program_files()) == record["program_sha256"]


def test_size(record, shipped):
    model, tokens = shipped
    count = sum(p.numel() for p in model.parameters())
    assert count == record["parameters"]
    assert 1.5e6 < count < 2.5e6
    assert (TINY / "model.safetensors").stat().st_size < 4.5e6
    assert len(tokens) == model.config.text_config.vocab_size <= tiny_model.VOCABULARY


def test_serving_defaults_are_read():
    read = defaults.read(TINY)
    assert (read.prompt_style, read.constrained, read.max_new_tokens) == ("short", True, 64)
    assert (read.tuning.rank, read.tuning.targets) == (16, "all")
    assert json.loads((TINY / "serving.json").read_text()) == pretrain_tiny.SERVING


@pytest.mark.parametrize(("side", "grid"), [(64, 6), (84, 6), (100, 6), (112, 6), (128, 12)])
def test_frames_of_64_to_112_pixels_are_one_token(side, grid):
    processor = models.load_processor(TINY, architectures.ARCHITECTURES["qwen2_5_vl"])
    out = processor.image_processor(np.zeros((side, side, 3), np.uint8), return_tensors="pt")
    assert out["image_grid_thw"].tolist() == [[1, grid, grid]]


def test_reads_place_and_direction(record, shipped):
    """Greedy answers on fresh pictures are far better than the best constant, in the record and again."""
    for kind, name in (("easy_shape", "x"), ("easy_shape", "y"), ("bar", "sin")):
        figures = record["figures"][kind][name]
        assert figures["mae"] < 0.7 * figures["constant"], (kind, name)
        assert figures["answered"] > 0.95
    model, tokens = shipped
    drawn = pictures.easy_shape(np.random.default_rng(5), 32)
    replies = tiny_figures.ask(model, tiny_batches.Encoder(tokens), drawn.frames, drawn.questions, 24)
    x = np.array([tiny_figures.parse(text).get("x", np.nan) for text in replies])
    assert np.nanmean(np.abs(x - drawn.values[:, 0])) < 0.25  # the best constant is at 0.5


def test_known_words_cost_few_tokens(shipped):
    _, tokens = shipped
    for task in tasks.TASKS.values():
        text = task.format([0.5] * len(task.actions))
        ids = tokens(text, add_special_tokens=False)["input_ids"]
        assert tokens.decode(ids) == text
        # sign, digit, point and two digits are five tokens a number
        assert len(ids) <= 13 * len(task.actions), text
    odd = "größer: \x00 ⅓ 雪"
    assert tokens.decode(tokens(odd, add_special_tokens=False)["input_ids"]) == odd


@pytest.mark.parametrize("name", sorted(tasks.TASKS))
def test_pretraining_saw_each_tasks_short_prompt_and_reply(name):
    task = tasks.TASKS[name]
    order = [task.actions[i] for i in task.reply_order] if task.reply_order else task.actions
    names = tuple(action.name for action in order)
    assert names in pictures.ACTION_NAMES
    assert task.prompt(style="short") == pictures.question(names)
    values = np.linspace(-0.004, 0.97, len(names))
    given = dict(zip(names, values, strict=True))
    assert task.format([given[a.name] for a in task.actions]) == pictures.answer(names, values)


# --- the fast path


def test_fast_path_is_the_processors(shipped):
    _, tokens = shipped
    processor = models.load_processor(TINY, architectures.ARCHITECTURES["qwen2_5_vl"])
    drawn = pictures.pair(np.random.default_rng(0), 3)
    turns = []
    for question, frame in zip(drawn.questions, drawn.frames, strict=True):
        content = [{"type": "text", "text": question}, {"type": "image", "image": Image.fromarray(frame)}]
        turns.append([{"role": "user", "content": content}])
    slow = processor.apply_chat_template(
        turns,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "left"}},
    )
    fast = tiny_batches.Encoder(tokens).question(drawn.frames, drawn.questions)
    assert set(fast) == set(slow)
    for key in slow:
        torch.testing.assert_close(fast[key], slow[key].to(fast[key].dtype), rtol=0, atol=1e-5)


def test_position_ids_are_the_models(shipped):
    model, tokens = shipped
    drawn = pictures.shape(np.random.default_rng(0), 2)
    inputs, labels = tiny_batches.Encoder(tokens).pairs(drawn.frames, drawn.questions, drawn.answers)
    own = {k: v for k, v in inputs.items() if k != "position_ids"}
    own["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, model(**own).logits, rtol=0, atol=1e-4)
    for row, text in zip(labels, drawn.answers, strict=True):
        assert tokens.decode(row[row != -100]) == text + "<|im_end|>"


# --- the pictures


def test_answer_form():
    assert pictures.answer(("slide",), [-0.35]) == "slide: -0.35"
    assert pictures.answer(("x", "z"), [-0.001, 1.0]) == "x: 0.00 z: 1.00"
    assert pictures.answer(("throttle", "steer"), [0.5, -0.1]) == "throttle: 0.50\nsteer: -0.10"


@pytest.mark.parametrize("kind", sorted(pictures.KINDS))
def test_every_kind_is_well_formed_and_seeded(kind):
    first, again = (pictures.KINDS[kind](np.random.default_rng(3), 8) for _ in range(2))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert first.answers == again.answers
    assert first.frames.shape == (8, 84, 84, 3)
    assert first.frames.dtype == np.uint8
    assert first.values.dtype == np.float32
    assert np.abs(first.values).max() <= 1
    assert np.nanmax(np.abs(first.facts)) <= 1
    for text, names, values in zip(first.answers, first.names, first.values, strict=True):
        read = tiny_figures.parse(text)
        assert list(read) == list(names)
        np.testing.assert_allclose(list(read.values()), values, atol=0.0051)


def test_place_is_where_the_pixels_are():
    """Centre of mass of what differs from a plain ground; a triangle's is lower than its middle."""
    drawn = pictures.easy_shape(np.random.default_rng(1), 64)
    frames = drawn.frames.astype(float)
    errors = []
    for frame, (x, y) in zip(frames, drawn.values, strict=True):
        ground = np.median(frame.reshape(-1, 3), 0)
        rows, columns = np.nonzero(np.abs(frame - ground).max(-1) > 30)
        if len(rows) < 30:  # a colour like the ground's
            continue
        # A shape at the border is cut off; its middle is then not the mean.
        if max(abs(x), abs(y)) > 0.85:
            continue
        errors.append(((columns.mean() - 41.5) / 36 - x, -(rows.mean() - 41.5) / 36 - y))
    assert len(errors) > 25
    errors = np.abs(errors)
    assert errors[:, 0].max() < 0.03
    assert errors[:, 1].max() < 0.11


def test_asked_colour_is_at_the_answered_place():
    drawn = pictures.pair(np.random.default_rng(2), 64)
    for frame, names, (x, y) in zip(drawn.frames, drawn.names, drawn.values, strict=True):
        color = np.array(pictures.COLORS[names[0].split("_")[0]])
        patch = frame[round(41.5 - 36 * y), round(41.5 + 36 * x)]
        assert np.abs(patch - color).max() < 25


def test_bar_points_where_the_answer_says():
    """The mask's mean is half a length from the hub along (sin, cos); up and right are positive."""
    sin, cos = np.float32([0, 1, 0, -1, 0.6]), np.float32([1, 0, -1, 0, 0.8])
    zero, one = np.zeros(5, np.float32), np.ones(5, np.float32)
    for mask, s, c in zip(pictures._bar(zero, zero, sin, cos, 30 * one, 2 * one), sin, cos, strict=True):
        rows, columns = np.nonzero(mask)
        np.testing.assert_allclose([columns.mean() - 41.5, 41.5 - rows.mean()], [15 * s, 15 * c], atol=0.7)


def test_turn_of_the_arm_from_its_facts():
    """turn = tip x dot / (|tip| |dot|), clockwise positive; the hub is within 0.04 of the centre."""
    facts = np.concatenate([pictures.arm(np.random.default_rng(k), 32).facts for k in range(4)])
    tip, dot = (np.stack([only(f"{end}_{axis}", facts) for axis in "xy"], 1) for end in ("tip", "dot"))
    far = (np.linalg.norm(tip, axis=1) > 0.3) & (np.abs(tip) < 1).all(1)
    clockwise = tip[:, 1] * dot[:, 0] - tip[:, 0] * dot[:, 1]
    turn = clockwise / np.linalg.norm(tip, axis=1) / np.linalg.norm(dot, axis=1)
    assert far.sum() > 60
    np.testing.assert_allclose(turn[far], only("turn", facts)[far], atol=0.2)


# --- the program


def _small():
    tokens = tiny_model.tokenizer(pictures.corpus(np.random.default_rng(0)))
    return tiny_model.build(tokens, seed=3), tiny_batches.Encoder(tokens)


def test_training_is_deterministic_and_lowers_both_losses():
    runs = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(2):
            model, encoder = _small()
            losses = tiny_training.train(model, encoder, seed=4, steps=60, batch=8)
            runs.append((losses, {k: v.clone() for k, v in model.state_dict().items()}))
    finally:
        torch.set_num_threads(threads)
    (first, weights), (second, again) = runs
    assert first == second
    assert all(torch.equal(weights[k], again[k]) for k in weights)
    assert (len(first["facts"]), len(first["words"])) == (30, 30)
    assert np.mean(first["words"][-5:]) < 0.8 * np.mean(first["words"][:5])


def test_tokenizer_is_the_shipped_one(shipped):
    _, tokens = shipped
    assert _small()[1].tokens.get_vocab() == tokens.get_vocab()


def test_learning_rate_factor():
    assert tiny_training.learning_rate(0, 1000) == pytest.approx(1 / 60)
    assert tiny_training.learning_rate(500, 1000) == pytest.approx(0.515)
    assert tiny_training.learning_rate(1000, 1000) == pytest.approx(0.03)


def test_losses_by_hand():
    logits = torch.zeros(1, 3, 4)
    assert float(tiny_training.nll(logits, torch.tensor([[9, 1, -100]]))) == pytest.approx(np.log(4))
    facts = np.float32([[0.5, np.nan]])
    assert float(tiny_training.facts_error(torch.tensor([[0.1, 7.0]]), facts)) == pytest.approx(0.16)
