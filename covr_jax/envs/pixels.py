"""Any Gymnasium environment with continuous actions, seen in pixels."""

from __future__ import annotations

import importlib
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from PIL import Image

from covr_jax.config import EnvConfig

RATE = 30.0  # frames a second of an environment that tells none


class PixelEnv(gymnasium.Env):
    """Action repeat, actions rescaled from [-1, 1], square pictures: what covr_jax.envs.make asks for, over ``inner``.

    The picture is the inner observation where that is one, otherwise what ``render()`` gives with render mode
    rgb_array; it is averaged down (or up) to env.render_size. ``info["state"]`` is the inner one's, if it has one.
    Rewards of repeated frames are summed (S17).

    Raises ValueError for actions that are not a bounded box [A], or an environment without pictures or time limit.
    """

    default_repeat = 1

    def __init__(self, config: EnvConfig, inner: gymnasium.Env):
        self._name, self._inner, size = config.name, inner, config.render_size
        box = inner.action_space
        if not isinstance(box, gymnasium.spaces.Box) or len(box.shape) != 1 or not box.is_bounded():
            raise ValueError(f"{config.name}: actions must be a bounded box of one axis, not {box}")
        self._low, self._high = box.low.astype(np.float64), box.high.astype(np.float64)
        seen = inner.observation_space
        self._observes_pixels = isinstance(seen, gymnasium.spaces.Box) and _is_picture(seen.shape, seen.dtype)
        if not self._observes_pixels and inner.render_mode != "rgb_array":
            raise ValueError(f"{config.name}: it observes no picture uint8 [H, W, 3] and has no render mode rgb_array")
        limit = inner.spec.max_episode_steps if inner.spec else None
        if limit is None:
            raise ValueError(f"{config.name}: it has no time limit; register it with max_episode_steps")
        self.action_repeat = self.default_repeat if config.action_repeat is None else config.action_repeat
        self.max_decisions = math.ceil(limit / self.action_repeat)
        self.decision_rate = float(inner.metadata.get("render_fps") or RATE) / self.action_repeat
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self.agent_shape(box.shape), np.float32)
        self.action_names = tuple(f"action_{i}" for i in range(self.action_space.shape[0]))
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self._over = True

    def agent_shape(self, native: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the agent's action."""
        return native

    def native(self, action: np.ndarray) -> np.ndarray:
        """The inner environment's action for the agent's, float64 [A] in [-1, 1]."""
        return self._low + (action + 1.0) * 0.5 * (self._high - self._low)

    def state(self, info: dict[str, Any]) -> dict[str, float]:
        """Named quantities that a prompt may tell."""
        return {name: float(value) for name, value in info.get("state", {}).items()}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame uint8 [H, W, 3]; with a seed the episode is the inner environment's of that seed."""
        super().reset(seed=seed)
        observation, info = self._inner.reset(seed=seed)
        self._over = False
        return self._picture(observation), {"state": self.state(info), "frames": 0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeats the action float [A], clipped to [-1, 1], until the episode ends.

        Raises ValueError for a wrong shape, a number that is not finite, an episode that is over.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            count = self.action_space.shape[0]
            raise ValueError(f"an action must be {count} finite numbers, got {action.tolist()}")
        if self._over:
            raise ValueError("the episode is over: reset before the next step")
        native = self.native(np.clip(action, -1.0, 1.0)).astype(self._inner.action_space.dtype)
        total, frames, terminated, truncated = 0.0, 0, False, False
        while frames < self.action_repeat and not (terminated or truncated):
            observation, reward, terminated, truncated, info = self._inner.step(native)
            total, frames = total + float(reward), frames + 1
        self._over = bool(terminated or truncated)
        cut = self._over and not terminated
        return self._picture(observation), total, bool(terminated), cut, {"state": self.state(info), "frames": frames}

    def close(self) -> None:
        self._inner.close()

    def _picture(self, observation: Any) -> np.ndarray:
        frame = observation if self._observes_pixels else self._inner.render()
        frame = np.asarray(frame)
        if not _is_picture(frame.shape, frame.dtype):
            raise ValueError(f"{self._name}: a picture must be uint8 [H, W, 3], got {frame.dtype} {list(frame.shape)}")
        size = self.observation_space.shape[0]
        if frame.shape[:2] == (size, size):
            return frame.copy()
        return np.array(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


def _is_picture(shape: tuple[int, ...], dtype: Any) -> bool:
    return dtype == np.uint8 and len(shape) == 3 and shape[-1] == 3


def make(config: EnvConfig, name: str) -> PixelEnv:
    """The registered environment ``name``; "package:Name-v0" imports the package first. Raises ValueError."""
    return PixelEnv(config, registered(config.name, name))


def registered(told: str, name: str, **options: Any) -> gymnasium.Env:
    """The environment that Gymnasium registers as ``name``. Raises ValueError, in one line about ``told``."""
    try:
        package, _, name = name.rpartition(":")
        if package:
            importlib.import_module(package)
        spec = gymnasium.spec(name)
        creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
        mode = "rgb_array" if "rgb_array" in getattr(creator, "metadata", {}).get("render_modes", ()) else None
        return gymnasium.make(name, render_mode=mode, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, AttributeError) as error:
        raise ValueError(f"{told}: {' '.join(str(error).split())}") from None
