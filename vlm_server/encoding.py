"""Questions and pictures to tensors."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

from vlm_server import picture_tensors

IGNORED = -100  # label of tokens that are no answer
MEMORY = 4096  # tokenised prompts that are kept


class Encoder:
    """Batches of (prompt, picture[, answer]) for one model, padded on the left.

    The model's own processor and chat template tokenise each pair of prompt text and picture size once; later
    calls only process the pixels. Safe to call from several threads.
    """

    def __init__(self, processor: ProcessorMixin, pad_id: int, text_first: bool):
        self._processor = processor
        self._pictures = picture_tensors.prepare(processor.image_processor)
        self._pad_id = pad_id
        self._text_first = text_first
        self._prompts: OrderedDict[tuple, dict[str, list[int]]] = OrderedDict()
        # A tokenizer changes its padding state inside a call: no two threads at a time.
        self._lock = threading.Lock()

    def __call__(
        self, prompts: Sequence[str], frames: Sequence[np.ndarray], answers: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """Model inputs, on the CPU.

        Args:
            prompts: [B] instructions.
            frames: [B] pictures, uint8 [H,W,3] RGB; sizes may differ.
            answers: [B] replies to learn. Without them each row ends where the model's reply begins.

        Returns:
            ``input_ids``, ``attention_mask`` int64 [B,T] and what the model asks for besides, e.g. pixel
            values. With answers also ``labels`` int64 [B,T]: -100 everywhere but on the answer and its end
            token, with which each row ends.
        """
        rows, labels = [], []
        with self._lock:
            for i, (prompt, frame) in enumerate(zip(prompts, frames, strict=True)):
                row = self._prompt(prompt, frame)
                if answers is not None:
                    answer = self._answer(answers[i])
                    labels.append([IGNORED] * len(row["input_ids"]) + answer)
                    row = {
                        key: ids + (answer if key == "input_ids" else [0] * len(answer))
                        for key, ids in row.items()
                    }
                rows.append(row)
        batch = {key: _left_pad([row[key] for row in rows], self._fill(key)) for key in rows[0]}
        batch["attention_mask"] = _left_pad([[1] * len(row["input_ids"]) for row in rows], 0)
        if answers is not None:
            batch["labels"] = _left_pad(labels, IGNORED)
        return batch | self._pictures(frames)

    def text(self, prompt: str) -> str:
        """A whole question as text, up to where the reply begins, with one place holder for its picture."""
        with self._lock:
            turn = self._turn(prompt, {"type": "image"})
            return self._processor.apply_chat_template([[turn]], tokenize=False, add_generation_prompt=True)[0]

    def _turn(self, text: str, picture: dict) -> dict:
        content = [{"type": "text", "text": text}, picture]
        return {"role": "user", "content": content if self._text_first else content[::-1]}

    def _fill(self, key: str) -> int:
        return self._pad_id if key == "input_ids" else 0

    def _prompt(self, text: str, frame: np.ndarray) -> dict[str, list[int]]:
        """Token ids of a question with the picture's place holders, and their kinds if the model asks."""
        key = (text, frame.shape)
        if key not in self._prompts:
            turn = self._turn(text, {"type": "image", "image": frame})
            encoded = self._processor.apply_chat_template(
                [[turn]], tokenize=True, return_dict=True, add_generation_prompt=True
            )
            kinds = ("input_ids", "mm_token_type_ids")
            self._prompts[key] = {kind: list(encoded[kind][0]) for kind in kinds if kind in encoded}
            if len(self._prompts) > MEMORY:
                self._prompts.popitem(last=False)
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def _answer(self, text: str) -> list[int]:
        tokenizer = self._processor.tokenizer
        return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def _left_pad(rows: list[list[int]], fill: int) -> torch.Tensor:
    length = max(len(row) for row in rows)
    return torch.tensor([[fill] * (length - len(row)) + row for row in rows])
