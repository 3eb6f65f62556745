"""A plain PyTorch agent that does what ``covr_jax.learner`` does, written from the methods' descriptions alone.

SAC from pixels (no augmentation of its own: views come in), RAD (the same on augmented views), DeepMDP, DrQ, SVEA,
MaDi, CURL, ResAct, PER and TACO's critic, with COVR's guidance term or ERPv's gate and temperature penalty. It shares
no code with the learner but its configuration, so that both check each other.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from covr_jax.config import LearnerConfig


def _orthogonal(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
        if isinstance(layer, nn.Conv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            middle = layer.weight.shape[2] // 2
            nn.init.orthogonal_(layer.weight.data[:, :, middle, middle], math.sqrt(2))


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


def _model_head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, outputs))


class Change(nn.Module):
    """ResAct's encoder: what one stack of convolutions sees now less what another one saw before."""

    def __init__(self, newer: nn.Sequential, older: nn.Sequential) -> None:
        super().__init__()
        self.newer, self.older = newer, older

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        now, before = pixels.chunk(2, dim=1)
        return self.newer(now) - self.older(before)


VIEW_WEIGHTS = {"drq": (1.0, 1.0), "svea": (0.5, 0.5), "madi": (0.5, 0.5)}
TANH = ("drq", "svea", "madi", "taco")


