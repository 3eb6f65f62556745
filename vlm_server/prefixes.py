"""Keys and values of the text before a picture, kept: the same words are not read again for every frame.

Only prompts without state share their text from question to question, and only a model that reads the text first begins
with it. Everything else is answered as without this.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

import torch
from transformers import DynamicCache, PreTrainedModel

KEPT = 32  # prefixes in memory: one a task and adapter that is asked
SHORTEST = 16  # tokens; where the picture comes first, the chat template's opening alone is before it


class Prefixes:
    """The prefixes of one module tree; like its engine not safe to use from two threads at once.

    Args:
        image_token: id of a picture's place holders.
    """

    def __init__(self, tree: PreTrainedModel, image_token: int):
        self._tree, self._image_token = tree, image_token
        self._kept: OrderedDict[tuple[str | None, tuple[int, ...]], DynamicCache] = OrderedDict()
        self.reused = 0  # questions that began from a prefix which was there

    def past(self, adapter: str | None, batch: dict[str, torch.Tensor]) -> DynamicCache | None:
        """What ``generate`` goes on from, its own copy; None: the batch has no prefix.

        Args:
            adapter: key of the adapter that is selected, whose weights stay until ``drop``.
            batch: of one prompt, as ``Encoder`` makes it.
        """
        ids = batch["input_ids"]
        before = (ids[0] == self._image_token).int().argmax()  # 0 without a picture, too
        if before < SHORTEST or not bool(batch["attention_mask"].all()):
            return None
        prefix = ids[:1, :before]
        if not bool((ids[:, :before] == prefix).all()):
            return None
        key = (adapter, tuple(prefix[0].tolist()))
        if key in self._kept:
            self.reused += len(ids)
        else:
            self._kept[key] = self._read(prefix, batch)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        past = copy.deepcopy(self._kept[key])
        past.batch_repeat_interleave(len(ids))
        return past

    def drop(self, adapter: str) -> None:
        """Forgets the prefixes of an adapter: others may come under its key."""
        for key in [key for key in self._kept if key[0] == adapter]:
            del self._kept[key]

    def _read(self, prefix: torch.Tensor, batch: dict[str, torch.Tensor]) -> DynamicCache:
        kinds = {"mm_token_type_ids": torch.zeros_like(prefix)} if "mm_token_type_ids" in batch else {}
        past = DynamicCache(config=self._tree.config.get_text_config())
        mask = torch.ones_like(prefix)
        self._tree(input_ids=prefix, attention_mask=mask, past_key_values=past, logits_to_keep=1, **kinds)
        return past
