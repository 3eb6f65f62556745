"""Stacks of the newest frames, as the policy sees them."""

from __future__ import annotations

import numpy as np


class FrameStack:
    """The newest S frames of an episode side by side in the channel axis, oldest first.

    At the start of an episode its first frame stands in for those that do not exist yet, as in the replay.
    Every stack is an array of its own: what was returned does not change later.
    """

    def __init__(self, frames: int):
        if frames < 1:
            raise ValueError(f"a stack needs 1 frame or more, got {frames}")
        self._frames = frames
        self._stack: np.ndarray | None = None

    def reset(self, frame: np.ndarray) -> np.ndarray:
        """First frame uint8 [H, W, 3] of an episode -> stack uint8 [H, W, 3*S]."""
        self._stack = np.concatenate([frame] * self._frames, axis=-1)
        return self._stack.copy()

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Next frame uint8 [H, W, 3] -> stack uint8 [H, W, 3*S].

        Raises:
            ValueError: before the first reset.
        """
        if self._stack is None:
            raise ValueError("push needs a reset with the episode's first frame before it")
        self._stack = np.concatenate([self._stack[..., frame.shape[-1] :], frame], axis=-1)
        return self._stack.copy()
