"""Answers to questions about pictures, from the base model or one of its adapters.

An engine is not safe to use from two threads at once; in a server the thread of ``batching.Batcher`` alone
calls it, whichever built it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from vlm_server import lora
from vlm_server.adapter_errors import AdapterInvalid
from vlm_server.decoding import Constraint, TemplateProcessor, Vocabulary
from vlm_server.defaults import TARGETS
from vlm_server.models import Vlm
from vlm_server.prefixes import Prefixes
from vlm_server.tasks import TASKS, Task

CANARY_TOKENS = 4
PREFIX_ERROR = 0.05  # of the first logits' standard deviation: rounding in bfloat16, with room


@dataclass(frozen=True)
class Observation:
    """One picture, uint8 [H,W,3] RGB, and named scalars that the task's prompt may mention."""

    frame: np.ndarray
    state: dict[str, float] = field(default_factory=dict)


def canary() -> tuple[Task, Observation]:
    """What an adapter is asked before it serves."""
    return next(iter(TASKS.values())), Observation(np.full((84, 84, 3), 128, np.uint8))


@dataclass(frozen=True)
class Reply:
    """A model's raw text, and the tokens that it took, the end token not counted."""

    text: str
    new_tokens: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds."""

    encode_ms: float
    generate_ms: float


@dataclass(frozen=True)
class _Slot:
    """Modules of one adapter in the tree."""

    name: str  # peft's, never used twice
    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]  # under their names in an adapter's file; the modules' own


class Engine:
    """Serves one model from a module tree of its own; adapters come and go between calls."""

    constrains, targets = True, TARGETS

    def __init__(self, vlm: Vlm, keep_prefixes: bool = False):
        """
        Args:
            keep_prefixes: whether the text before a picture is read once for each adapter and prompt (``prefixes``).
        """
        self._vlm = vlm
        self._tree = lora.twin(vlm.model)
        self._prefixes = Prefixes(self._tree, vlm.processor.image_token_id) if keep_prefixes else None
        self._slots: dict[str, _Slot] = {}  # by key
        self._free: _Slot | None = None  # of an adapter that was removed, to be written over
        self._added = 0
        self._selected: str | None = None
        self._vocabulary: Vocabulary | None = None  # built when first needed: seconds for a large tokenizer
        self._constraints: dict[tuple, Constraint] = {}

    @property
    def adapters(self) -> tuple[str, ...]:
        """Keys of the adapters in memory."""
        return tuple(self._slots)

    @property
    def prefixes_reused(self) -> int:
        """Questions whose text was not read again."""
        return 0 if self._prefixes is None else self._prefixes.reused

    def add_adapter(self, key: str, adapter: Path | lora.Saved) -> None:
        """Loads an adapter under ``key``: over the last one that was removed if it has the same settings, which
        takes a fraction of the time of new modules.

        Args:
            adapter: what ``lora.read`` made of its folder, or the folder (``AdapterStore`` checks its digest).

        Raises:
            ValueError: the key is taken.
            lora.AdapterInvalid: the files do not fit the model, or hold values that are not finite.
        """
        if key in self._slots:
            raise ValueError(f"adapter {key!r} is loaded already")
        saved = lora.read(adapter) if isinstance(adapter, Path) else adapter
        settings, free, self._free = saved.config.to_dict(), self._free, None
        if free is not None and free.settings == settings:
            try:
                lora.overwrite(free.tensors, saved)
            except AdapterInvalid:
                self._free = free
                raise
            self._slots[key] = free
            return
        self._added += 1
        name = f"adapter{self._added}"
        try:
            if free is not None:
                lora.remove(self._tree, free.name)
            self._slots[key] = _Slot(name, settings, lora.add_saved(self._tree, saved, name))
        finally:
            lora.select(self._tree, self._selected)

    def remove_adapter(self, key: str) -> None:
        """Removes an adapter; the memory of the one that was removed last stays, for the next one.

        Raises:
            KeyError: no adapter of this key is loaded.
        """
        slot = self._slots.pop(key)
        if self._prefixes is not None:
            self._prefixes.drop(key)
        if self._selected == slot.name:
            self._select(None)
        if self._free is not None:
            lora.remove(self._tree, self._free.name)
            lora.select(self._tree, self._selected)
        self._free = slot

    @torch.inference_mode()
    def check(self, key: str) -> None:
        """Asks a loaded adapter a canary question.

        Raises:
            KeyError: no adapter of this key is loaded.
            AdapterInvalid: what it would say is not finite.
        """
        self._select(self._slots[key].name)
        task, observation = canary()
        prompt = task.prompt(observation.state, self._vlm.defaults.prompt_style)
        batch = self._vlm.encoder([prompt], [observation.frame])
        said = self._tree.generate(
            **{key: value.to(self._vlm.device) for key, value in batch.items()},
            max_new_tokens=CANARY_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
        if not all(bool(logits.isfinite().all()) for logits in said.logits):
            raise AdapterInvalid("adapter failed its canary question: its logits are not finite")

    @torch.inference_mode()
    def check_prefixes(self) -> None:
        """Asks the base model with kept prefixes and without.

        Raises:
            ValueError: it does not say the same.
        """
        if self._prefixes is None:
            return
        task, style = next(iter(TASKS.values())), self._vlm.defaults.prompt_style
        frames = [np.full((84, 84, 3), grey, np.uint8) for grey in (64, 192)]
        self._select(None)
        for count in (1, 2, 2):  # the last one certainly from what was kept
            batch = self._vlm.encoder([task.prompt({}, style)] * count, frames[:count])
            batch = {key: value.to(self._vlm.device) for key, value in batch.items()}
            past = self._prefixes.past(None, batch)
            plain, kept = (
                self._tree.generate(
                    **batch,
                    past_key_values=begun,
                    max_new_tokens=1,
                    return_dict_in_generate=True,
                    output_logits=True,
                ).logits[0].float()
                for begun in (None, past)
            )  # fmt: skip
            if not (plain - kept).abs().max() <= PREFIX_ERROR * plain.std():
                raise ValueError("prefix_cache: this model answers otherwise with it; start the server without")

    @torch.inference_mode()
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
            adapter: key of a loaded adapter; None: the base model.
            constrained: only replies that ``task.parse`` accepts can be written. They always end, so that
                ``max_new_tokens`` does not bound them.
            should_stop: asked after each token; True ends the call with replies cut short.

        Raises:
            KeyError: no adapter of this key is loaded.
        """
        started = time.perf_counter()
        self._select(None if adapter is None else self._slots[adapter].name)
        style = self._vlm.defaults.prompt_style
        prompts = [task.prompt(each.state, style) for each in observations]
        batch = self._vlm.encoder(prompts, [each.frame for each in observations])
        batch = {key: value.to(self._vlm.device) for key, value in batch.items()}
        encoded = time.perf_counter()

        constraint = self._constraint(task) if constrained else None
        processor = TemplateProcessor(constraint, len(observations)) if constraint else None
        repeats = self._prefixes is not None and set(prompts) == {task.prompt({}, style)}
        tokens = self._tree.generate(
            **batch,
            past_key_values=self._prefixes.past(adapter, batch) if repeats else None,
            max_new_tokens=constraint.max_tokens if constraint else max_new_tokens,
            logits_processor=LogitsProcessorList([processor] if processor else []),
            stopping_criteria=StoppingCriteriaList([_Stop(processor, should_stop)]),
        )
        rows = tokens[:, batch["input_ids"].shape[1] :].tolist()
        replies = [self._reply(row) for row in rows]
        return replies, Timings((encoded - started) * 1e3, (time.perf_counter() - encoded) * 1e3)

    def _select(self, name: str | None) -> None:
        if name != self._selected:
            lora.select(self._tree, name)
            self._selected = name

    def _constraint(self, task: Task) -> Constraint:
        fields = tuple(task.template())
        if fields not in self._constraints:
            self._vocabulary = self._vocabulary or Vocabulary(self._vlm.tokenizer)
            self._constraints[fields] = Constraint(self._vocabulary, fields)
        return self._constraints[fields]

    def _reply(self, tokens: list[int]) -> Reply:
        generation = self._vlm.model.generation_config
        ends = (*generation.eos_token_id, generation.pad_token_id)
        length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        text = self._vlm.tokenizer.decode(tokens[:length], skip_special_tokens=True)
        return Reply(text, length)


class _Stop(StoppingCriteria):
    """Ends a call when nobody waits for it any more, or when every reply fills its template."""

    def __init__(self, processor: TemplateProcessor | None, should_stop: Callable[[], bool] | None):
        self._processor, self._should_stop = processor, should_stop

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        stop = self._should_stop is not None and self._should_stop()
        stop = stop or (self._processor is not None and self._processor.complete(input_ids[:, -1].tolist()))
        return torch.full((len(input_ids),), bool(stop), device=input_ids.device)
