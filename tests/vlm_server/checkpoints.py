"""Small random checkpoints of every supported architecture, in the layout of released ones."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlm_server import models as vlm_models
from vlm_server import tiny_model
from vlm_server.architectures import ARCHITECTURES

TYPES = tuple(ARCHITECTURES)

CORPUS = [
    "Look at the image. Answer with numbers: slide shoulder wrist steer throttle",
    "slide: -",
    "shoulder: wrist: -",
    "throttle: \nsteer: -",
    "USER: ASSISTANT: \n",
] * 20
_LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m.role.upper() + ': ' }}"
    "{% for p in m.content %}{% if p.type == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def build(folder: Path, model_type: str, seed: int = 0) -> Path:
    """Writes a random model of ``model_type`` with its processor to ``folder``."""
    torch.manual_seed(seed)
    model, processor = {"qwen2_5_vl": _qwen25, "qwen2_vl": _qwen2, "llava": _llava}[model_type]()
    with torch.no_grad():  # transformers' flat 0.02 leaves a narrow model deaf to its picture
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
        model.lm_head.weight.mul_(2)  # or no tuned adapter could be sure of an answer
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@functools.cache
def load(model_type: str) -> vlm_models.Vlm:
    """A loaded checkpoint of ``model_type``, one per test process; loaded models never change."""
    with tempfile.TemporaryDirectory() as folder:
        return vlm_models.load(str(build(Path(folder) / model_type, model_type)), device="cpu")


def frames(count: int, size: int = 84, seed: int = 0) -> list[np.ndarray]:
    """Pictures of noise, uint8 [size,size,3]."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def _qwen_text(tokens, hidden: int = 48) -> dict:
    ident = tokens.convert_tokens_to_ids
    return dict(
        vocab_size=len(tokens) + 3,  # released lm_heads are wider than their tokenizers
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        bos_token_id=None,
        eos_token_id=ident("<|im_end|>"),
        pad_token_id=ident("<|endoftext|>"),
    )


def _qwen_ids(tokens) -> dict:
    ident = tokens.convert_tokens_to_ids
    return dict(
        image_token_id=ident("<|image_pad|>"),
        video_token_id=ident("<|video_pad|>"),
        vision_start_token_id=ident("<|vision_start|>"),
        vision_end_token_id=ident("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def _qwen(model_type: str, tokens, model):
    text = model.config.text_config
    model.generation_config.pad_token_id = text.pad_token_id
    model.generation_config.eos_token_id = [text.eos_token_id, text.pad_token_id]
    # Settings of released checkpoints, which greedy serving must not follow.
    model.generation_config.update(do_sample=True, temperature=0.1, repetition_penalty=1.05)
    pictures = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16})
    processor = ARCHITECTURES[model_type].processor(pictures, tokens, chat_template=tiny_model.CHAT_TEMPLATE)
    return model, processor


def _qwen25():
    tokens = tiny_model.tokenizer(CORPUS, 340)
    vision = dict(
        depth=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=2,
        out_hidden_size=48,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
        window_size=56,
        fullatt_block_indexes=[1],
    )
    config = Qwen2_5_VLConfig(text_config=_qwen_text(tokens), vision_config=vision, **_qwen_ids(tokens))
    return _qwen("qwen2_5_vl", tokens, Qwen2_5_VLForConditionalGeneration(config))


def _qwen2():
    tokens = tiny_model.tokenizer(CORPUS, 340)
    vision = dict(
        depth=2,
        embed_dim=32,
        hidden_size=48,
        mlp_ratio=2,
        num_heads=2,
        patch_size=14,
        spatial_merge_size=2,
        temporal_patch_size=2,
    )
    config = Qwen2VLConfig(text_config=_qwen_text(tokens), vision_config=vision, **_qwen_ids(tokens))
    return _qwen("qwen2_vl", tokens, Qwen2VLForConditionalGeneration(config))


def _llava():
    tokens = _llama_tokenizer()
    text = dict(
        model_type="llama",
        vocab_size=len(tokens) + 3,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    vision = dict(
        model_type="clip_vision_model",
        hidden_size=32,
        intermediate_size=48,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id)
    size = {"height": 56, "width": 56}
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size)
    processor = LlavaProcessor(
        pictures,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_LLAVA_TEMPLATE,
        num_additional_image_tokens=1,
    )
    return model, processor


def _with_parts(model: models.BPE, donor: Tokenizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.decoder = donor.normalizer, donor.decoder
    return tokenizer


def _llama_tokenizer() -> PreTrainedTokenizerFast:
    """BPE with the word sign and byte fallback of SentencePiece, as Llama has."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=first, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([word for line in CORPUS for word in line.split(" ")], trainer)
    # The trainer makes its first tokens special, but those for bytes are plain ones.
    learnt = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    bpe = _with_parts(models.BPE(learnt["vocab"], merges, unk_token="<unk>", byte_fallback=True), bpe)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
