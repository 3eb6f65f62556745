"""The least floating-point work of an update, worked out from the layers' sizes: products alone, two operations each.

An update that moves all that learns (every second one moves actor and targets). Left out are what is below a hundredth:
activations, norms, optimisers, augmentation.
"""

from __future__ import annotations

from typing import NamedTuple

from covr_jax.config import LearnerConfig
from covr_jax.networks import conv_output_size

BASES = ("sac", "rad", "deepmdp")  # for whose updates it is worked out


class Layers(NamedTuple):
    """Operations of one forward pass over one sample."""

    conv: float
    first_conv: float  # of that, the first layer: no gradient flows on into the pixels
    head: float  # flattened features to latent
    actor: float
    critics: float  # both
    action_columns: float  # of that, the products of the first layers with the action
    latent_columns: float  # and with the latent
    models: float  # transition and reward head
    model_action_columns: float

    @property
    def conv_backward(self) -> float:
        """Into the weights, and into the inputs of all layers but the first."""
        return 2 * self.conv - self.first_conv


def layers(config: LearnerConfig, action_dim: int, frame_stack: int) -> Layers:
    side, channels, convs = config.image_size, 3 * frame_stack, []
    for filters, kernel, stride in zip(config.filters, config.kernels, config.strides, strict=True):
        side = conv_output_size(side, (kernel,), (stride,))
        convs.append(2.0 * side**2 * kernel**2 * channels * filters)
        channels = filters
    latent, hidden, model = config.feature_dim, config.hidden_dim, config.model_hidden_dim
    return Layers(
        conv=sum(convs),
        first_conv=convs[0],
        head=2.0 * side**2 * channels * latent,
        actor=2.0 * (latent * hidden + hidden**2 + hidden * 2 * action_dim),
        critics=2 * 2.0 * ((latent + action_dim) * hidden + hidden**2 + hidden),
        action_columns=2 * 2.0 * action_dim * hidden,
        latent_columns=2 * 2.0 * latent * hidden,
        models=2 * 2.0 * (latent + action_dim) * model + 2.0 * model * (latent + 1),
        model_action_columns=2 * 2.0 * action_dim * model,
    )


def gflop(config: LearnerConfig, action_dim: int, frame_stack: int) -> float:
    """Of one update without labels; NaN for a base that is not in ``BASES``."""
    if config.base not in BASES:
        return float("nan")
    one = layers(config, action_dim, frame_stack)
    # y: o' is encoded once for the policy and once, by the EMA copies, for its value.
    target = 2 * one.conv + 2 * one.head + one.actor + one.critics
    critic = one.conv + one.head + one.critics
    critic += one.conv_backward + 2 * one.head + 2 * one.critics - one.action_columns
    # The actor sees o through weights that the critic has just moved; the critics pass its gradient on to the action.
    actor = one.conv + 2 * one.head + one.actor + one.critics
    actor += one.critics - one.latent_columns + 2 * one.actor + one.head
    auxiliary = 0.0
    if config.base == "deepmdp":
        auxiliary = 2 * one.conv + 2 * one.head + one.models
        auxiliary += one.conv_backward + 2 * one.head + 2 * one.models - one.model_action_columns
    return config.batch_size * (target + critic + actor + auxiliary) / 1e9
