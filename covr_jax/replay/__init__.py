"""Replay: every frame stored once."""

from covr_jax.replay.buffer import ReplayBuffer

__all__ = ["ReplayBuffer"]
