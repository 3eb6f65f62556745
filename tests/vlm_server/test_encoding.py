from __future__ import annotations

import pytest
import torch

from tests.vlm_server import checkpoints
from vlm_server.encoding import Encoder

PROMPTS = ["Look at the image. slide ", "Where is the other one? Say how far it is. ", "x "]
ANSWERS = ["slide: -0.35", "shoulder: 0.10 wrist: -0.20", "slide: 1.00"]


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
@pytest.mark.parametrize("size", [84, 60])
def test_equals_the_models_own_processor(model_type, size):
    vlm = checkpoints.load(model_type)
    frames = checkpoints.frames(3, size)
    chats = [
        [{"role": "user", "content": [{"type": "text", "text": p}, {"type": "image", "image": f}]}]
        for p, f in zip(PROMPTS, frames, strict=True)
    ]
    expected = vlm.processor.apply_chat_template(
        chats,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"text_kwargs": {"padding": True, "padding_side": "left"}},
    )
    for _ in range(2):  # the second time from memory
        batch = vlm.encoder(PROMPTS, frames)
        assert set(expected) == set(batch)
        for key in batch:
            assert torch.equal(batch[key], expected[key]), key


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_labels_are_the_answer_and_its_end(model_type):
    vlm = checkpoints.load(model_type)
    frames = checkpoints.frames(3)
    asked = vlm.encoder(PROMPTS, frames)
    batch = vlm.encoder(PROMPTS, frames, ANSWERS)
    end = vlm.tokenizer.eos_token_id
    for row, answer in enumerate(ANSWERS):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        counted = labels != -100
        assert torch.equal(ids[counted], labels[counted])
        assert int(labels[-1]) == end and bool(counted[-int(counted.sum()) :].all())
        assert vlm.tokenizer.decode(labels[counted][:-1]).strip() == answer
        # What comes before the answer is the question as it is asked.
        prompt = ids[batch["attention_mask"][row].bool() & ~counted]
        assert torch.equal(prompt, asked["input_ids"][row][asked["attention_mask"][row].bool()])
    assert batch["attention_mask"].shape == batch["input_ids"].shape == batch["labels"].shape


def test_order_of_text_and_picture():
    vlm = checkpoints.load("qwen2_5_vl")
    place = vlm.model.config.image_token_id
    word = vlm.tokenizer("slide", add_special_tokens=False)["input_ids"][0]
    for text_first in (True, False):
        encoder = Encoder(vlm.processor, 0, text_first)
        ids = encoder(["slide "], checkpoints.frames(1))["input_ids"][0].tolist()
        assert (ids.index(word) < ids.index(place)) is text_first


def test_memory_is_bounded_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr("vlm_server.encoding.MEMORY", 2)
    vlm = checkpoints.load("qwen2_5_vl")
    encoder = Encoder(vlm.processor, vlm.model.generation_config.pad_token_id, True)
    frames = checkpoints.frames(3)
    first = encoder(PROMPTS, frames)
    assert len(encoder._prompts) == 2
    again = encoder(PROMPTS, frames)
    assert torch.equal(first["input_ids"], again["input_ids"])
