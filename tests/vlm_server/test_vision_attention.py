from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention

from tests.vlm_server import checkpoints
from vlm_server import lora
from vlm_server.vision_attention import Qwen2Batched, Qwen25Batched

STOCK = {Qwen25Batched: Qwen2_5_VLVisionAttention, Qwen2Batched: VisionAttention}


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen2_vl"])
@pytest.mark.parametrize("sizes", [(84, 84, 84), (56,), (84, 56, 112)])
def test_equals_the_stock_attention(model_type, sizes):
    vlm = checkpoints.load(model_type)
    stock = lora.twin(vlm.model)
    swapped = 0
    for module in stock.modules():
        if type(module) in STOCK:
            module.__class__ = STOCK[type(module)]
            swapped += 1
    assert swapped == 2  # every block of the tower
    frames = [checkpoints.frames(1, size, seed=i)[0] for i, size in enumerate(sizes)]
    batch = vlm.encoder(["Where? "] * len(frames), frames)
    with torch.no_grad():
        torch.testing.assert_close(vlm.model(**batch).logits, stock(**batch).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("model_type", checkpoints.TYPES)
def test_sdpa_equals_eager(model_type):
    vlm = checkpoints.load(model_type)
    eager = lora.twin(vlm.model)
    for module in eager.modules():
        if type(module) in STOCK:
            module.__class__ = STOCK[type(module)]
    eager.set_attn_implementation("eager")
    batch = vlm.encoder(["Where? ", "Where is it, then? "], checkpoints.frames(2))
    kept = batch["attention_mask"].bool()
    with torch.no_grad():
        ours, theirs = vlm.model(**batch).logits[kept], eager(**batch).logits[kept]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
