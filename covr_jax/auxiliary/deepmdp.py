"""DeepMDP (Gelada et al. 2019): transition and reward heads on the latent; losses in ``losses/deepmdp``."""

from __future__ import annotations

import jax

from covr_jax.agent import HeadSpec
from covr_jax.auxiliary import Auxiliary, Scene
from covr_jax.config import LearnerConfig
from covr_jax.losses import deepmdp
from covr_jax.networks import ModelHead
from covr_jax.types import Metrics, Params


def _heads(config: LearnerConfig) -> dict[str, HeadSpec]:
    return {
        "transition": HeadSpec(ModelHead(config.feature_dim, config.model_hidden_dim)),
        "reward": HeadSpec(ModelHead(1, config.model_hidden_dim)),
    }


def _loss(moved: Params, scene: Scene) -> tuple[jax.Array, Metrics]:
    agent, batch = scene.agent, scene.batch
    next_latent = agent.encode(scene.params, scene.views.next_o)
    latent = agent.encode(moved, scene.views.o)
    predicted, reward = (agent.predict(moved, name, latent, batch.action) for name in ("transition", "reward"))
    losses = {
        "transition_loss": deepmdp.transition_loss(predicted, next_latent),
        "reward_loss": deepmdp.reward_loss(reward[:, 0], batch.reward),
    }
    return sum(losses.values()), losses


DEEPMDP = Auxiliary(_heads, _loss, ("transition_loss", "reward_loss"))
