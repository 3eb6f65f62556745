"""Defaults against the values of RAD and of the papers, written out (S9, C8, C12, C13, C18, E1, E12, E20)."""

from __future__ import annotations

import pytest

from covr_jax.config import GuidanceConfig, LearnerConfig, RoundsConfig, RunConfig, VerConfig, VpgConfig

RAD = {
    "filters": (32, 32, 32, 32), "kernels": (3, 3, 3, 3), "strides": (2, 1, 1, 1), "feature_dim": 50,
    "hidden_dim": 1024, "log_std_min": -10, "log_std_max": 2, "batch_size": 128, "updates_per_decision": 1,
    "discount": 0.99,
    "critic_lr": 1e-3, "actor_lr": 1e-3, "encoder_lr": 1e-3, "decoder_lr": 1e-3, "alpha_lr": 1e-4, "alpha_beta1": 0.5,
    "initial_temperature": 0.1, "target_entropy": None, "critic_tau": 0.01, "encoder_tau": 0.05, "actor_period": 2,
    "target_period": 2,
}  # fmt: skip
COVR = {
    "psi0": 5000, "schedule": "linear", "cold_start": 4, "weights": "max_abs", "label_smoothing": 0.1, "rank": 128,
    "alpha": 16.0, "dropout": 0.05, "targets": "all", "learning_rate": 1e-5, "epochs": 1,
}  # fmt: skip
VPG = {"weight": 10.0, "reduction": "mean", "gate": "value_critic", "scale": "joint", "calibrate": False}
VER = {
    "weight": 10.0, "distance": "transition", "next": "real", "other": "prior", "rule": "intended",
    "entropy_loss": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "expected"), [(LearnerConfig(), RAD), (RoundsConfig(), COVR), (VpgConfig(), VPG), (VerConfig(), VER)]
)
def test_defaults_are_the_printed_values(config, expected):
    assert {name: getattr(config, name) for name in expected} == expected


def test_guidance_and_protocol():
    assert (GuidanceConfig().weight, GuidanceConfig().reduction, GuidanceConfig().action) == (1.0, "sum", "sample")
    assert (RunConfig().eval_episodes, RunConfig().random_decisions, RunConfig().step_unit) == (10, 1000, "frames")
