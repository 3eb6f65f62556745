"""Where each environment of a run is: the episodes that are running, as functions of the seed and their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from covr_jax import seeds
from covr_jax.envs.orders import Begin, Begun, Moved
from covr_jax.envs.stack import FrameStack
from covr_jax.envs.vector import Environments
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.types import Before, Observation


class Track:
    """One environment.

    ``running``: whether an episode is. ``episode``: its number in the run. ``total``: its reward so far.
    ``decisions``, ``frames``: of the environment, over all its episodes.
    """

    def __init__(self, index: int, frame_stack: int):
        self.index = index
        self.running = False
        self.episode = self.decisions = self.frames = 0
        self.total = 0.0
        self.observation: Observation | None = None
        self._stack = FrameStack(frame_stack)

    @property
    def first(self) -> bool:
        """Whether the decision to come is the episode's first."""
        return self.observation.before is None

    def begin(self, begun: Begun, actions: np.ndarray | tuple = ()) -> None:
        """An episode has begun, and was driven on by ``actions`` float32 [T, A]."""
        frame, *later = begun.frames
        stack, before = self._stack.reset(frame), None
        for frame, action in zip(later, actions, strict=True):
            before = Before(stack, action)
            stack = self._stack.push(frame)
        self.observation = Observation(frame, stack, begun.info["state"], before)
        self.total, self.running = begun.total, True

    def move(self, action: np.ndarray, moved: Moved) -> None:
        """The action float32 [A] was executed."""
        self.decisions += 1
        self.frames += moved.info["frames"]
        self.total += moved.reward
        before = Before(self.observation.stack, action)
        self.observation = Observation(moved.frame, self._stack.push(moved.frame), moved.info["state"], before)
        self.running = not (moved.terminated or moved.truncated)


class Tracks:
    """All environments of a run, and what they do together."""

    def __init__(self, environments: Environments, frame_stack: int, seed: int):
        self._environments, self._seed = environments, seed
        self._all = [Track(index, frame_stack) for index in range(environments.count)]
        self._begun = 0  # episodes

    @property
    def acting(self) -> list[Track]:
        """Those whose episode is running, in order."""
        return [track for track in self._all if track.running]

    @property
    def shown(self) -> list[Observation]:
        """An observation of each; of the first that is acting where no episode is running, so that there are always as
        many and a policy compiles once."""
        substitute = self.acting[0]
        return [(track if track.running else substitute).observation for track in self._all]

    def send(self, actions: dict[int, np.ndarray]) -> None:
        """Actions float32 [A] by environment; in the others a new episode begins."""
        orders = []
        for track in self._all:
            if track.index not in actions:
                track.episode, self._begun = self._begun, self._begun + 1
            orders.append(actions[track.index] if track.index in actions else Begin(self._seed_of(track)))
        self._environments.send(orders)

    def receive(self) -> list[tuple[Track, Begun | Moved]]:
        """What became of it, in the order of the environments."""
        return list(zip(self._all, self._environments.receive(), strict=True))

    def frames(self, replay: ReplayBuffer) -> np.ndarray:
        """Ids int64 [N] of the running episodes' frames."""
        return np.concatenate([np.asarray(replay.running(track.index), np.int64) for track in self._all])

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs besides the replay: JSON values."""
        named = [{name: getattr(track, name) for name in ("episode", "decisions", "frames")} for track in self._all]
        return {"begun": self._begun, "all": named}

    def restore(self, state: dict[str, Any], replay: ReplayBuffer) -> None:
        """Drives the running episodes again to where they were: no simulator can tell all of its state.

        Raises ValueError if an environment shows other frames than the replay holds.
        """
        self._begun = state["begun"]
        running = [np.asarray(replay.running(track.index), np.int64) for track in self._all]
        orders: list[Begin | None] = []
        for track, each, ids in zip(self._all, state["all"], running, strict=True):
            track.episode, track.decisions, track.frames = each["episode"], each["decisions"], each["frames"]
            orders.append(Begin(self._seed_of(track), replay.actions(ids[:-1])) if len(ids) else None)
        self._environments.send(orders)
        for track, ids, order, begun in zip(self._all, running, orders, self._environments.receive(), strict=True):
            if order is None:
                continue
            if not np.array_equal(begun.frames, replay.frames(ids)):
                raise ValueError(
                    f"the environment does not repeat episode {track.episode}: resume where it ran before, or move the "
                    "newest checkpoint away, and the one before it is used"
                )
            track.begin(begun, order.actions)

    def _seed_of(self, track: Track) -> int:
        return seeds.integer(self._seed, "episode", track.episode)
