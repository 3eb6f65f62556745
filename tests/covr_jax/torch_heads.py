"""Heads of the auxiliary losses in PyTorch, on the learner's own parameters, and gradients beside the learner's."""

from __future__ import annotations

import math

import jax
import numpy as np
import torch
from flax.traverse_util import flatten_dict

from tests.covr_jax import tiny
from tests.covr_jax.test_torch_parity import moments, relative
from tests.covr_jax.torch_twin import TorchTwin

Tensors = dict[str, torch.Tensor]


def tensors(tree) -> Tensors:
    """Leaves by their path, as ``linear_0.kernel``."""
    flat = flatten_dict(tree, sep=".")
    return {name: torch.tensor(np.array(leaf), requires_grad=True) for name, leaf in flat.items()}


def within(p: Tensors, name: str) -> Tensors:
    """What lies under ``name``."""
    return {key.removeprefix(f"{name}."): leaf for key, leaf in p.items() if key.startswith(f"{name}.")}


def linear(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ p[f"{name}.kernel"] + p.get(f"{name}.bias", torch.tensor(0.0))


def norm(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.layer_norm(x, x.shape[-1:], p[f"{name}.scale"], p[f"{name}.bias"])


def mlp(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    return linear(p, "linear_1", torch.relu(linear(p, "linear_0", x)))


def model_head(p: Tensors, z: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    return linear(p, "linear_1", torch.relu(norm(p, "norm", linear(p, "linear_0", torch.cat([z, a], -1)))))


class Twin:
    """The encoder, its EMA copy and the named heads of a learner's state."""

    def __init__(self, learner, state, heads) -> None:
        self.agent = TorchTwin(learner.config, tiny.ACTION_DIM, tiny.STACK)
        self.agent.load(state.params, state.target, {})
        self.heads = {name: tensors(state.params[name]) for name in heads}
        self._projection = tensors(state.target.get("projection", {}))

    def features(self, view) -> torch.Tensor:
        """Of the convolutions, flattened as the learner's: rows, columns, channels."""
        maps = self.agent.conv(self.agent.pixels(view)).reshape(-1, *self.agent.map_shape)
        return maps.permute(0, 2, 3, 1).flatten(1)

    def encode(self, view) -> torch.Tensor:
        return self.agent.critic_head(self.agent.conv(self.agent.pixels(view)))

    @torch.no_grad()
    def target(self, view) -> torch.Tensor:
        """g'(f'(o))."""
        copies = self.agent.target
        return mlp(self._projection, copies["critic_head"](copies["conv"](self.agent.pixels(view))))

    def assert_gradients(self, opt, parts, largest: float = float("inf"), tolerance: float = 1e-4) -> None:
        """Adam's first moments after one step are a tenth of PyTorch's gradients.

        ``parts``: optimiser -> what it moves, whose gradient is at most ``largest`` long.
        """
        for optimiser, moved in parts.items():
            mean = jax.tree.map(lambda m: m / 0.1, moments(opt[optimiser]))
            assert set(mean) == set(moved)
            pairs = []
            for layer, node in self.agent.layers({k: v for k, v in mean.items() if k not in self.heads}, self.agent):
                wanted = self.agent.to_torch(layer, node)
                pairs += [(p.grad, want) for want, p in zip(wanted, (layer.weight, layer.bias), strict=True)]
            for name in set(moved) & set(self.heads):
                flat = flatten_dict(mean[name], sep=".")
                pairs += [(leaf.grad, np.asarray(flat[key])) for key, leaf in self.heads[name].items()]
            length = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad, _ in pairs))
            share = min(1.0, largest / length)
            assert length > 0
            for grad, want in pairs:
                assert relative(share * grad, want) < tolerance, (optimiser, want.shape)