class TorchTwin:
    """``update(batch, views, noise)`` is one update; its arrays are NumPy's, laid out as the learner's."""

    def __init__(self, config: LearnerConfig, action_dim: int, frame_stack: int) -> None:
        self.config, self.action_dim, self.updates = config, action_dim, 0
        self.residual = config.base == "resact"
        layers, channels, size = [], 3 * frame_stack, config.image_size
        for filters, kernel, stride in zip(config.filters, config.kernels, config.strides, strict=True):
            layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
            channels, size = filters, (size - kernel) // stride + 1
        self.map_shape = (channels, size, size)
        width, features, hidden = channels * size * size, config.feature_dim, config.hidden_dim
        self.conv = nn.Sequential(*layers, nn.Flatten())
        if self.residual:
            self.conv = Change(self.conv, copy.deepcopy(self.conv))
        last = [nn.Tanh()] if config.base in TANH else []
        self.critic_head = nn.Sequential(nn.Linear(width, features), nn.LayerNorm(features), *last)
        token = int(1.25 * action_dim) + 1 if config.base == "taco" else action_dim
        self.critic = nn.ModuleDict({name: _mlp(features + token, hidden, 1) for name in ("q1", "q2")})
        self.tokens = nn.Sequential(nn.Linear(action_dim, 64), nn.Tanh(), nn.Linear(64, token))
        self.actor_head = copy.deepcopy(self.critic_head)
        self.actor = _mlp(features + (action_dim if self.residual else 0), hidden, 2 * action_dim)
        self.masker = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 1, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip
        self.contrast = nn.Parameter(torch.zeros(features, features))
        for module in (self.conv, self.critic_head, self.critic, self.actor_head, self.actor):
            _orthogonal(module)
        self.log_alpha = torch.tensor(math.log(config.initial_temperature), requires_grad=True)
        self.target = {name: copy.deepcopy(getattr(self, name)) for name in ("conv", "critic_head", "critic")}
        self.value_critic = copy.deepcopy(self.target)
        self.transition = _model_head(features + action_dim, config.model_hidden_dim, features)
        self.reward = _model_head(features + action_dim, config.model_hidden_dim, 1)

        encoder = [*self.conv.parameters(), *self.critic_head.parameters()]
        adam = torch.optim.Adam
        self.optimisers = {
            "critic": adam(
                [*encoder, *self.critic.parameters(), *self.masker.parameters(), *self.tokens.parameters()],
                config.critic_lr,
            ),
            "actor": adam([*self.actor_head.parameters(), *self.actor.parameters()], config.actor_lr),
            "alpha": adam([self.log_alpha], config.alpha_lr, betas=(config.alpha_beta1, 0.999)),
            "encoder": adam(encoder, config.encoder_lr),
            "decoder": adam(
                [*encoder, self.contrast]
                if config.base == "curl"
                else [*self.transition.parameters(), *self.reward.parameters()],
                config.decoder_lr,
                weight_decay=0.0 if config.base == "curl" else config.decoder_weight_decay,
            ),
        }

    # Acting: views uint8 [N,h,w,3S]; noise float32 [N,A], None for the mean action.

    @torch.no_grad()
    def act(self, view: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        mean, log_std = self.policy(self.conv(self.see(view)))
        return torch.tanh(mean if noise is None else mean + log_std.exp() * torch.tensor(noise)).numpy()

    @staticmethod
    def pixels(view: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.asarray(view)).permute(0, 3, 1, 2).contiguous().float() / 255.0

    def see(self, view: np.ndarray) -> torch.Tensor:
        """Pixels; under MaDi each frame times its soft mask."""
        pixels = self.pixels(view)
        if self.config.base != "madi":
            return pixels
        frames = pixels.reshape(-1, 3, *pixels.shape[2:])
        return (frames * self.masker(frames)).reshape(pixels.shape)

    def policy(self, features: torch.Tensor, previous=None) -> tuple[torch.Tensor, torch.Tensor]:
        latent = self.actor_head(features)
        if self.residual:
            previous = torch.tensor(np.asarray(previous))
            latent = torch.cat([latent, previous], dim=-1)
        mean, raw = self.actor(latent).chunk(2, dim=-1)
        low, high = self.config.log_std_min, self.config.log_std_max
        return previous + mean if self.residual else mean, low + 0.5 * (high - low) * (torch.tanh(raw) + 1)

    def sample(self, features: torch.Tensor, noise: np.ndarray, previous) -> tuple[torch.Tensor, ...]:
        mean, log_std = self.policy(features, previous)
        noise = torch.tensor(np.asarray(noise))
        action = torch.tanh(mean + log_std.exp() * noise)
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        log_prob = log_prob - torch.log(F.relu(1 - action**2) + 1e-6).sum(-1)
        return action, log_prob, torch.tanh(mean)

    def values(self, head: nn.Module, critic: nn.Module, features: torch.Tensor, action: torch.Tensor):
        token = self.tokens(action) if self.config.base == "taco" else action
        joint = torch.cat([head(features), token], dim=-1)
        return critic["q1"](joint)[:, 0], critic["q2"](joint)[:, 0]

    # Losses of one batch; nothing is stepped.

    @torch.no_grad()
    def td_target(self, batch: Any, view: np.ndarray, noise: np.ndarray) -> torch.Tensor:
        next_pixels = self.see(view)
        next_action, next_log_prob, _ = self.sample(self.conv(next_pixels), noise, batch.action)
        target_features = self.target["conv"](next_pixels)
        q1, q2 = self.values(self.target["critic_head"], self.target["critic"], target_features, next_action)
        soft_value = torch.min(q1, q2) - self.log_alpha.exp() * next_log_prob
        return torch.tensor(batch.reward) + self.config.discount * torch.tensor(batch.not_done) * soft_value

    def critic_loss(self, batch: Any, views: Any, noise: Any) -> torch.Tensor:
        y = self.td_target(batch, views.next_o, noise.target)
        if self.config.base == "drq":
            y = (y + self.td_target(batch, views.next_copies[0], noise.target_copies[0])) / 2
        weight = torch.ones_like(y) if batch.weight is None else torch.tensor(batch.weight)
        total = torch.tensor(0.0)
        for share, view in zip(VIEW_WEIGHTS.get(self.config.base, (1.0,)), (views.o, *views.copies), strict=True):
            features = self.conv(self.see(view))
            q1, q2 = self.values(self.critic_head, self.critic, features, torch.tensor(batch.action))
            total = total + share * ((weight * (q1 - y) ** 2).mean() + (weight * (q2 - y) ** 2).mean())
        return total

    def auxiliary_losses(self, batch: Any, views: Any) -> dict[str, torch.Tensor]:
        latent = self.critic_head(self.conv(self.see(views.o)))
        if self.config.base == "curl":
            with torch.no_grad():
                positive = self.target["critic_head"](self.target["conv"](self.pixels(views.positive)))
            logits = latent @ (self.contrast @ positive.T)
            logits = logits - logits.max(1, keepdim=True).values.detach()
            return {"contrast_loss": F.cross_entropy(logits, torch.arange(len(logits)))}
        with torch.no_grad():
            next_latent = self.critic_head(self.conv(self.see(views.next_o)))
        joint = torch.cat([latent, torch.tensor(batch.action)], dim=-1)
        return {
            "transition_loss": 0.5 * F.mse_loss(self.transition(joint), next_latent),
            "reward_loss": F.mse_loss(self.reward(joint)[:, 0], torch.tensor(batch.reward)),
        }

    def actor_losses(self, batch: Any, views: Any, noise: Any) -> dict[str, torch.Tensor]:
        features = self.conv(self.see(views.o)).detach()
        action, log_prob, mean_action = self.sample(features, noise.actor, batch.previous_action)
        q1, q2 = self.values(self.critic_head, self.critic, features, action)
        losses = {"actor_loss": (self.log_alpha.exp().detach() * log_prob - torch.min(q1, q2)).mean()}
        labelled = torch.tensor(batch.prior_ok) > 0
        prior_action = torch.tensor(batch.prior_action)
        if self.config.method in ("dpl", "covr"):
            guidance = self.config.guidance
            if (self.updates // self.config.actor_period) % guidance.every == 0:
                squared = (prior_action - (mean_action if guidance.action == "mean" else action)) ** 2
                distance = squared.sum(-1) if guidance.reduction == "sum" else squared.mean(-1)
                losses["guidance_loss"] = guidance.weight * (distance[labelled].mean() if labelled.any() else 0.0)
        if self.config.method == "erpv":
            gate = self._joint_gate(torch.min(q1, q2).detach()[labelled], views, prior_action, labelled)
            distance = ((prior_action - action) ** 2).mean(-1)[labelled]
            losses["guidance_loss"] = self.config.vpg.weight * (gate * distance).mean()
        target_entropy = self.config.target_entropy
        target_entropy = -self.action_dim if target_entropy is None else target_entropy
        losses["alpha_loss"] = (self.log_alpha.exp() * (-log_prob - target_entropy).detach()).mean()
        if self.config.method == "erpv":
            with torch.no_grad():
                latent = self.critic_head(features)
                predicted = self.transition(torch.cat([latent, prior_action], dim=-1))
                next_latent = self.critic_head(self.conv(self.see(views.next_o)))
                distance = (0.5 * (predicted - next_latent) ** 2).mean(-1)
                target = torch.sigmoid(-(1 / distance.clamp(min=1e-3)).clamp(max=20))
            squared = (self.log_alpha.exp() - target) ** 2
            losses["alpha_loss"] = losses["alpha_loss"] + self.config.ver.weight * squared[labelled].mean()
        return losses

    @torch.no_grad()
    def _joint_gate(self, q_rl, views: Any, prior_action: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
        own = self.value_critic["conv"](self.see(views.o))
        q1, q2 = self.values(self.value_critic["critic_head"], self.value_critic["critic"], own, prior_action)
        q_vlm = torch.min(q1, q2)[labelled]
        both = torch.cat([q_rl, q_vlm])
        return ((q_vlm - q_rl) / (both.max() - both.min())).clamp(min=0)

    def _step(self, loss: torch.Tensor, *names: str) -> None:
        for name in names:
            self.optimisers[name].zero_grad()
        loss.backward()
        for name in names:
            self.optimisers[name].step()

    def update(self, batch: Any, views: Any, noise: Any) -> dict[str, float]:
        """Critic, auxiliary, actor and temperature, EMA; returns this update's losses."""
        config = self.config
        losses = {"critic_loss": self.critic_loss(batch, views, noise)}
        self._step(losses["critic_loss"], "critic")
        if config.base in ("deepmdp", "resact"):
            losses |= self._auxiliary_update(batch, views)
        if self.updates % config.actor_period == 0:
            actor = self.actor_losses(batch, views, noise)
            self._step(actor["actor_loss"] + actor.get("guidance_loss", 0.0), "actor")
            self._step(actor["alpha_loss"], "alpha")
            losses |= actor
        if self.updates % config.target_period == 0:
            for name, target in self.target.items():
                tau = config.critic_tau if name == "critic" else config.encoder_tau
                for old, new in zip(target.parameters(), getattr(self, name).parameters(), strict=True):
                    old.data.copy_(tau * new.data + (1 - tau) * old.data)
        if config.base == "curl":
            losses |= self._auxiliary_update(batch, views)
        self.updates += 1
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _auxiliary_update(self, batch: Any, views: Any) -> dict[str, torch.Tensor]:
        losses = self.auxiliary_losses(batch, views)
        self._step(sum(losses.values()), "encoder", "decoder")
        return losses

    # Exchange with the learner's parameter tree.

    def layers(self, tree: dict[str, Any], owner: Any) -> list[tuple[Any, dict[str, Any]]]:
        """Pairs (torch layer, node of the learner's tree) of every part that ``tree`` has; owner: self or a target."""

        def pick(name: str) -> nn.Module:
            return owner[name] if isinstance(owner, dict) else getattr(owner, name)

        pairs: list[tuple[Any, dict[str, Any]]] = []

        def pair(module: nn.Sequential, nodes: list[dict[str, Any]]) -> None:
            own = [layer for layer in module if any(True for _ in layer.parameters())]
            pairs.extend(zip(own, nodes, strict=True))

        for name, node in tree.items():
            if name == "conv":
                for part in ("newer", "older") if self.residual else (None,):
                    stack, nodes = (getattr(pick("conv"), part), node[part]) if part else (pick("conv"), node)
                    pair(stack, [nodes[f"layer_{i}"] for i in range(len(self.config.filters))])
            elif name == "masker":
                pair(self.masker, [{"kernel": node[f"kernel_{i}"], "bias": node[f"bias_{i}"]} for i in range(3)])
            elif name == "tokens":
                pair(self.tokens, [node[f"linear_{i}"] for i in range(2)])
            elif name == "critic":
                for q in ("q1", "q2"):
                    pair(pick("critic")[q], [node[f"{q}_linear_{i}"] for i in range(3)])
            elif name == "actor":
                pair(pick("actor"), [node[f"linear_{i}"] for i in range(3)])
            elif name in ("critic_head", "actor_head"):
                pair(pick(name), [node["linear"], node["norm"]])
            elif name in ("transition", "reward"):
                pair(pick(name), [node["linear_0"], node["norm"], node["linear_1"]])
        return pairs

    def _reads_map(self, layer: nn.Module) -> bool:
        heads = (self.critic_head, self.actor_head, self.target["critic_head"], self.value_critic["critic_head"])
        return any(layer is head[0] for head in heads)

    def to_torch(self, layer: nn.Module, node: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias in torch's layout: OIHW kernels, [out,in] matrices, features flattened as CHW."""
        weight = np.asarray(node["scale"] if "scale" in node else node["kernel"])
        if weight.ndim == 4:
            weight = weight.transpose(3, 2, 0, 1)
        elif weight.ndim == 2:
            if self._reads_map(layer):
                channels, height, width = self.map_shape
                weight = weight.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
            weight = weight.T
        return torch.tensor(np.array(weight)), torch.tensor(np.array(node["bias"]))

    @torch.no_grad()
    def load(self, params: dict[str, Any], target: dict[str, Any], value_critic: dict[str, Any]) -> None:
        """Takes over the learner's weights; ``value_critic`` may be empty."""
        for owner, tree in ((self, params), (self.target, target), (self.value_critic, value_critic)):
            for layer, node in self.layers(tree, owner):
                weight, bias = self.to_torch(layer, node)
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        self.log_alpha.copy_(torch.tensor(np.asarray(params["log_alpha"])))
        if "contrast" in params:
            self.contrast.copy_(torch.tensor(np.asarray(params["contrast"]["weight"])))
