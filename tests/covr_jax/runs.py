"""A training run small enough for seconds, its records in memory, and priors that need no server."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from covr_jax.config import Config, EnvConfig, LearnerConfig, PriorConfig, ReplayConfig, RoundsConfig, RunConfig
from covr_jax.types import Label, TuningReport

TASK = "dmc/cartpole/swingup"
CONFIG = Config(
    env=EnvConfig(name=TASK, render_size=24, render_quality="fast"),
    learner=LearnerConfig(
        base="rad", method="none", augmentation="crop", image_size=20, filters=(4, 4), kernels=(3, 3),
        strides=(2, 1), hidden_dim=16, batch_size=4,
    ),
    replay=ReplayConfig(capacity=1000),
    prior=PriorConfig(source="teacher:zeros", lag=3, group=2),
    rounds=RoundsConfig(psi0=400, cold_start=1, vlm_episodes=1),
    run=RunConfig(
        seed=3, steps=1600, random_decisions=20, eval_every=800, eval_episodes=2, log_every=400, video=False
    ),
)  # fmt: skip


class Records:
    """Implements covr_jax.recording.Recorder in memory."""

    def __init__(self):
        self.lines = {"metrics": [], "evaluations": [], "rounds": [], "labels": []}

    def metrics(self, record):
        self.lines["metrics"].append(record)

    def evaluation(self, record, video, prior_actions):
        self.lines["evaluations"].append(record)

    def round(self, record):
        self.lines["rounds"].append(record)

    def label(self, record, answered):
        self.lines["labels"].append(record | {"action": None if answered.label.action is None else 0})

    def timing(self, record):
        pass

    def progress(self, steps, notes):
        pass

    def policy(self, state):
        pass

    def checkpoint(self, decisions, learner, state, replay):
        pass


class Fixed:
    """A prior whose every answer is the same."""

    version = "base"

    def __init__(self, label):
        self.label_ = label

    def predict(self, observations):
        return [self.label_] * len(observations)

    def close(self):
        pass


class Tunable(Fixed):
    """Counts its tunings; its version is their number, and its action grows with it."""

    run, digest = "fake", ""

    def __init__(self):
        super().__init__(None)
        self.activate("base")

    def activate(self, version):
        self.version = version
        number = 0 if version == "base" else int(version.removeprefix("v"))
        self.label_ = Label(np.array([0.5 + number / 10], np.float32), "ok", "slide: 0.50", version, "")
        return version, ""

    def tune(self, samples, config, *, seed, progress, selection):
        self.activate("v1" if self.version == "base" else f"v{int(self.version.removeprefix('v')) + 1}")
        return self._report(self.version, len(samples))

    def _report(self, version, samples):
        return TuningReport(version, "", True, 1.0, 0.5, 1.0, 0.5, samples, 0, 0.5, 1.0, 3.0)


def change(**sections) -> Config:
    return dataclasses.replace(
        CONFIG, **{name: dataclasses.replace(getattr(CONFIG, name), **fields) for name, fields in sections.items()}
    )


def same(left, right) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))
