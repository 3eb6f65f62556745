"""The shape of the tiny Qwen2.5-VL, its tokenizer and its processor.

Three choices let a model of two million parameters read numbers from a picture: ``spatial_merge_size`` 6,
so that one 84x84 frame is one image token and the merger, the only part whose weights are tied to absolute
places, sees all of it; an initial scale of 1/sqrt(fan-in); and a rotary base of 100, because 1e6 makes
neighbouring places alike.
"""

from __future__ import annotations

import math

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SIZE, PATCH, MERGE = 84, 14, 6  # pixels, pixels, patches a side of one image token
VOCABULARY = 512  # at most: every known word is one token before that
# The control tokens of the released checkpoints, in their order.
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{%- for m in messages -%}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.content is string -%}{{ m.content }}"
    "{%- else -%}{%- for p in m.content -%}"
    "{%- if p.type == 'image' -%}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif p.type == 'text' -%}{{ p.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
# Digits are split one by one, as Qwen2 does: "0.50" is always 0 . 5 0.
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"


def tokenizer(corpus: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level BPE over ``corpus``; all 256 bytes are in the alphabet, so that no text is unknown."""
    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_SPLIT), "isolated"), byte_level])
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = vocabulary - len(SPECIAL)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        additional_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.image_token, fast.video_token = "<|image_pad|>", "<|video_pad|>"
    fast.chat_template = CHAT_TEMPLATE
    return fast


def image_processor() -> Qwen2VLImageProcessorPil:
    """Pictures of 64 to 112 pixels become 84x84, one image token; larger ones up to four."""
    return Qwen2VLImageProcessorPil(
        size={"shortest_edge": SIZE * SIZE, "longest_edge": 4 * SIZE * SIZE},  # areas, despite the names
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=2,
    )


def config(tokens: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    hidden, layers, heads = 128, 2, 4
    half = hidden // heads // 2
    time = half // 4  # the sections for time, height and width add up to half a head
    height = (half - time) // 2
    ident = tokens.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=len(tokens),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=4096,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 100.0,
                "mrope_section": [time, height, half - time - height],
            },
            bos_token_id=None,
            eos_token_id=ident("<|im_end|>"),
            pad_token_id=ident("<|endoftext|>"),
        ),
        vision_config=dict(
            depth=2,
            hidden_size=32,
            intermediate_size=96,
            num_heads=2,
            out_hidden_size=hidden,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            window_size=PATCH * MERGE,
            fullatt_block_indexes=[0, 1],
        ),
        image_token_id=ident("<|image_pad|>"),
        video_token_id=ident("<|video_pad|>"),
        vision_start_token_id=ident("<|vision_start|>"),
        vision_end_token_id=ident("<|vision_end|>"),
        tie_word_embeddings=True,
    )


@torch.no_grad()
def build(tokens: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A fresh float32 model. Linear and patch weights start at 1/sqrt(fan-in), those that write into a
    residual stream of L blocks a further 1/sqrt(2L) smaller, embeddings at 1/sqrt(width).
    """
    shape = config(tokens)
    shape._attn_implementation = "sdpa"
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(shape)
    text, vision = shape.text_config, shape.vision_config
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            scale = 1 / math.sqrt(module.in_features)
            if name.endswith(("o_proj", "down_proj", "attn.proj")):
                scale /= math.sqrt(2 * (vision.depth if "visual" in name else text.num_hidden_layers))
            module.weight.normal_(0, scale)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, torch.nn.Conv3d):
            module.weight.normal_(0, 1 / math.sqrt(module.weight[0].numel()))
    model.model.language_model.embed_tokens.weight.normal_(0, 1 / math.sqrt(text.hidden_size))
    model.generation_config.pad_token_id = text.pad_token_id
    model.generation_config.eos_token_id = [text.eos_token_id, text.pad_token_id]
    return model
