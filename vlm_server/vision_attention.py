"""Attention of the Qwen vision towers with one call for all pictures or windows of the same size.

transformers loops over them in Python (but for flash attention), which dominates small models and large
batches. The maths is the same; a test compares the two.
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention


class _Batched:
    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, **kwargs) -> torch.Tensor:
        """[N,D] patches -> [N,D]; patches attend within the spans that ``cu_seqlens`` [S+1] bounds."""
        patches, spans = hidden_states.shape[0], cu_seqlens.shape[0] - 1
        if spans < 2 or patches % spans or bool((cu_seqlens.diff() != patches // spans).any()):
            return super().forward(
                hidden_states, cu_seqlens, position_embeddings=position_embeddings, **kwargs
            )
        q, k, v = self.qkv(hidden_states).reshape(patches, 3, self.num_heads, -1).unbind(1)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        q, k, v = (x.reshape(spans, patches // spans, self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(out.transpose(1, 2).reshape(patches, -1))


class Qwen25Batched(_Batched, Qwen2_5_VLVisionAttention):
    pass


class Qwen2Batched(_Batched, VisionAttention):
    pass


_BATCHED = {Qwen2_5_VLVisionAttention: Qwen25Batched, VisionAttention: Qwen2Batched}


def batch_vision_attention(model: torch.nn.Module) -> None:
    """Gives every Qwen vision attention of ``model`` the batched forward, in place."""
    for module in model.modules():
        if type(module) in _BATCHED:
            module.__class__ = _BATCHED[type(module)]
