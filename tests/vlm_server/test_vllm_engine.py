"""The vLLM backend before a stand-in for vLLM that takes the arguments which vLLM's documentation names, and no others.

vLLM itself has not been run.
"""

from __future__ import annotations

import importlib.machinery
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from covr.prior.v1 import prior_pb2 as pb

from tests.vlm_server import checkpoints
from tests.vlm_server.test_main import run
from tests.vlm_server.test_service import SMALL, Client, refused
from vlm_server import backends, lora, models, server, tasks
from vlm_server.adapter_errors import AdapterInvalid
from vlm_server.engine import Engine, Observation
from vlm_server.vllm_engine import VllmEngine

CARTPOLE = tasks.get("dmc/cartpole/swingup")
END = 1  # token


@dataclass
class SamplingParams:
    """https://docs.vllm.ai/en/stable/api/vllm/sampling_params/"""

    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    logprobs: int | None = None
    skip_special_tokens: bool = True


@dataclass
class LoRARequest:
    """https://docs.vllm.ai/en/stable/api/vllm/lora/request/"""

    lora_name: str
    lora_int_id: int
    lora_path: str

    def __post_init__(self):
        assert self.lora_int_id > 0 and Path(self.lora_path).is_absolute()


@dataclass
class LLM:
    """https://docs.vllm.ai/en/stable/api/vllm/entrypoints/llm/, and of its ``EngineArgs`` what is used."""

    model: str
    dtype: str = "auto"
    trust_remote_code: bool = False
    seed: int = 0
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    gpu_memory_utilization: float = 0.9
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)
    enable_lora: bool = False
    max_loras: int = 1
    max_cpu_loras: int | None = None
    max_lora_rank: int = 16

    def __post_init__(self):
        self.calls, self.logprob = [], -0.5
        LLM.made = self

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True, lora_request=None):
        """Answers with the mean of the picture, or 0.50 with an adapter."""
        assert isinstance(prompts, list) and len(prompts) <= self.max_num_seqs
        assert sampling_params.temperature == 0.0 and not use_tqdm
        self.calls.append((prompts, sampling_params, lora_request))
        return [self._output(prompt, sampling_params, lora_request) for prompt in prompts]

    def _output(self, prompt, sampling_params, lora_request):
        assert set(prompt) == {"prompt", "multi_modal_data"} and isinstance(prompt["prompt"], str)
        (image,) = prompt["multi_modal_data"].values()
        value = np.asarray(image).mean() / 255
        if lora_request is not None:
            assert self.enable_lora and (Path(lora_request.lora_path) / lora.WEIGHTS).is_file()
            value = 0.5
        said = [7, 8, END][: sampling_params.max_tokens]
        positions = [{token: SimpleNamespace(logprob=self.logprob)} for token in said]
        logprobs = positions if sampling_params.logprobs else None
        completion = SimpleNamespace(text=f"slide: {value:.2f}", token_ids=said, logprobs=logprobs)
        return SimpleNamespace(outputs=[completion])


@pytest.fixture
def vllm(monkeypatch):
    """The stand-in as the module vllm."""
    for name, content in (
        ("vllm", {"LLM": LLM, "SamplingParams": SamplingParams}),
        ("vllm.lora", {}),
        ("vllm.lora.request", {"LoRARequest": LoRARequest}),
    ):
        module = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    folder = checkpoints.build(tmp_path_factory.mktemp("vlm"), "qwen2_5_vl")
    vlm = models.load(str(folder), "cpu").tuned_with({"targets": "language", "rank": 24})
    vlm.model.generation_config.eos_token_id = [END]
    return vlm


def adapter(vlm, folder, rank=4, targets="language"):
    tree = lora.twin(vlm.model)
    config = lora.LoraConfig(r=rank, target_modules=vlm.architecture.targets(targets))
    lora.add_fresh(tree, config, "x", seed=0)
    folder.mkdir()
    lora.save(folder, config, lora.state(tree, "x"))
    return folder


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
@pytest.mark.parametrize("text_first", [True, False])
def test_the_question_as_text_is_the_one_that_is_tuned_on(model_type, text_first):
    """With its place holder repeated as often as the picture has tokens, which is vLLM's part."""
    vlm = checkpoints.load(model_type)
    encoder = type(vlm.encoder)(vlm.processor, 0, text_first)
    ids = encoder(["Look at the image. slide "], checkpoints.frames(1))["input_ids"][0].tolist()
    place = vlm.processor.image_token_id
    text = vlm.tokenizer(encoder.text("Look at the image. slide "), add_special_tokens=False)["input_ids"]
    assert text.count(place) == 1
    at = text.index(place)
    expected = text[:at] + [place] * ids.count(place) + text[at + 1 :]
    start = len(ids) - len(expected)  # a token for the beginning, where a tokenizer has one
    assert ids[start:] == expected and start in (0, 1)


def test_both_engines_are_backends():
    names = [name for name in vars(backends.Backend) if not name.startswith("_")]
    names += backends.Backend.__annotations__
    for engine in (Engine, VllmEngine):
        assert all(hasattr(engine, name) for name in names)


