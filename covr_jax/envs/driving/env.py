"""One driving environment over any world: action repeat, rewards, endings and accounting are the same in all."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

from covr_jax.config import EnvConfig
from covr_jax.envs.driving import accounting, endings, rewards
from covr_jax.envs.driving.scenarios import Scenario
from covr_jax.envs.driving.world import TICK_S, World, WorldLost, control

ACTION_REPEAT = 4  # ERPv, Table 6; COVR prints none


class DrivingEnv(gymnasium.Env):
    """A scenario in a world. Actions are (steer, throttle); frames of ``covr_jax.envs.make`` are ticks of 0.05 s.

    ``info["totals"]`` holds the episode's accounting up to now (accounting.Totals) and, in its last step,
    ``info["ending"]`` says why it ended. An episode whose world is lost is truncated with ending "fault", its reason is
    ``info["fault"]``, and its last frame and state are those before.

    Raises ValueError for a wrong switch.
    """

    def __init__(self, config: EnvConfig, scene: Scenario, world: World):
        driving, size = config.driving, config.render_size
        self.action_repeat = ACTION_REPEAT if config.action_repeat is None else config.action_repeat
        self.rules = endings.Rules(
            driving.horizon, driving.horizon_unit, driving.terminate_on_collision, driving.collision_ticks,
            driving.off_road, driving.stuck, driving.terminal_horizon,
        )  # fmt: skip
        for name, value, allowed in (
            ("horizon_unit", driving.horizon_unit, ("ticks", "decisions")),
            ("repeat_reward", driving.repeat_reward, ("sum", "mean")),
        ):
            if value not in allowed:
                raise ValueError(f"env.driving.{name}={value!r}: must be one of {', '.join(allowed)}")
        in_ticks = driving.horizon_unit == "ticks"
        self.max_decisions = math.ceil(driving.horizon / (self.action_repeat if in_ticks else 1))
        self.action_names = ("steer", "throttle")
        self.decision_rate = 1.0 / (TICK_S * self.action_repeat)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.scenario, self.world, self.repeatable = scene, world, world.repeatable
        self.faults = 0  # episodes cut by a fault so far
        self._weights, self._repeat_reward = rewards.REWARDS[scene.reward], driving.repeat_reward
        self._over = True

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame uint8 [H, W, 3]. With a seed the episode's traffic is a function of it. Raises WorldLost."""
        super().reset(seed=seed)
        self.world.begin(self.np_random if seed is None else np.random.default_rng(seed))
        self._count, self._totals, self._over = endings.Count(), accounting.Totals(), False
        self._seen = self.world.frame(), self.world.state()
        return self._seen[0], self._info(0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Holds the action float [2] for the decision's ticks, fewer if the episode ends within.

        Raises ValueError for a wrong shape, a number that is not finite, an episode that is over.
        """
        action = np.asarray(action, np.float64)
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ValueError(f"an action must be 2 finite numbers, got {action.tolist()}")
        if self._over:
            raise ValueError("the episode is over: reset before the next step")
        pedals, ending, fault = control(action), None, None
        ticks = accounting.Ticks([], [], [], [])
        try:
            while ending is None and len(ticks.rewards) < self.action_repeat:
                tick = self.world.tick(pedals)
                self._count = endings.count(self._count, tick)
                ticks.rewards.append(rewards.reward(tick, pedals, self._weights))
                ticks.metres.append(rewards.progress(tick))
                ticks.collided.append(tick.collided)
                ticks.impulses.append(tick.impulse)
                ending = endings.after_tick(tick, self._count, self.rules)
            self._seen = self.world.frame(), self.world.state()
        except WorldLost as error:
            ending, fault = endings.Ending("fault", False), str(error)
            self.faults += 1
        self._count = self._count._replace(decisions=self._count.decisions + 1)
        ending = ending or endings.after_decision(self._count, self.rules)
        reward = 0.0
        if ticks.rewards:
            self._totals = accounting.add(self._totals, ticks)
            reward = accounting.decision_reward(ticks.rewards, self._repeat_reward)
        info = self._info(len(ticks.rewards))
        if ending is not None:
            self._over = True
            info |= {"ending": ending.reason} | ({} if fault is None else {"fault": fault})
        over, terminated = ending is not None, ending is not None and ending.terminated
        return self._seen[0], reward, terminated, over and not terminated, info

    def close(self) -> None:
        self.world.close()

    def _info(self, frames: int) -> dict[str, Any]:
        return {"state": self._seen[1], "frames": frames, "totals": self._totals._asdict()}
