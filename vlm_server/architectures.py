"""The model families that this server knows, one row each.

A row holds the classes that load a checkpoint and the names of its linear layers, for LoRA. Pictures go
through the PIL image processors, because they need no torchvision and give the same pixels on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.processing_utils import ProcessorMixin


class Qwen25VLPictureProcessor(Qwen2_5_VLProcessor):
    """Qwen2_5_VLProcessor for pictures only: its video half needs torchvision.

    transformers reads a processor's parts from the names of __init__'s parameters, so the missing
    ``video_processor`` is all that it takes.
    """

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        _init_qwen(self, image_processor, tokenizer, chat_template)


class Qwen2VLPictureProcessor(Qwen2VLProcessor):
    """Qwen2VLProcessor for pictures only, as above."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
        _init_qwen(self, image_processor, tokenizer, chat_template)


def _init_qwen(processor: ProcessorMixin, image_processor, tokenizer, chat_template) -> None:
    processor.image_token, processor.video_token = "<|image_pad|>", "<|video_pad|>"
    processor.image_token_id = tokenizer.convert_tokens_to_ids(processor.image_token)
    processor.video_token_id = tokenizer.convert_tokens_to_ids(processor.video_token)
    ProcessorMixin.__init__(processor, image_processor, tokenizer, chat_template=chat_template)


@dataclass(frozen=True)
class Architecture:
    """How one family is loaded and tuned; the regular expressions match full module names."""

    model: type
    processor: type
    image_processor: type
    vision_linears: str
    language_linears: str = (
        r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    )

    def targets(self, name: str) -> str:
        """Regular expression of the layers that LoRA adapts: "all" or "language".

        Embeddings and lm_head, whose weights may be tied, never are.
        """
        return f"{self.language_linears}|{self.vision_linears}" if name == "all" else self.language_linears


ARCHITECTURES: dict[str, Architecture] = {
    "qwen2_5_vl": Architecture(
        Qwen2_5_VLForConditionalGeneration,
        Qwen25VLPictureProcessor,
        Qwen2VLImageProcessorPil,
        r"model\.visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)|merger\.mlp\.[02])",
    ),
    "qwen2_vl": Architecture(
        Qwen2VLForConditionalGeneration,
        Qwen2VLPictureProcessor,
        Qwen2VLImageProcessorPil,
        r"model\.visual\.(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|merger\.mlp\.[02])",
    ),
    "llava": Architecture(
        LlavaForConditionalGeneration,
        LlavaProcessor,
        CLIPImageProcessorPil,
        r"model\.vision_tower\.(vision_model\.)?encoder\.layers\.\d+\."
        r"(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])"
        r"|model\.multi_modal_projector\.linear_[12]",
    ),
}
