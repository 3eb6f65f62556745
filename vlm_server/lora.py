"""LoRA adapters on module trees: twins of a base model, adapters in and out of them, and their two files.

The files are peft's, so that an adapter also loads with ``peft.PeftModel.from_pretrained``.
"""

from __future__ import annotations

import copy
import logging
import math
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from peft.functional import (
    cast_adapter_dtype,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import GradientCheckpointingLayer

from vlm_server.adapter_errors import AdapterInvalid

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_log = logging.getLogger(__name__)
_PREFIX = "base_model.model."  # of every key in peft's files


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """A module tree of its own over the same parameter storage.

    peft keeps the active adapter, gradients and train mode in the modules, so that two users of one tree
    disturb each other without an error; each user takes a twin.
    """
    return copy.deepcopy(model, memo={id(p): p for p in model.parameters()})


def layers(tree: torch.nn.Module) -> list[LoraLayer]:
    """The adapted layers of ``tree``."""
    return [module for module in tree.modules() if isinstance(module, LoraLayer)]


def add_fresh(tree: torch.nn.Module, config: LoraConfig, name: str, seed: int) -> None:
    """Adds an untrained adapter: A uniform with variance 1/(3 fan-in), B zero, both float32.

    Its numbers come from a generator of its own: torch's global one is shared with every other thread.
    """
    others = tree.__dict__.pop(
        "peft_config", {}
    )  # peft warns of a second adapter, which is what is meant here
    try:
        inject_adapter_in_model(config, tree, name)
    finally:
        tree.peft_config = others | tree.__dict__.get("peft_config", {})
    cast_adapter_dtype(tree, name)
    for layer in layers(tree):
        layer.train(tree.training)  # peft's new modules are in training mode, where dropout is live
    generator = torch.Generator().manual_seed(seed)
    for layer in layers(tree):
        if name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            bound = 1 / math.sqrt(a.shape[1])
            with torch.no_grad():
                a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
                b.zero_()


@dataclass(frozen=True)
class Saved:
    """An adapter's two files, read: the tensors under their names in the file, all finite."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    folder: Path  # with the files


def read(folder: Path) -> Saved:
    """The adapter of ``folder``.

    Raises:
        AdapterInvalid: unreadable files, or values that are not finite.
    """
    try:
        config = LoraConfig.from_pretrained(folder)
        state = load_file(folder / WEIGHTS)
    except Exception as error:  # peft and safetensors raise many kinds, with paths in their words
        _log.warning("the adapter in %s is unreadable: %s", folder, error)
        raise AdapterInvalid("adapter files are unreadable; the server's log has the details") from None
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise AdapterInvalid(f"adapter tensor {key} is not finite")
    return Saved(config, state, folder)


def add_saved(tree: torch.nn.Module, saved: Saved, name: str) -> dict[str, torch.Tensor]:
    """Adds an adapter; its tensors in the tree, for ``overwrite``.

    Raises:
        AdapterInvalid: tensors that do not fit the model.
    """
    try:
        add_fresh(tree, saved.config, name, seed=0)
        tensors = {_PREFIX + key: value for key, value in get_peft_model_state_dict(tree, adapter_name=name).items()}
        overwrite(tensors, saved)
    except BaseException:  # out of memory, too
        remove(tree, name)
        raise
    return tensors


@torch.no_grad()
def overwrite(tensors: dict[str, torch.Tensor], saved: Saved) -> None:
    """Writes an adapter over one of the same configuration, which takes no more than the copying.

    Args:
        tensors: of the other one, as ``add_saved`` gave them.

    Raises:
        AdapterInvalid: tensors that do not fit. Nothing is written.
    """
    if {key: value.shape for key, value in tensors.items()} != {k: v.shape for k, v in saved.tensors.items()}:
        raise AdapterInvalid("adapter tensors do not fit this model's layers")
    for key, value in tensors.items():
        value.copy_(saved.tensors[key])


def remove(tree: torch.nn.Module, name: str) -> None:
    """Removes an adapter and frees its memory."""
    for layer in layers(tree):
        layer.set_adapter([other for other in layer.active_adapters if other != name], inference_mode=True)
        layer.delete_adapter(name)
    tree.peft_config.pop(name, None)


def select(tree: torch.nn.Module, name: str | None) -> None:
    """Makes the frozen adapter ``name`` answer; None: the base model alone."""
    for layer in layers(tree):
        if name is None:
            layer.enable_adapters(False)
        else:
            layer.enable_adapters(True)
            layer.set_adapter(name, inference_mode=True)


def train_only(tree: torch.nn.Module, name: str) -> None:
    """Makes the adapter ``name`` active and trainable, and nothing else."""
    tree.requires_grad_(False)
    for layer in layers(tree):
        layer.set_adapter(name)


def use_dropout(tree: torch.nn.Module, name: str, share: float, seed: int) -> torch.Generator:
    """Sets the adapter's dropout, with masks from a generator of the job's own, which is returned."""
    device = next(tree.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for layer in layers(tree):
        layer.lora_dropout[name] = SeededDropout(share, generator) if share else torch.nn.Identity()
    return generator


def switch_dropout(tree: torch.nn.Module, on: bool) -> None:
    """Adapters' dropout on or off; the base model's own modules stay as they are."""
    for layer in layers(tree):
        layer.lora_dropout.train(on)


def checkpoint_layers(tree: torch.nn.Module, generator: torch.Generator) -> None:
    """Keeps what enters each transformer layer alone; the rest is computed again on the way back.

    Args:
        generator: of the adapter's dropout, whose masks have to be the same both times.
    """
    kwargs = {"use_reentrant": False, "context_fn": lambda: _same_masks(generator)}
    tree.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    for module in tree.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # without its children, whose own dropout stays off


def _same_masks(generator: torch.Generator) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Around a layer's first computation and around its second, which draws what the first one drew."""
    began = generator.get_state()

    @contextmanager
    def again():
        now = generator.get_state()
        generator.set_state(began)
        try:
            yield
        finally:
            generator.set_state(now)

    return nullcontext(), again()


class SeededDropout(torch.nn.Module):
    """Dropout from its own generator: torch's global one is shared with every other thread."""

    def __init__(self, share: float, generator: torch.Generator):
        super().__init__()
        self._share, self._generator = share, generator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        keep = torch.rand(x.shape, generator=self._generator, device=x.device) >= self._share
        return x * keep / (1 - self._share)


def state(tree: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names of its file, copied to the CPU."""
    tensors = get_peft_model_state_dict(tree, adapter_name=name)
    return {_PREFIX + key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}


def save(folder: Path, config: LoraConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Writes an adapter's two files; equal tensors give equal bytes. Dropout is a setting of training: 0 is written."""
    save_file(dict(sorted(tensors.items())), folder / WEIGHTS)
    config = copy.copy(config)
    config.inference_mode, config.lora_dropout = True, 0.0
    config.save_pretrained(folder)
