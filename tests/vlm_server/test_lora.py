from __future__ import annotations

import json
import math

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file

from tests.vlm_server import checkpoints
from vlm_server import lora


def config(vlm, targets: str = "all", rank: int = 4) -> LoraConfig:
    return LoraConfig(r=rank, lora_alpha=8, bias="none", target_modules=vlm.architecture.targets(targets))


def adapted(vlm, folder, seed: int = 1, targets: str = "all", rank: int = 4):
    """A twin with a random adapter "x", which is also written to ``folder``."""
    tree, settings = lora.twin(vlm.model), config(vlm, targets, rank)
    lora.add_fresh(tree, settings, "x", seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in lora.layers(tree):
            layer.lora_B["x"].weight.normal_(0, 0.3, generator=generator)
    folder.mkdir(exist_ok=True)
    lora.save(folder, settings, lora.state(tree, "x"))
    return tree


def batch(vlm):
    return vlm.encoder(["slide ", "Where is it? slide "], checkpoints.frames(2))


@torch.no_grad()
def logits(tree, vlm):
    return tree(**batch(vlm)).logits


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_twins_share_storage_but_not_modules(model_type):
    vlm = checkpoints.load(model_type)
    tree = lora.twin(vlm.model)
    ours, theirs = dict(vlm.model.named_parameters()), dict(tree.named_parameters())
    assert ours.keys() == theirs.keys() and all(ours[key] is theirs[key] for key in ours)
    assert not {id(m) for m in vlm.model.modules()} & {id(m) for m in tree.modules()}
    assert torch.equal(logits(tree, vlm), logits(vlm.model, vlm))
    lora.add_fresh(tree, config(vlm), "x", seed=0)
    assert not lora.layers(vlm.model)


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_reload_is_exact_here_and_in_peft(model_type, tmp_path):
    vlm = checkpoints.load(model_type)
    expected = logits(adapted(vlm, tmp_path / "a"), vlm)
    assert not torch.allclose(expected, logits(vlm.model, vlm))
    tree = lora.twin(vlm.model)
    lora.add_saved(tree, lora.read(tmp_path / "a"), "y")
    lora.select(tree, "y")
    assert torch.equal(logits(tree, vlm), expected)
    assert not any(p.requires_grad for p in tree.parameters())
    lora.select(tree, None)
    assert torch.equal(logits(tree, vlm), logits(vlm.model, vlm))
    theirs = PeftModel.from_pretrained(lora.twin(vlm.model), tmp_path / "a").eval()
    assert torch.equal(logits(theirs, vlm), expected)


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed_alone():
    vlm = checkpoints.load("qwen2_5_vl")
    states = []
    for seed, noise in ((3, 0), (3, 1), (4, 0)):
        torch.manual_seed(noise)
        tree = lora.twin(vlm.model)
        lora.add_fresh(tree, config(vlm), "x", seed)
        assert torch.equal(logits(tree, vlm), logits(vlm.model, vlm))
        states.append(lora.state(tree, "x"))
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not all(torch.equal(states[0][key], states[2][key]) for key in states[0])
    bounds = [
        (value.abs().max(), 1 / math.sqrt(value.shape[1]))
        for key, value in states[0].items()
        if "lora_A" in key
    ]
    assert all(0.5 * bound < largest <= bound for largest, bound in bounds)


def test_adapters_of_other_shapes_live_side_by_side(tmp_path):
    vlm = checkpoints.load("qwen2_5_vl")
    small = logits(adapted(vlm, tmp_path / "a", 1, "language", 2), vlm)
    large = logits(adapted(vlm, tmp_path / "b", 2, "all", 8), vlm)
    tree = lora.twin(vlm.model)
    lora.add_saved(tree, lora.read(tmp_path / "a"), "a")
    lora.add_saved(tree, lora.read(tmp_path / "b"), "b")
    for name, expected in (("a", small), ("b", large), ("a", small), (None, logits(vlm.model, vlm))):
        lora.select(tree, name)
        assert torch.equal(logits(tree, vlm), expected)
    lora.remove(tree, "a")
    lora.select(tree, "b")
    assert torch.equal(logits(tree, vlm), large)
    assert not any(".a." in name for name, _ in tree.named_parameters())


def test_language_targets_leave_the_vision_tower_alone(tmp_path):
    vlm = checkpoints.load("llava")
    adapted(vlm, tmp_path / "a", targets="language")
    assert all(".language_model." in key for key in load_file(tmp_path / "a" / lora.WEIGHTS))


def test_files_that_do_not_fit_are_refused(tmp_path):
    vlm, other = checkpoints.load("qwen2_5_vl"), checkpoints.load("llava")
    adapted(vlm, tmp_path / "a")
    tree = lora.twin(other.model)
    with pytest.raises(lora.AdapterInvalid):
        lora.add_saved(tree, lora.read(tmp_path / "a"), "x")
    assert torch.equal(logits(tree, other), logits(other.model, other))
    tree = lora.twin(vlm.model)
    weights = tmp_path / "a" / lora.WEIGHTS
    tensors = load_file(weights)
    first = min(tensors)
    for change, message in (
        ({first: torch.full_like(tensors[first], math.nan)}, "not finite"),
        ({first: tensors[first][:1]}, "do not fit"),
        ({"base_model.model.extra": torch.zeros(1)}, "do not fit"),
    ):
        save_file(tensors | change, weights)
        with pytest.raises(lora.AdapterInvalid, match=message):
            lora.add_saved(tree, lora.read(tmp_path / "a"), "x")
    weights.write_bytes(b"no safetensors")
    with pytest.raises(lora.AdapterInvalid, match="unreadable"):
        lora.add_saved(tree, lora.read(tmp_path / "a"), "x")
    assert torch.equal(logits(tree, vlm), logits(vlm.model, vlm))


def test_dropout_is_off_while_serving(tmp_path):
    vlm = checkpoints.load("qwen2_5_vl")
    expected = logits(adapted(vlm, tmp_path / "a"), vlm)
    settings = json.loads((tmp_path / "a" / lora.CONFIG).read_text())
    (tmp_path / "a" / lora.CONFIG).write_text(json.dumps(settings | {"lora_dropout": 0.5}))  # as peft writes it
    tree = lora.twin(vlm.model)
    lora.add_saved(tree, lora.read(tmp_path / "a"), "x")
    lora.select(tree, "x")
    assert not any(module.training for module in tree.modules())
    assert torch.equal(logits(tree, vlm), expected) and torch.equal(logits(tree, vlm), expected)


def test_what_is_written_has_no_dropout(tmp_path):
    vlm = checkpoints.load("qwen2_5_vl")
    settings = config(vlm)
    settings.lora_dropout = 0.5
    tree = lora.twin(vlm.model)
    lora.add_fresh(tree, settings, "x", seed=0)
    lora.save(tmp_path, settings, lora.state(tree, "x"))
    assert LoraConfig.from_pretrained(tmp_path).lora_dropout == 0.0 and settings.lora_dropout == 0.5


def test_seeded_dropout():
    x = torch.ones(200, 100)
    first, second = (lora.SeededDropout(0.25, torch.Generator().manual_seed(7)) for _ in range(2))
    out = first(x)
    assert torch.equal(out, second(x)) and not torch.equal(out, first(x))
    assert out.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float((out == 0).float().mean()) == pytest.approx(0.25, abs=0.01)  # 3 standard deviations
    assert torch.equal(first.eval()(x), x)
