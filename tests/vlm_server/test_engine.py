from __future__ import annotations

import pytest
import torch

from tests.vlm_server import checkpoints
from tests.vlm_server.test_lora import adapted
from vlm_server import lora, tasks
from vlm_server.engine import Engine, Observation

CARTPOLE = tasks.get("dmc/cartpole/swingup")
HIGHWAY = tasks.get("carla/highway")
TASKS = [CARTPOLE, HIGHWAY, tasks.get("dmc/walker/walk")]


def seen(count: int, size: int = 84, seed: int = 0, state: dict | None = None) -> list[Observation]:
    return [Observation(frame, state or {}) for frame in checkpoints.frames(count, size, seed)]


def texts(engine, task, observations, adapter=None, constrained=False, tokens=12):
    return [reply.text for reply in engine.predict(task, observations, adapter, constrained, tokens)[0]]


@pytest.fixture(params=checkpoints.TYPES, scope="module")
def vlm(request):
    return checkpoints.load(request.param)


@pytest.fixture(scope="module")
def engine(vlm):
    return Engine(vlm)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_constrained_replies_parse(engine, task):
    replies, timings = engine.predict(task, seen(3), None, True, 1)
    for reply in replies:
        action, status = task.parse(reply.text)
        assert status == "ok" and task.format(action) == reply.text
        assert 0 < reply.new_tokens <= len(reply.text)
    assert timings.encode_ms > 0 and timings.generate_ms > 0


def test_free_replies_are_greedy_and_bounded(vlm, engine):
    observations = seen(2)
    replies, _ = engine.predict(CARTPOLE, observations, None, False, 5)
    batch = vlm.encoder([CARTPOLE.prompt({}, "full")] * 2, [each.frame for each in observations])
    for row, reply in enumerate(replies):
        assert reply.new_tokens <= 5
        one = vlm.encoder([CARTPOLE.prompt({}, "full")], [observations[row].frame])
        ids, expected = one["input_ids"], []
        for _ in range(5):  # the definition of greedy decoding, without a cache
            kinds = {"mm_token_type_ids": torch.zeros_like(ids)} if "mm_token_type_ids" in one else {}
            if kinds:
                kinds["mm_token_type_ids"][:, : batch["mm_token_type_ids"].shape[1]] = one[
                    "mm_token_type_ids"
                ]
            rest = {
                k: v for k, v in one.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")
            }
            with torch.no_grad():
                best = int(
                    vlm.model(input_ids=ids, attention_mask=torch.ones_like(ids), **kinds, **rest)
                    .logits[0, -1]
                    .argmax()
                )
            if best in vlm.model.generation_config.eos_token_id:
                break
            expected.append(best)
            ids = torch.cat([ids, torch.tensor([[best]])], 1)
        assert reply.text == vlm.tokenizer.decode(expected, skip_special_tokens=True)
        assert reply.new_tokens == len(expected)


def test_a_batch_of_unequal_prompts_equals_single_calls(engine):
    observations = [
        Observation(frame, state)
        for frame, state in zip(
            checkpoints.frames(3), ({}, {"speed": 3.25}, {"speed": -12.5, "yaw": 170.0}), strict=True
        )
    ]
    for constrained in (False, True):
        together = texts(engine, HIGHWAY, observations, None, constrained)
        assert together == [texts(engine, HIGHWAY, [each], None, constrained)[0] for each in observations]
    assert (
        len(
            {
                engine._vlm.encoder([HIGHWAY.prompt(o.state)], [o.frame])["input_ids"].shape
                for o in observations
            }
        )
        > 1
    )


def test_pictures_of_unequal_size_share_a_batch(engine):
    observations = seen(1, 84) + seen(1, 56) + seen(1, 112)
    together = texts(engine, CARTPOLE, observations)
    assert together == [texts(engine, CARTPOLE, [each])[0] for each in observations]


def test_read_only_frames_are_welcome(engine):
    [observation] = seen(1)
    observation.frame.setflags(write=False)
    assert texts(engine, CARTPOLE, [observation])


def test_adapters_come_and_go(vlm, tmp_path):
    engine, observations = Engine(vlm), seen(4)
    base = texts(engine, CARTPOLE, observations)
    expected = {}
    for seed, key in ((1, "run/v1"), (2, "run/v2")):
        tree = adapted(vlm, tmp_path / str(seed), seed)
        alone = Engine(vlm)
        alone._tree = tree.eval()
        expected[key] = texts(alone, CARTPOLE, observations)
        engine.add_adapter(key, tmp_path / str(seed))
    assert len({tuple(base), *map(tuple, expected.values())}) == 3  # all differ, or the rest shows nothing
    assert engine.adapters == ("run/v1", "run/v2")
    for key in ("run/v1", None, "run/v2", "run/v1", None):
        assert texts(engine, CARTPOLE, observations, key) == (expected[key] if key else base)
    with pytest.raises(ValueError, match="loaded already"):
        engine.add_adapter("run/v1", tmp_path / "1")
    texts(engine, CARTPOLE, observations, "run/v1")
    engine.remove_adapter("run/v1")
    with pytest.raises(KeyError):
        texts(engine, CARTPOLE, observations, "run/v1")
    assert texts(engine, CARTPOLE, observations) == base
    assert texts(engine, CARTPOLE, observations, "run/v2") == expected["run/v2"]
    engine.add_adapter("run/v1", tmp_path / "1")
    assert texts(engine, CARTPOLE, observations, "run/v1") == expected["run/v1"]


