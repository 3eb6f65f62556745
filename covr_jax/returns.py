"""Discounted returns-to-go of finished episodes."""

from __future__ import annotations

import numpy as np


def to_go(rewards: np.ndarray, discount: float) -> np.ndarray:
    """g_t = sum over k >= t of discount^(k-t) r_k: what each step of one episode still collected.

    COVR, section on EDDF: the g_t of Eq. 5 and Eq. 6. Print and meaning part in the index (S11): the text
    writes r_{t+1} for the reward that a_t causes, yet starts g_t at r_t; here rewards[t] is the one that
    action t caused, and g_t starts with it. The sum ends with the episode, so that for discount < 1 late
    steps of a constant-reward episode return less than early ones (C7).

    Args:
        rewards: float [T], reward units, in order of time, of one closed episode.
        discount: in [0, 1].

    Returns:
        float64 [T], reward units; empty for T = 0.

    Raises:
        ValueError: rewards not 1-D or not finite, discount outside [0, 1].
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 1:
        raise ValueError(f"rewards must have shape [T], got {list(rewards.shape)}")
    if not np.isfinite(rewards).all():
        raise ValueError("rewards must be finite")
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount must be in [0, 1], got {discount}")
    returns = np.empty_like(rewards)
    following = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = rewards[t] + discount * following
        returns[t] = following
    return returns
