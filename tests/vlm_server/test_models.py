from __future__ import annotations

import hashlib
import json
import re
import shutil

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Linear

from tests.vlm_server import checkpoints
from vlm_server import defaults, models


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_load_describes_the_checkpoint(tmp_path, model_type):
    folder = checkpoints.build(tmp_path / "small", model_type)
    vlm = models.load(str(folder), device="cpu")
    assert (vlm.name, vlm.model_type) == ("small", model_type)
    assert vlm.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    unique = {p.data_ptr(): p.numel() for p in vlm.model.parameters()}
    assert vlm.parameters == sum(unique.values())
    assert {p.dtype for p in vlm.model.parameters()} == {torch.float32}
    assert not vlm.model.training and not any(p.requires_grad for p in vlm.model.parameters())
    assert vlm.defaults == defaults.ServingDefaults()
    assert type(vlm.processor.image_processor).__name__.endswith("Pil")


def test_released_sampling_settings_are_dropped():
    generation = checkpoints.load("qwen2_5_vl").model.generation_config
    assert generation.do_sample is False
    assert generation.repetition_penalty in (None, 1.0) and generation.temperature in (None, 1.0)
    tokenizer = checkpoints.load("qwen2_5_vl").tokenizer
    expected = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert sorted(generation.eos_token_id) == sorted(expected)


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_lora_targets_are_all_linear_layers_but_the_head(model_type):
    vlm = checkpoints.load(model_type)
    linear = {name for name, module in vlm.model.named_modules() if isinstance(module, Linear)} - {"lm_head"}
    names = [name for name, _ in vlm.model.named_modules()]
    everything = {name for name in names if re.fullmatch(vlm.architecture.targets("all"), name)}
    language = {name for name in names if re.fullmatch(vlm.architecture.targets("language"), name)}
    assert everything == linear
    assert language == {name for name in linear if ".language_model." in name}
    assert len(language) == 2 * 7  # two layers of q k v o gate up down


def test_older_file_layout_gives_the_same_processor(tmp_path):
    """Released checkpoints keep pictures' settings and the chat template in files of their own."""
    new = checkpoints.build(tmp_path / "new", "qwen2_5_vl")
    old = shutil.copytree(new, tmp_path / "old")
    settings = json.loads((old / "processor_config.json").read_text())["image_processor"]
    settings = {k: v for k, v in settings.items() if k not in ("size", "image_processor_type")}
    settings |= {
        "min_pixels": 28 * 28,
        "max_pixels": 28 * 28 * 16,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    (old / "preprocessor_config.json").write_text(json.dumps(settings))
    template = (old / "chat_template.jinja").read_text()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    for name in ("processor_config.json", "chat_template.jinja"):
        (old / name).unlink()
    frames = checkpoints.frames(2, size=100)
    batches = [models.load(str(folder), "cpu").encoder(["Where? "] * 2, frames) for folder in (new, old)]
    assert batches[0].keys() == batches[1].keys()
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])


def test_digest_of_shards_is_over_their_bytes_in_name_order(tmp_path):
    folder = checkpoints.build(tmp_path / "one", "qwen2_vl")
    whole = models.load(str(folder), "cpu")
    whole.model.save_pretrained(tmp_path / "many", max_shard_size="200KB")
    shards = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(shards) > 1
    whole.processor.save_pretrained(tmp_path / "many")
    sharded = models.load(str(tmp_path / "many"), "cpu")
    assert sharded.digest == hashlib.sha256(b"".join(p.read_bytes() for p in shards)).hexdigest()
    state = sharded.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in whole.model.state_dict().items())


def test_bfloat16_on_request(tmp_path):
    vlm = models.load(str(checkpoints.build(tmp_path / "m", "qwen2_vl")), "cpu", "bfloat16")
    assert {p.dtype for p in vlm.model.parameters()} == {torch.bfloat16}


