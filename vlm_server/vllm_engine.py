"""Answers by vLLM, an optional package, behind the interface of ``backends``.

vLLM has weights of its own beside those that tuning starts from, reads adapters from their versions' folders, which
never change, and lets several answers of a batch end at different times. Its replies are greedy, and may differ from
transformers' and between batches by rounding.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_server import lora
from vlm_server.adapter_errors import AdapterInvalid
from vlm_server.engine import CANARY_TOKENS, Observation, Reply, Timings, canary
from vlm_server.models import Vlm
from vlm_server.tasks import Task

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be prepared for
CONTEXT = 8192  # tokens of a question and its reply
_MODULE = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")  # of a key in an adapter's file


class VllmEngine:
    """Serves one model; adapters come and go between calls."""

    constrains, targets = False, ("language",)
    prefixes_reused = 0  # vLLM does not say

    def __init__(self, vlm: Vlm, max_batch: int, max_resident: int, memory: float):
        """
        Args:
            max_batch: questions that are answered together.
            max_resident: adapters that stay in memory.
            memory: share of the GPU's memory for vLLM.

        Raises:
            ValueError: this model is asked with constraints.
        """
        if vlm.defaults.constrained:
            raise ValueError("--backend=vllm writes freely, and this model's serving.json says constrained")
        # In this process, so that it ends with the server; read when vLLM is imported.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm
        from vllm.lora.request import LoRARequest

        self._vlm, self._sampling, self._request = vlm, vllm.SamplingParams, LoRARequest
        self.max_rank = next((rank for rank in RANKS if rank >= vlm.defaults.tuning.rank), RANKS[-1])
        self._language = re.compile(vlm.architecture.targets("language"))
        self._adapters: dict[str, Any] = {}  # key -> LoRARequest
        self._added = 0
        self._llm = vllm.LLM(
            model=str(vlm.folder),
            dtype=vlm.dtype,
            trust_remote_code=False,
            seed=0,
            max_model_len=CONTEXT,
            max_num_seqs=max_batch,
            gpu_memory_utilization=memory,
            limit_mm_per_prompt={"image": 1},
            enable_lora=True,
            max_loras=1,  # a batch has one adapter
            max_cpu_loras=max_resident,
            max_lora_rank=self.max_rank,
        )

    def add_adapter(self, key: str, adapter: Path | lora.Saved) -> None:
        """Makes an adapter known; vLLM reads its folder when it is first asked.

        Raises:
            ValueError: the key is taken.
            AdapterInvalid: files that are unreadable, of too high a rank, or for layers that vLLM does not adapt.
        """
        if key in self._adapters:
            raise ValueError(f"adapter {key!r} is loaded already")
        saved = lora.read(adapter) if isinstance(adapter, Path) else adapter
        if saved.config.r > self.max_rank:
            raise AdapterInvalid(f"adapter has rank {saved.config.r}; with this model vLLM serves {self.max_rank}")
        for name in saved.tensors:
            found = _MODULE.fullmatch(name)
            if found is None or not self._language.fullmatch(found[1]):
                raise AdapterInvalid("vLLM adapts the language model's layers alone; tune with targets=language")
        self._added += 1  # vLLM knows an adapter by its number, which is never used twice
        self._adapters[key] = self._request(key, self._added, str(saved.folder.resolve()))

    def remove_adapter(self, key: str) -> None:
        """Forgets an adapter; its memory goes when vLLM needs the room.

        Raises:
            KeyError: no adapter of this key is known.
        """
        del self._adapters[key]

    def check(self, key: str) -> None:
        """Asks an adapter a canary question.

        Raises:
            KeyError: no adapter of this key is known.
            AdapterInvalid: what it would say is not finite.
        """
        task, observation = canary()
        said = self._generate(task, [observation], key, CANARY_TOKENS, logprobs=1)[0]
        likely = [each.logprob for position in said.logprobs for each in position.values()]
        if not all(math.isfinite(value) for value in likely):
            raise AdapterInvalid("adapter failed its canary question: its logits are not finite")

    def check_prefixes(self) -> None:
        """Nothing: vLLM's own cache of prefixes is keyed by adapter and picture."""

    def predict(
        self,
        task: Task,
        observations: Sequence[Observation],
        adapter: str | None = None,
        constrained: bool = False,
        max_new_tokens: int = 64,
        should_stop: Callable[[], bool] | None = None,
    ) -> tuple[list[Reply], Timings]:
        """Greedy replies, in the order of the observations.

        Args:
            adapter: key of a known adapter; None: the base model.
            should_stop: asked once, before anything is computed.

        Raises:
            KeyError: no adapter of this key is known.
            ValueError: ``constrained``.
        """
        if constrained:
            raise ValueError("vLLM writes freely here")
        if should_stop is not None and should_stop():
            return [Reply("", 0)] * len(observations), Timings(0.0, 0.0)
        started = time.perf_counter()
        said = self._generate(task, observations, adapter, max_new_tokens)
        ends = self._vlm.model.generation_config.eos_token_id
        replies = [Reply(each.text, sum(token not in ends for token in each.token_ids)) for each in said]
        return replies, Timings(0.0, (time.perf_counter() - started) * 1e3)  # pictures are encoded in there, too

    def _generate(self, task: Task, observations, adapter: str | None, tokens: int, **settings: Any) -> list:
        """vLLM's ``CompletionOutput`` of each observation."""
        style = self._vlm.defaults.prompt_style
        prompts = [
            {
                "prompt": self._vlm.encoder.text(task.prompt(each.state, style)),
                "multi_modal_data": {"image": Image.fromarray(each.frame)},
            }
            for each in observations
        ]
        sampling = self._sampling(
            temperature=0.0,
            max_tokens=tokens,
            stop_token_ids=list(self._vlm.model.generation_config.eos_token_id),
            **settings,
        )
        request = None if adapter is None else self._adapters[adapter]
        outputs = self._llm.generate(prompts, sampling, use_tqdm=False, lora_request=request)
        return [output.outputs[0] for output in outputs]
