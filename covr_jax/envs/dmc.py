"""DeepMind Control from pixels: action repeat, rescaled actions, episodes that are functions of a seed."""

from __future__ import annotations

import difflib
import math
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np

from covr_jax.config import EnvConfig
from covr_jax.envs import gl

gl.choose()  # before dm_control is imported, which reads MUJOCO_GL once

from dm_control import suite  # noqa: E402
from dm_control.mujoco.engine import Camera  # noqa: E402

EPISODE = 1000  # simulator frames, in every task


class Task(NamedTuple):
    """What the papers' tasks use where dm_control leaves a choice."""

    action_repeat: int  # PlaNet's table for its six; 2 for the others, where the papers are silent
    camera: int = 0


TASKS = {
    "cartpole/swingup": Task(8),
    "reacher/easy": Task(4),
    "cheetah/run": Task(4),
    "walker/walk": Task(2),
    "finger/spin": Task(2),
    "ball_in_cup/catch": Task(4),
    "hopper/hop": Task(2),
    "walker/run": Task(2),
    "pendulum/swingup": Task(2),
    "quadruped/walk": Task(2, camera=2),  # 'y', the closer view; RAD's is 0
    "quadruped/run": Task(2, camera=2),
}
# Render quality -> overridden flags. Multisampling stays: in small pictures it is what shows slow motion at all.
FLAGS = {"default": {}, "fast": {"shadow": False, "reflection": False}}
# Joint type -> suffixes of its positions and of its velocities in the named state.
SUFFIXES = {
    mujoco.mjtJoint.mjJNT_FREE: (
        [f"position_{axis}" for axis in "xyz"] + [f"orientation_{part}" for part in "wxyz"],
        [f"velocity_{axis}" for axis in "xyz"] + [f"rotation_{axis}" for axis in "xyz"],
    ),
    mujoco.mjtJoint.mjJNT_SLIDE: (["position"], ["velocity"]),
    mujoco.mjtJoint.mjJNT_HINGE: (["position"], ["velocity"]),
}


class DmcEnv(gymnasium.Env):
    """One task of the suite. Never terminates: its episodes are cut off after 1000 simulator frames.

    Attributes: ``action_repeat`` (simulator frames per decision), ``max_decisions`` (per episode),
        ``action_names``
    (the model's actuators, in order), ``decision_rate`` (decisions per second of simulated time).

    Raises ValueError for a task that is not in TASKS, a camera that it has not, an unknown render quality.
    """

    def __init__(self, config: EnvConfig, task: str):
        if task not in TASKS:
            near = difflib.get_close_matches(task, TASKS, n=1)
            hint = f"did you mean dmc/{near[0]}? " if near else ""
            allowed = ", ".join(f"dmc/{name}" for name in TASKS)
            raise ValueError(f"unknown environment dmc/{task}; {hint}allowed: {allowed}")
        if config.render_quality not in FLAGS:
            allowed = ", ".join(FLAGS)
            raise ValueError(f"render_quality must be one of {allowed}, got {config.render_quality!r}")
        table = TASKS[task]
        self.action_repeat = table.action_repeat if config.action_repeat is None else config.action_repeat
        self.max_decisions = math.ceil(EPISODE / self.action_repeat)
        size = config.render_size
        self._flags = FLAGS[config.render_quality]
        self._env = suite.load(*task.split("/"))
        self._left = 0  # simulator frames of this episode to come
        physics, model = self._env.physics, self._env.physics.model
        # A framebuffer no larger than the picture: the same pixels, and less to clear in every frame.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self._camera = Camera(physics, size, size, table.camera if config.camera is None else config.camera)
        spec = self._env.action_spec()
        self._low, self._high = spec.minimum, spec.maximum
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_names = tuple(model.id2name(i, "actuator") for i in range(model.nu))
        self.decision_rate = 1.0 / (self._env.control_timestep() * self.action_repeat)
        self._positions, self._velocities = _named_joints(model)
        self._target = model.name2id("target", "geom") if task.startswith("reacher/") else None

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame uint8 [H, W, 3]. With a seed (0 to 2^32 - 1), the episode is a function of it and of
        the actions; it is dm_control's episode of that seed. Without one the task's random stream goes on."""
        super().reset(seed=seed)
        if seed is not None:
            self._env.task.random.seed(seed)
        self._env.reset()
        self._left = EPISODE
        return self._render(), {"state": self._state(), "frames": 0}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Repeats the action; the reward is the sum over the repeated frames (S17).

        Args:
            action: float [A], clipped to [-1, 1].

        Returns:
            frame uint8 [H, W, 3], reward, terminated (always False), truncated (after 1000 simulator frames),
            info.

        Raises:
            ValueError: a wrong shape, a number that is not finite, an episode that is over.
        """
        action = np.asarray(action, np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            count = self.action_space.shape[0]
            raise ValueError(f"an action must be {count} finite numbers, got {action.tolist()}")
        if not self._left:
            raise ValueError("the episode is over: reset before the next step")
        native = self._low + (np.clip(action, -1.0, 1.0) + 1.0) * 0.5 * (self._high - self._low)
        frames = min(self.action_repeat, self._left)
        self._left -= frames
        reward = sum(float(self._env.step(native).reward) for _ in range(frames))
        return self._render(), reward, False, not self._left, {"state": self._state(), "frames": frames}

    def close(self) -> None:
        """Frees the GL context now: at interpreter exit it would print a harmless traceback. Ends the
        environment."""
        self._env.physics.free()

    def _render(self) -> np.ndarray:
        # The camera draws into one buffer of its own.
        return self._camera.render(render_flag_overrides=self._flags).copy()

    def _state(self) -> dict[str, float]:
        """All joints' positions and velocities in m, rad and per second; of the reacher also its target's
        place.

        A joint j gives j_position and j_velocity; a free one j_position_{x,y,z}, j_orientation_{w,x,y,z},
        j_velocity_{x,y,z} and j_rotation_{x,y,z} (angular velocity).
        """
        data = self._env.physics.data
        state = dict(zip(self._positions, data.qpos.tolist(), strict=True))
        state |= zip(self._velocities, data.qvel.tolist(), strict=True)
        if self._target is not None:
            state["target_x"], state["target_y"], _ = data.geom_xpos[self._target].tolist()
        return state


def _named_joints(model) -> tuple[list[str], list[str]]:
    """Names of the entries of qpos and of qvel; MuJoCo lays both out joint after joint."""
    positions, velocities = [], []
    for joint in range(model.njnt):
        name = model.id2name(joint, "joint")
        of_position, of_velocity = SUFFIXES[mujoco.mjtJoint(int(model.jnt_type[joint]))]
        positions += [f"{name}_{suffix}" for suffix in of_position]
        velocities += [f"{name}_{suffix}" for suffix in of_velocity]
    return positions, velocities
