from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.vlm_server import checkpoints
from vlm_server import decoding, tasks
from vlm_server.decoding import DONE, Constraint, TemplateProcessor, Vocabulary
from vlm_server.tasks import Number

CARTPOLE = tasks.get("dmc/cartpole/swingup")
REACHER = tasks.get("dmc/reacher/easy")


def language(fields) -> set[str]:
    """Every text that the automaton accepts, by walking all of its paths."""
    states, start = decoding.automaton(fields)
    texts, waiting = set(), [(b"", start)]
    while waiting:
        text, state = waiting.pop()
        if state == DONE:
            texts.add(text.decode())
        waiting += [(text + bytes([byte]), to) for byte, to in states[state].items()]
    return texts


def test_language_is_every_action_as_the_task_writes_it():
    assert language(CARTPOLE.template()) == {CARTPOLE.format((i / 100,)) for i in range(-100, 101)}


def test_language_of_two_numbers():
    tenths = ["-1.0", *(f"-0.{i}" for i in range(9, 0, -1)), *(f"0.{i}" for i in range(10)), "1.0"]
    expected = {f"a: {x}, b: {y}" for x, y in itertools.product(tenths, repeat=2)}
    assert language(["a: ", Number(1), ", b: ", Number(1)]) == expected


@pytest.fixture(params=checkpoints.TYPES, scope="module")
def vocabulary(request) -> Vocabulary:
    return Vocabulary(checkpoints.load(request.param).tokenizer)


@pytest.fixture(params=["qwen2_5_vl", "llava"])
def tokenizer(request):
    return checkpoints.load(request.param).tokenizer


def write(constraint: Constraint, scores, rows: int, vocab: int) -> list[list[int]]:
    """Greedy decoding of a model whose scores come from ``scores(step) -> [rows, vocab]``."""
    processor, texts = TemplateProcessor(constraint, rows), [[] for _ in range(rows)]
    for step in range(constraint.max_tokens):
        ids = torch.tensor([text[-1:] or [0] for text in texts])
        chosen = processor(ids, scores(step)).argmax(-1).tolist()
        for text, token in zip(texts, chosen, strict=True):
            text.append(token)
        if processor.complete(chosen):
            return texts
    raise AssertionError("the reply did not end within max_tokens")


@pytest.mark.parametrize("task", tasks.TASKS.values(), ids=lambda task: task.name)
def test_whatever_the_scores_the_reply_parses(tokenizer, task):
    constraint = Constraint(Vocabulary(tokenizer), task.template())
    generator = torch.Generator().manual_seed(0)
    vocab, rows = len(tokenizer) + 9, 12  # wider than the tokenizer, as released heads are

    def scores(step):
        return torch.randn(rows, vocab, generator=generator)

    for row in write(constraint, scores, rows, vocab):
        text = tokenizer.decode(row, skip_special_tokens=True)
        action, status = task.parse(text)
        assert status == "ok", text
        assert task.format(action) == text


@pytest.mark.parametrize("action", [(-0.35, 1.0), (0.0, -1.0)])
def test_a_model_that_knows_its_answer_is_not_bent(tokenizer, action):
    """The tokens of an answer as the tokenizer splits it are all allowed, those across fields, too."""
    answer = tokenizer(REACHER.format(action), add_special_tokens=False)["input_ids"]
    constraint = Constraint(Vocabulary(tokenizer), REACHER.template())

    def scores(step):
        return torch.nn.functional.one_hot(torch.tensor([answer[step]]), len(tokenizer)).float()

    assert write(constraint, scores, 1, len(tokenizer)) == [answer]


def test_tokens_that_straddle_fields_are_used():
    tokenizer = checkpoints.load("qwen2_5_vl").tokenizer
    straddling = tokenizer(" -", add_special_tokens=False)["input_ids"]
    assert len(straddling) == 1  # or the test above shows nothing
    assert straddling[0] in tokenizer(CARTPOLE.format((-0.35,)), add_special_tokens=False)["input_ids"]


def test_masks_agree_with_the_bytes_of_the_tokens(vocabulary):
    """Against a walk over every token, byte by byte."""
    constraint = Constraint(vocabulary, CARTPOLE.template())
    for state, arcs in enumerate(constraint._states):
        expected = {}
        for token, data in vocabulary.bytes.items():
            at = state
            for byte in data:
                at = constraint._states[at].get(byte) if at is not None else None
            if at is not None:
                expected[token] = at
        assert constraint.arcs(state) == (expected if state != DONE else {vocabulary.end: DONE})
        assert not arcs or expected


def test_finished_rows_may_only_end():
    vlm = checkpoints.load("qwen2_5_vl")
    constraint = Constraint(Vocabulary(vlm.tokenizer), CARTPOLE.template())
    mask = constraint.mask(DONE, torch.zeros(1, 400))
    assert np.flatnonzero(mask.isfinite()).tolist() == [vlm.tokenizer.eos_token_id]


def test_other_tokenizers_are_refused():
    class Words:
        all_special_ids = ()
        eos_token_id = 0

        def get_vocab(self):
            return {"word": 0}

    with pytest.raises(ValueError, match="byte-level"):
        Vocabulary(Words())
