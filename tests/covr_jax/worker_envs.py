"""Environments for ``gym/tests.covr_jax.worker_envs:<Name>-v0``; pictures tell which episode and step they are of.

Rewards are the action; episodes have lengths of their own. ``Late`` is late at random, ``Raises`` and ``Dies`` do so in
the episode whose seed is odd.
"""

from __future__ import annotations

import os
import signal
import time

import gymnasium
import numpy as np

SIDE = 24


def seed_of(frames: np.ndarray) -> np.ndarray:
    """The lower 16 bits of the episodes' seeds, int [...], of frames uint8 [..., H, W, 3]."""
    return frames[..., 0, :2, 0] @ np.array([1, 256])


def step_of(frames: np.ndarray) -> np.ndarray:
    return frames[..., -1, -1, 2].astype(int)


class Numbered(gymnasium.Env):
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def __init__(self, render_mode: str | None = None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self._seed, self._step = seed % 2**16, 0
        return self._picture(), {"state": {"step": 0.0}}

    def step(self, action):
        self.before_step()
        self._step += 1
        over = self._step == 5 + self._seed % 7
        return self._picture(), float(action[0]), over, False, {"state": {"step": float(self._step)}}

    def before_step(self) -> None:
        pass

    def _picture(self) -> np.ndarray:
        picture = np.full((SIDE, SIDE, 3), self._seed % 200, np.uint8)
        picture[0, :2, 0] = self._seed % 256, self._seed // 256
        picture[-1, -1, 2] = self._step
        return picture


class Late(Numbered):
    def before_step(self) -> None:
        time.sleep(int.from_bytes(os.urandom(1), "big") / 255 * 0.02)  # not of the seed


class Raises(Numbered):
    def before_step(self) -> None:
        if self._seed % 2:
            raise RuntimeError("the simulator\nis tired")


class Dies(Numbered):
    def before_step(self) -> None:
        if self._seed % 2:
            os.kill(os.getpid(), signal.SIGKILL)


for kind in (Numbered, Late, Raises, Dies):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=100)
