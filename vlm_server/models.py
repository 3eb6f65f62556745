"""Vision-language models from a folder, a Hugging Face id, or the tiny one in this package."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from vlm_server import defaults
from vlm_server.architectures import ARCHITECTURES, Architecture
from vlm_server.defaults import ServingDefaults
from vlm_server.encoding import Encoder
from vlm_server.vision_attention import batch_vision_attention

TINY = Path(__file__).parent / "tiny"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Vlm:
    """A loaded base model. Its module tree is never adapted or changed: serving and tuning each work on a
    twin that shares its storage (``lora.twin``)."""

    model: PreTrainedModel = field(repr=False)  # frozen, in eval mode
    processor: ProcessorMixin = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    encoder: Encoder = field(repr=False)
    architecture: Architecture = field(repr=False)
    name: str  # "tiny", the hub id, or the last part of the folder's path
    folder: Path  # with its files
    digest: str  # sha256 over the safetensors files, hex
    model_type: str
    parameters: int
    defaults: ServingDefaults

    def tuned_with(self, settings: dict[str, Any]) -> Vlm:
        """The same model with other defaults of ``TuningConfig``.

        Raises:
            ValueError: a setting out of its limits.
        """
        tuning = dataclasses.replace(self.defaults.tuning, **settings)
        return dataclasses.replace(self, defaults=dataclasses.replace(self.defaults, tuning=tuning))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> str:
        """The weights' type, by its name in DTYPES."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.model.dtype)


def load(name_or_path: str, device: str = "auto", dtype: str = "auto") -> Vlm:
    """Loads a base model for serving. Names come from the command line, never from a client.

    Args:
        name_or_path: "tiny", a folder in the layout of ``save_pretrained``, or a Hugging Face id.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        dtype: "auto" (bfloat16 on a GPU, float32 on a CPU), "float32", "bfloat16" or "float16".

    Raises:
        ValueError: missing folder, unsupported architecture, no safetensors, tensors that are missing or of
            another shape, a hub id that cannot be fetched, or an unknown device or dtype; one line that says what
            is allowed.
    """
    place = _device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise ValueError(f"dtype must be one of auto, {', '.join(DTYPES)}, not {dtype!r}")
    kind = DTYPES[dtype] if dtype != "auto" else torch.float32 if place.type == "cpu" else torch.bfloat16
    folder, name = _folder(name_or_path)
    model_type = _model_type(folder)
    architecture = ARCHITECTURES[model_type]
    digest = _digest(folder)
    model = _weights(folder, architecture, kind)
    model = model.to(place).eval().requires_grad_(False)
    batch_vision_attention(model)
    processor = load_processor(folder, architecture)
    tokenizer = processor.tokenizer
    model.generation_config = _greedy(model.generation_config, tokenizer)
    serving = defaults.read(folder)
    encoder = Encoder(processor, model.generation_config.pad_token_id, serving.text_first)
    count = sum(p.numel() for p in model.parameters())
    return Vlm(model, processor, tokenizer, encoder, architecture, name, folder, digest, model_type, count, serving)


def _weights(folder: Path, architecture: Architecture, dtype: torch.dtype) -> PreTrainedModel:
    # Without ``ignore_mismatched_sizes`` transformers raises many lines itself; with it, the report tells.
    model, found = architecture.model.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation="sdpa",
        use_safetensors=True,
        local_files_only=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    for kind, names in (
        ("has no tensor", found["missing_keys"]),
        ("has another shape of tensor", {name for name, *_ in found["mismatched_keys"]}),
    ):
        if names:
            raise ValueError(f"{folder} {kind} {min(names)} (and {len(names) - 1} more such)")
    return model


def load_processor(folder: Path, architecture: Architecture) -> ProcessorMixin:
    """Tokenizer, chat template and PIL image processor of a checkpoint, whatever else its files name."""
    kind = architecture.processor
    pictures = architecture.image_processor.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    fields, _ = kind.get_processor_dict(folder, local_files_only=True)
    processor = kind.from_args_and_dict([pictures, tokenizer], fields)
    processor.chat_template = processor.chat_template or tokenizer.chat_template
    if processor.chat_template is None:
        raise ValueError(f"{folder} has no chat template (chat_template.jinja)")
    return processor


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<n>, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} does not exist: torch sees {torch.cuda.device_count()} GPUs")
    return device


def _folder(name_or_path: str) -> tuple[Path, str]:
    """Local folder of a model, and its name for people."""
    if name_or_path == "tiny":
        if not (TINY / "config.json").is_file():
            raise ValueError(f"the tiny model is missing from {TINY}: reinstall the package")
        return TINY, "tiny"
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    # A hub id is "name" or "owner/name"; whatever looks more like a path was meant as one.
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") != 1:
        raise ValueError(
            f"no folder {name_or_path!r}; give 'tiny', an existing folder or a hub id (owner/name)"
        )
    try:
        patterns = [
            "*.safetensors",
            "*.safetensors.index.json",
            "*.json",
            "*.jinja",
            "*.txt",
            "tokenizer.model",
        ]
        return Path(snapshot_download(name_or_path, allow_patterns=patterns)), name_or_path
    except LocalEntryNotFoundError:
        problem = "is not in the local cache and the hub cannot be reached"
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        problem = f"cannot be fetched ({type(error).__name__})"
    raise ValueError(
        f"{name_or_path!r} is no folder, and as a hub id it {problem}; "
        f"download it once with `hf download {name_or_path}` or give a folder"
    )


def _model_type(folder: Path) -> str:
    try:
        model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    except FileNotFoundError:
        raise ValueError(f"{folder} has no config.json: it is no model folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError):
        raise ValueError(f"{folder / 'config.json'} is not a JSON object") from None
    if model_type not in ARCHITECTURES:
        raise ValueError(f"model_type {model_type!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    return model_type


def _digest(folder: Path) -> str:
    """sha256 over the bytes of the weight files, in the order of their names."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    names = {whole.name}
    if index.is_file() and not whole.is_file():  # transformers' choice, too
        try:
            names = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            names = set()
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{index} has no weight_map of file names")
    total = hashlib.sha256()
    for name in sorted(names):
        if os.path.basename(name) != name or not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; only safetensors weights are loaded")
        with (folder / name).open("rb") as file:
            while block := file.read(1 << 22):
                total.update(block)
    return total.hexdigest()


def _greedy(released: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Plain greedy decoding; released settings (sampling, repetition penalty) would bend the digits."""
    ends = released.eos_token_id
    ends = list(ends) if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    ends = sorted({*ends, tokenizer.eos_token_id})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(do_sample=False, eos_token_id=ends, pad_token_id=pad)