def test_answers_and_adapters(vllm, vlm, tmp_path):
    engine = VllmEngine(vlm, max_batch=4, max_resident=3, memory=0.4)
    made = LLM.made
    assert made.model == str(vlm.folder) and made.dtype == "float32" and not made.trust_remote_code
    assert (made.max_num_seqs, made.max_cpu_loras, made.max_lora_rank) == (4, 3, 32)  # the next rank from 24
    assert made.gpu_memory_utilization == 0.4 and made.limit_mm_per_prompt == {"image": 1}

    seen = [Observation(np.full((56, 56, 3), grey, np.uint8)) for grey in (0, 255)]
    replies, timings = engine.predict(CARTPOLE, seen, None, False, 9, lambda: False)
    assert [reply.text for reply in replies] == ["slide: 0.00", "slide: 1.00"]
    assert [reply.new_tokens for reply in replies] == [2, 2] and timings.generate_ms > 0
    prompts, sampling, request = made.calls[-1]
    assert request is None and sampling.max_tokens == 9 and sampling.stop_token_ids == [END]
    assert CARTPOLE.prompt({}, "full").strip() in prompts[0]["prompt"]

    engine.add_adapter("run/v1", adapter(vlm, tmp_path / "v1"))
    engine.add_adapter("run/v2", lora.read(adapter(vlm, tmp_path / "v2", rank=32)))
    with pytest.raises(ValueError, match="loaded already"):
        engine.add_adapter("run/v1", tmp_path / "v1")
    for key, number in (("run/v2", 2), ("run/v1", 1)):
        assert engine.predict(CARTPOLE, seen, key, False, 9)[0][0].text == "slide: 0.50"
        assert made.calls[-1][2] == LoRARequest(key, number, str(tmp_path / key[4:]))
    engine.remove_adapter("run/v1")
    with pytest.raises(KeyError):
        engine.predict(CARTPOLE, seen, "run/v1", False, 9)
    engine.add_adapter("run/v1", tmp_path / "v1")  # under a number of its own
    engine.check("run/v1")
    assert made.calls[-1][2].lora_int_id == 3 and made.calls[-1][1].logprobs == 1
    made.logprob = math.nan
    with pytest.raises(AdapterInvalid, match="canary"):
        engine.check("run/v1")

    calls = len(made.calls)
    assert engine.predict(CARTPOLE, seen, None, False, 9, lambda: True)[0][0].text == "" and len(made.calls) == calls


def test_adapters_that_vllm_would_not_serve_whole_are_refused(vllm, vlm, tmp_path):
    engine = VllmEngine(vlm, 4, 3, 0.4)
    with pytest.raises(AdapterInvalid, match="rank 64; with this model vLLM serves 32"):
        engine.add_adapter("run/v1", adapter(vlm, tmp_path / "v1", rank=64))
    with pytest.raises(AdapterInvalid, match="tune with targets=language"):
        engine.add_adapter("run/v1", adapter(vlm, tmp_path / "v2", targets="all"))
    with pytest.raises(AdapterInvalid, match="unreadable"):
        engine.add_adapter("run/v1", tmp_path)


def test_a_server_answers_tunes_and_activates(vllm, vlm, tmp_path):
    engine = VllmEngine(vlm, 16, 4, 0.5)
    made = server.Server(vlm, tmp_path, SMALL, backend=engine)
    client = Client(made.start("127.0.0.1:0"))
    try:
        free = pb.Decoding(constraint=pb.Decoding.CONSTRAINT_FREE)
        assert client.ask(2, decoding=free).predictions[1].status == pb.REPLY_STATUS_OK
        template = pb.Decoding(constraint=pb.Decoding.CONSTRAINT_TEMPLATE)
        code, words = refused(lambda: client.ask(decoding=template))
        assert code == "INVALID_ARGUMENT" and "CONSTRAINT_FREE" in words
        done = client.tune(activate=True)
        assert done.state == pb.JOB_STATE_DONE, done.error
        reply = client.ask(run="run")
        assert reply.adapter == done.result.adapter and reply.predictions[0].text == "slide: 0.50"
        assert LLM.made.calls[-1][2] == LoRARequest("run/v1", 1, str(tmp_path.resolve() / "run" / "v1"))
        config = pb.TuningConfig(targets=pb.TuningConfig.TARGETS_ALL)
        start = pb.StartTuningRequest(run="run", dataset=client.upload().dataset, config=config)
        code, words = refused(lambda: client.tuning.StartTuning(start, timeout=30))
        assert code == "INVALID_ARGUMENT" and "config.targets: this server's backend serves language alone" in words
    finally:
        client.channel.close()
        made.stop(0)


def test_combinations_that_make_no_sense_are_refused(vllm):
    backends.check("vllm", "owner/name", False)
    for model, keep_prefixes, words in (("tiny", False, "released models"), ("owner/name", True, "--prefix_cache")):
        with pytest.raises(ValueError, match=words):
            backends.check("vllm", model, keep_prefixes)
        backends.check("transformers", model, keep_prefixes)
    with pytest.raises(ValueError, match=r"serving\.json says constrained"):
        VllmEngine(models.load("tiny", "cpu"), 4, 3, 0.4)


def test_without_vllm_the_server_says_what_it_needs(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs vLLM: pip install 'covr-jax\[server,vllm\]'"):
        backends.check("vllm", "owner/name", False)
    monkeypatch.undo()
    if importlib.util.find_spec("vllm") is None:
        result = run("--backend=vllm", "--model=owner/name")
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr == "vlm_server: error: --backend=vllm needs vLLM: pip install 'covr-jax[server,vllm]'\n"