def test_adapters_are_written_over_removed_ones(vlm, tmp_path, monkeypatch):
    observations, fresh, expected = seen(4), [], {}
    for seed in (1, 2, 3):
        adapted(vlm, tmp_path / str(seed), seed)
        alone = Engine(vlm)
        alone.add_adapter("x", tmp_path / str(seed))
        expected[seed] = texts(alone, CARTPOLE, observations, "x")
    engine, add = Engine(vlm), lora.add_saved
    monkeypatch.setattr(lora, "add_saved", lambda *arguments: fresh.append(1) or add(*arguments))
    engine.add_adapter("stays", tmp_path / "1")
    count = None
    for seed in (2, 3, 2):
        engine.add_adapter(f"run/v{seed}", lora.read(tmp_path / str(seed)))
        assert texts(engine, CARTPOLE, observations, f"run/v{seed}") == expected[seed]
        assert texts(engine, CARTPOLE, observations, "stays") == expected[1]
        count = count or len(list(engine._tree.parameters()))
        assert len(list(engine._tree.parameters())) == count
        engine.remove_adapter(f"run/v{seed}")
    assert len(fresh) == 2
    bad = lora.read(tmp_path / "3")
    with pytest.raises(lora.AdapterInvalid, match="do not fit"):
        engine.add_adapter("bad", lora.Saved(bad.config, dict(list(bad.tensors.items())[1:]), bad.folder))
    assert engine.adapters == ("stays",) and engine._free is not None
    other = lora.read(tmp_path / "3")
    other.config.lora_alpha *= 2  # other settings: modules of its own, and the free ones go
    engine.add_adapter("other", other)
    assert len(fresh) == 3 and texts(engine, CARTPOLE, observations, "other") != expected[3]
    assert engine._free is None and len(list(engine._tree.parameters())) == count
    assert texts(engine, CARTPOLE, observations, "stays") == expected[1]


def test_kept_prefixes_change_no_answer_and_leave_with_their_adapter(vlm, tmp_path):
    plain, keeping, observations = Engine(vlm), Engine(vlm, keep_prefixes=True), seen(3)
    for seed in (1, 2):
        adapted(vlm, tmp_path / str(seed), seed)
    wanted = {}
    for seed in (1, 2):
        plain.add_adapter(f"run/v{seed}", tmp_path / str(seed))
        wanted[seed] = texts(plain, CARTPOLE, observations, f"run/v{seed}")
    base = texts(plain, CARTPOLE, observations)
    assert base != wanted[1] != wanted[2]
    for adapter, seed in (("run/v1", 1), ("run/v2", 2)):
        keeping.add_adapter(adapter, tmp_path / str(seed))
    for _ in range(2):
        assert texts(keeping, CARTPOLE, observations) == base
        assert texts(keeping, CARTPOLE, observations[:1]) == base[:1]
        for seed in (1, 2):
            assert texts(keeping, CARTPOLE, observations, f"run/v{seed}") == wanted[seed]
    assert texts(keeping, CARTPOLE, observations, None, True) == texts(plain, CARTPOLE, observations, None, True)
    text_first = vlm.model_type != "llava"  # whose chat template puts the picture first, whatever it is given
    assert keeping.prefixes_reused == (3 + 1 + 3 + 1 + 2 * 3 - 3 + 3 if text_first else 0)
    keeping.remove_adapter("run/v1")  # as a version that was withdrawn: another one is tuned to its number
    keeping.add_adapter("run/v1", tmp_path / "2")
    assert texts(keeping, CARTPOLE, observations, "run/v1") == wanted[2]
    keeping.check_prefixes()


def test_prompts_with_state_and_pictures_of_unequal_size_are_answered_as_ever(vlm):
    plain, keeping = Engine(vlm), Engine(vlm, keep_prefixes=True)
    unequal = seen(1, 84) + seen(1, 56) + seen(1, 112)
    for _ in range(2):
        for task, observations in ((HIGHWAY, seen(2, state={"speed": 3.25})), (CARTPOLE, unequal)):
            assert texts(keeping, task, observations) == texts(plain, task, observations)
    assert keeping.prefixes_reused == 0


def test_prefixes_that_change_answers_are_refused(vlm, monkeypatch):
    keeping = Engine(vlm, keep_prefixes=True)
    if vlm.model_type == "llava":
        keeping.check_prefixes()  # has none
        return
    read = keeping._prefixes._read

    def other(prefix, batch):
        return read(prefix.flip(1), batch)

    monkeypatch.setattr(keeping._prefixes, "_read", other)
    with pytest.raises(ValueError, match="prefix_cache: this model answers otherwise"):
        keeping.check_prefixes()


def test_a_bad_adapter_leaves_the_engine_as_it_was(vlm, tmp_path):
    engine, observations = Engine(vlm), seen(2)
    adapted(vlm, tmp_path / "good", 1)
    engine.add_adapter("run/v1", tmp_path / "good")
    before = texts(engine, CARTPOLE, observations, "run/v1")
    adapted(vlm, tmp_path / "bad", 2)
    (tmp_path / "bad" / lora.WEIGHTS).write_bytes(b"")
    with pytest.raises(lora.AdapterInvalid):
        engine.add_adapter("run/v2", tmp_path / "bad")
    assert engine.adapters == ("run/v1",)
    assert texts(engine, CARTPOLE, observations, "run/v1") == before


def test_a_call_that_nobody_waits_for_ends(engine):
    asked = []

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    replies, _ = engine.predict(CARTPOLE, seen(2), None, False, 500, should_stop)
    assert len(asked) == 3 and len(replies) == 2
    assert all(reply.new_tokens <= 3 for reply in replies)
