"""Where a run's records go."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from covr_jax.evaluation import Episode
from covr_jax.priors.labels import Answered
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.types import LearnerState


class Recorder(Protocol):
    """Where a run's records go. Every record carries ``frames`` and ``decisions``."""

    def metrics(self, record: dict[str, Any]) -> None: ...
    def evaluation(self, record: dict[str, Any], video: Episode | None, prior_actions: np.ndarray | None) -> None:
        """``prior_actions``: float32 [T, A] for the video's frames, NaN where there was no valid answer."""

    def round(self, record: dict[str, Any]) -> None: ...
    def label(self, record: dict[str, Any], answered: Answered) -> None: ...
    def timing(self, record: dict[str, Any]) -> None: ...
    def progress(self, steps: int, notes: dict[str, str]) -> None: ...
    def policy(self, state: LearnerState) -> None:
        """Keeps the parameters for evaluation: those of the latest evaluation, or of an interruption after it."""

    def checkpoint(
        self, decisions: int, learner: LearnerState, state: dict[str, Any], replay: ReplayBuffer
    ) -> None:
        """Keeps all that ``Trainer.restore`` needs. Raises OSError if it cannot."""