def refused(match: str, *args: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        models.load(*args)
    assert "\n" not in str(caught.value)


def test_refusals_say_what_is_allowed(tmp_path, monkeypatch):
    refused("no folder", str(tmp_path / "absent"))
    refused("no folder", "absent")
    refused("no config.json", str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    refused("not a JSON object", str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused("supported: qwen2_5_vl, qwen2_vl, llava", str(tmp_path))
    refused("device must be", "tiny", "tpu")
    refused("device must be", "tiny", "meta")
    refused("dtype must be one of auto, float32", "tiny", "cpu", "int8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused("hf download", "nobody/never-published-model")


def test_pickled_weights_are_refused(tmp_path):
    folder = checkpoints.build(tmp_path / "m", "qwen2_vl")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused("only safetensors", str(folder))


def test_an_index_cannot_lead_out_of_the_folder(tmp_path):
    folder = checkpoints.build(tmp_path / "m", "qwen2_vl")
    (folder / "model.safetensors").rename(tmp_path / "x.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    refused("only safetensors", str(folder))
    for text in ("{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}'):
        index.write_text(text)
        refused("has no weight_map of file names", str(folder))


def test_a_whole_file_goes_before_an_index(tmp_path):
    folder = checkpoints.build(tmp_path / "m", "qwen2_vl")
    (folder / "model.safetensors.index.json").write_text("{")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert models.load(str(folder), "cpu").digest == digest


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_tensors_that_are_missing_or_of_another_shape_are_refused(tmp_path, model_type):
    file = checkpoints.build(tmp_path / "m", model_type) / "model.safetensors"
    tensors = load_file(file)
    first, *_, last = sorted(tensors)
    for changed, words in (
        ({key: value for key, value in tensors.items() if key != last}, "has no tensor"),
        (tensors | {first: tensors[first][:1].clone()}, "has another shape of tensor"),
    ):
        save_file(changed, file, metadata={"format": "pt"})
        refused(rf"{words} \S+ \(and 0 more", str(file.parent), "cpu")


def test_serving_defaults_come_from_the_folder(tmp_path):
    assert defaults.read(tmp_path) == defaults.ServingDefaults()
    (tmp_path / "serving.json").write_text(
        json.dumps({"prompt_style": "short", "constrained": True, "max_new_tokens": 9, "tuning": {"rank": 4}})
    )
    read = defaults.read(tmp_path)
    assert (read.prompt_style, read.constrained, read.max_new_tokens, read.text_first) == (
        "short",
        True,
        9,
        True,
    )
    assert read.tuning == defaults.TuningConfig(rank=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "serving.json"),
        ("[]", "serving.json"),
        ('{"prompt_stile": "short"}', "unknown field 'prompt_stile'; known: constrained"),
        ('{"tuning": {"rank": 0}}', r"rank must be an integer in \[1, 1024\], not 0"),
        ('{"tuning": {"rank": true}}', "rank must be an integer"),
        ('{"tuning": {"rank": 2.5}}', "rank must be an integer"),
        ('{"tuning": {"learning_rate": "1"}}', "learning_rate must be a number"),
        ('{"tuning": {"learning_rate": NaN}}', "learning_rate must be a number"),
        ('{"tuning": {"targets": "vision"}}', "targets must be one of all, language"),
        ('{"tuning": {"holdout": 0.6}}', "holdout must be a number"),
        ('{"constrained": 1}', "constrained must be true or false"),
    ],
)
def test_bad_serving_defaults_are_refused(tmp_path, text, message):
    (tmp_path / "serving.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        defaults.read(tmp_path)


def test_the_tiny_model_loads():
    vlm = models.load("tiny", "cpu")
    assert (vlm.name, vlm.model_type) == ("tiny", "qwen2_5_vl")
    assert vlm.defaults.prompt_style == "short" and vlm.defaults.constrained
    batch = vlm.encoder(["Where is it? "], checkpoints.frames(1))
    assert int((batch["input_ids"] == vlm.model.config.image_token_id).sum()) == 1
