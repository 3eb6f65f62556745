"""Replay: every frame once, stacks built by index at sampling time.

A ring of slots, one per frame. Slot i holds frame o_i and what was done there: action, reward, label. An
episode of T transitions takes T + 1 slots, since its last frame has no action. Ids count frames over the
whole run, so that the slot of id i is i modulo the number of slots.

N environments take turns: frame i is environment i % N's, and the one before it there is i - N. All else, age and
order included, is as with one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from covr_jax.replay import storage as frame_storage
from covr_jax.replay.samplers import Sampler, Uniform
from covr_jax.types import Batch, Before, Observation, Sequence

# Per slot, besides the frame.
FIELDS = (
    "actions", "rewards", "not_done", "acted", "episode", "prior_actions", "prior_ok", "prior_version", "prior_age",
    "prior_reliable",
)  # fmt: skip
_TRIES = 1000  # to draw sequences that no episode's end breaks
COUNTERS = ("next", "first", "transitions")


class _Draw(NamedTuple):
    """What a batch consists of, or several with a leading K."""

    ids: np.ndarray  # int [B]
    weight: np.ndarray | None  # float32 [B]
    starts: np.ndarray | None  # int [C], of its sequences


class ReplayBuffer:
    """At most ``capacity`` transitions, the oldest overwritten first.

    One frame and 8 A + 41 bytes a slot; on the host, memory is taken as it is used.

    Args:
        capacity: transitions; once the ring is full, the last frames of episodes take some of this room.
        frame_shape: (H, W, 3).
        action_dim: A.
        frame_stack: S.
        sampler: how transitions are chosen; uniformly without one.
        remembers: batches hold the decision before (``previous_action``, ``previous_ok``, one frame more).
        sequences: (C, T); batches hold C runs of T consecutive observations.
        storage: where the frames lie (``replay.storage``); all else is on the host.
        environments: N; each stores one frame in its turn, by ``begin`` or ``add``.

    ``storage``: device or host, whichever it came to be.
    ``graded``: whether labels say if they are right, so that batches do, too.
    ``trusted_from``: labels of earlier tuning iterations do not reach a batch (C11); they stay stored.

    Raises ValueError for a capacity below 1.
    """

    def __init__(
        self,
        capacity: int,
        frame_shape: tuple[int, int, int],
        action_dim: int,
        frame_stack: int,
        sampler: Sampler | None = None,
        remembers: bool = False,
        sequences: tuple[int, int] | None = None,
        storage: str = "host",
        environments: int = 1,
    ):
        if capacity < 1:
            raise ValueError(f"replay.capacity must be at least 1, got {capacity}")
        self.trusted_from: float = 0
        self.graded = False
        self._capacity, self._environments = capacity, environments
        self._stack, self._remembers, self._sequences = frame_stack, remembers, sequences
        back = frame_stack + remembers - 1  # frames before o's newest one
        self._slots = capacity + (back + 1) * environments  # the oldest transition's stacks, and the newest frames
        self._shape = tuple(frame_shape)
        self.storage = frame_storage.choose(storage, self._slots * math.prod(frame_shape))
        self._frames = frame_storage.make(self.storage, self._slots, self._shape)
        self._actions = np.zeros((self._slots, action_dim), np.float32)
        self._rewards = np.zeros(self._slots, np.float32)
        self._not_done = np.zeros(self._slots, np.float32)
        self._acted = np.zeros(self._slots, bool)  # False: an episode's last frame, or its newest so far
        self._episode = np.zeros(self._slots, np.int64)  # id of the episode's first frame
        self._prior_actions = np.zeros((self._slots, action_dim), np.float32)
        self._prior_ok = np.zeros(self._slots, bool)
        self._prior_version = np.zeros(self._slots, np.int32)
        self._prior_age = np.zeros(self._slots, np.int32)  # decisions since the question
        self._prior_reliable = np.zeros(self._slots, bool)
        self._window = environments * np.arange(-back, 2)  # from the oldest frame that is seen to the next one
        self._run = environments * np.arange(1 - frame_stack, sequences[1] if sequences else 0)  # frames of a sequence
        self._next = 0  # id of the next frame
        self._first = 0  # oldest id whose whole stack is there
        self._transitions = 0  # in [_first, _next)
        self._open = [False] * environments
        self._sampler = sampler or Uniform()
        self._sampler.attach(self._slots)

    def __len__(self) -> int:
        """Transitions that can be sampled."""
        return self._transitions

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays when every slot is in use."""
        fields = (array.nbytes for array in vars(self).values() if isinstance(array, np.ndarray))
        return self._frames.nbytes + sum(fields)

    def begin(self, frame: np.ndarray) -> int:
        """Stores the first frame of an episode, uint8 [H, W, 3]; returns its id."""
        frame = self._checked(frame)
        self._open[self._next % self._environments] = True
        return self._append(frame, self._next)

    def add(
        self, action: np.ndarray, reward: float, not_done: float, next_frame: np.ndarray, last: bool
    ) -> int:
        """Stores what was done at the newest frame and the frame that followed; returns the transition's id,
        which is that of its first frame. ``last`` closes the episode. Raises ValueError outside of an
        episode."""
        environment = self._next % self._environments
        if not self._open[environment]:
            raise ValueError("add needs a begin with the episode's first frame before it")
        next_frame = self._checked(next_frame)
        transition = self._next - self._environments
        slot = transition % self._slots
        self._actions[slot], self._rewards[slot], self._not_done[slot] = action, reward, not_done
        self._acted[slot] = True
        self._transitions += 1
        self._sampler.added(slot)
        self._append(next_frame, self._episode[slot])
        self._open[environment] = not last
        if last:
            self._close(int(self._episode[slot]), transition)
        return transition

    def label(
        self, transition: int, action: np.ndarray | None, ok: bool, version: int, age: int, reliable: bool = False
    ) -> None:
        """Writes the prior's fields of a transition; one that has been overwritten meanwhile is left alone.

        Args:
            action: float32 [A]; None only if not ok.
            ok: whether the label may guide.
            version: tuning iterations behind the adapter that answered.
            age: decisions since the question.
            reliable: whether a teacher says that the label is right.

        Raises ValueError for an id that was never given out, or ok without an action.
        """
        if ok and action is None:
            raise ValueError("a label that is ok needs an action")
        if not 0 <= transition < self._next:
            raise ValueError(f"no transition has id {transition}")
        if self.contains(transition):
            slot = transition % self._slots
            self._prior_actions[slot], self._prior_ok[slot] = 0.0 if action is None else action, ok
            self._prior_version[slot], self._prior_age[slot] = version, age
            self._prior_reliable[slot] = reliable

    def sample(self, batch_size: int, rng: np.random.Generator, progress: float = 0.0) -> Batch:
        """B transitions, with replacement, chosen by the sampler; a function of the content and the generator's state.

        ``progress``: share of the run that is done, for samplers that change on the way. Frames are NumPy's, or the
        device's where they are stored there. Raises ValueError if there is no transition yet, or no sequence.
        """
        return self._batch(self._draw(batch_size, rng, progress))

    def sample_many(self, count: int, batch_size: int, rng: np.random.Generator, progress: float = 0.0) -> Batch:
        """What ``count`` calls of ``sample`` give, stacked: arrays with a leading K, frames gathered at once."""
        draws = [self._draw(batch_size, rng, progress) for _ in range(count)]
        return self._batch(_Draw(*(None if each[0] is None else np.stack(each) for each in zip(*draws, strict=True))))

    def _draw(self, batch_size: int, rng: np.random.Generator, progress: float) -> _Draw:
        if not self._transitions:
            raise ValueError("the replay holds no transition yet")
        ids, weight = self._sampler.draw(self, batch_size, rng, progress)
        return _Draw(ids, weight, self._draw_sequences(rng) if self._sequences else None)

    def _batch(self, draw: _Draw) -> Batch:
        ids, slots = draw.ids, draw.ids % self._slots
        window = np.maximum(ids[..., None] + self._window, self._episode[slots][..., None])
        ok = self._prior_ok[slots] & (self._prior_version[slots] >= self.trusted_from)
        batch = Batch(
            frames=self._frames.batch(window % self._slots),
            action=self._actions[slots],
            reward=self._rewards[slots],
            not_done=self._not_done[slots],
            prior_action=np.where(ok[..., None], self._prior_actions[slots], np.float32(0)),
            prior_ok=ok.astype(np.float32),
            weight=draw.weight,
            sequence=None if draw.starts is None else self._sequence(draw.starts),
            prior_reliable=(ok & self._prior_reliable[slots]).astype(np.float32) if self.graded else None,
        )
        if not self._remembers:
            return batch
        came = ids > self._episode[slots]  # a decision came before
        before = np.where(came[..., None], self._actions[(ids - self._environments) % self._slots], np.float32(0))
        return batch._replace(previous_action=before, previous_ok=came.astype(np.float32))

    def _close(self, first: int, last: int) -> None:
        """Tells the sampler of an episode that has just ended: ids of its first and last transition."""
        ids = np.arange(first, last + 1, self._environments)
        slots = ids[ids >= self._first] % self._slots
        self._sampler.closed(slots, self._rewards[slots])

    def feed_back(self, td_errors: np.ndarray) -> None:
        """Hands the sampler the TD errors float [K, B] of the last K batches, in their order."""
        self._sampler.feed_back(self, td_errors)

    def uniform(self, size: int, rng: np.random.Generator, newest: int | None = None) -> np.ndarray:
        """Ids [size] of transitions, uniformly and with replacement; among the ``newest`` frames only, if given."""
        first = self._first
        if newest is not None:
            recent = np.arange(max(first, self._next - newest), self._next)
            first = recent[0] if self._acted[recent % self._slots].any() else first
        ids = rng.integers(first, self._next, size)
        # Drawn again where an episode's last frame was hit: a few in a thousand.
        while len(idle := np.flatnonzero(~self._acted[ids % self._slots])):
            ids[idle] = rng.integers(first, self._next, len(idle))
        return ids

    def _draw_sequences(self, rng: np.random.Generator) -> np.ndarray:
        """Ids [C] at which runs of T observations start, anywhere, none across an episode's end."""
        count, length = self._sequences
        reach = (length - 1) * self._environments
        end = self._next - reach  # after the newest possible start
        starts, broken = np.zeros(count, np.int64), np.arange(count)
        for _ in range(_TRIES if end > self._first else 0):
            starts[broken] = rng.integers(self._first, end, len(broken))
            ends = starts + reach
            broken = np.flatnonzero(self._episode[starts % self._slots] != self._episode[ends % self._slots])
            if not len(broken):
                break
        if len(broken):
            raise ValueError(
                f"the replay holds too few runs of {length} observations; let run.random_decisions be longer"
            )
        return starts

    def _sequence(self, starts: np.ndarray) -> Sequence:
        window = np.maximum(starts[..., None] + self._run, self._episode[starts % self._slots][..., None])
        acted = (starts[..., None] + self._environments * np.arange(self._sequences[1] - 1)) % self._slots
        return Sequence(self._frames.batch(window % self._slots), self._actions[acted], self._rewards[acted])

    def transition_ids(self, slots: np.ndarray) -> np.ndarray:
        """Ids of the frames that slots int [N] hold now."""
        newest = self._next - 1
        return newest - (newest - slots) % self._slots

    def sampled(self, ids: np.ndarray) -> np.ndarray:
        """bool [N]: whether the transition of that id can be sampled."""
        return (ids >= self._first) & (ids < self._next) & self._acted[ids % self._slots]

    @property
    def episode_lengths(self) -> tuple[int, int]:
        """Frames of the running episodes, and transitions of the last one that ended in each environment; 0 while there
        is none in one."""
        lengths = []
        for environment in range(self._environments):
            running = self.running(environment)
            last = running.start - self._environments if running else self._newest(environment)
            known = self.contains(last)
            lengths.append((len(running), (last - self._episode[last % self._slots]) // self._environments * known))
        running, ended = zip(*lengths, strict=True)
        return sum(running), int(sum(ended)) if all(ended) else 0

    def contains(self, ids: np.ndarray | int) -> np.ndarray:
        """bool, of ids' shape: whether the frame of that id has not been overwritten."""
        ids = np.asarray(ids)
        return (ids < self._next) & (ids >= self._next - self._slots) & (ids >= 0)

    @property
    def held(self) -> range:
        """Ids of all frames that have not been overwritten."""
        return range(max(0, self._next - self._slots), self._next)

    def running(self, environment: int = 0) -> range:
        """Ids of the frames of the episode that is running there; empty between two episodes."""
        if not self._open[environment]:
            return range(0)
        newest = self._newest(environment)
        return range(int(self._episode[newest % self._slots]), newest + 1, self._environments)

    def _newest(self, environment: int) -> int:
        """Id of that environment's newest frame; negative if it has none."""
        return self._next - 1 - (self._next - 1 - environment) % self._environments

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs besides the frames of ``held``; its arrays are views."""
        used = min(self._next, self._slots)
        return (
            {name: getattr(self, f"_{name}")[:used] for name in FIELDS}
            | {name: int(getattr(self, f"_{name}")) for name in COUNTERS}
            | {"open": list(self._open), "sampler": self._sampler.state(used)}
        )

    def restore(self, state: dict[str, Any], blocks: Iterable[tuple[int, np.ndarray]]) -> None:
        """Makes an empty buffer what another of the same shape was.

        Args:
            state: of the other's ``state``.
            blocks: the other's frames: an id, and uint8 [N, ...] of it and the ids that follow.

        Raises ValueError if a frame is missing or anything has another shape.
        """
        used = min(state["next"], self._slots)
        for name in FIELDS:
            getattr(self, f"_{name}")[:used] = _shaped(name, state[name], getattr(self, f"_{name}")[:used].shape)
        for name in COUNTERS:
            setattr(self, f"_{name}", int(state[name]))
        self._open = list(state["open"])
        self._sampler.restore(state.get("sampler", {}), used)
        missing = len(self.held)
        for first, frames in blocks:
            ids = np.arange(first, first + len(frames))
            kept = self.contains(ids)
            frames = _shaped("frames", frames, (len(ids), *self._shape))
            self._frames.write(ids[kept] % self._slots, frames[kept])
            missing -= int(kept.sum())
        if missing:
            raise ValueError(f"{missing} frames of the replay are missing")

    def frames(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] for ids int [N]. Raises ValueError for one that is gone."""
        return self._frames.read(self._held(ids))

    def actions(self, ids: np.ndarray) -> np.ndarray:
        """float32 [N, A] for transition ids int [N]. Raises ValueError for one that is gone."""
        return self._actions[self._held(ids)]

    def rewards(self, ids: np.ndarray) -> np.ndarray:
        """float32 [N] for transition ids int [N]. Raises ValueError for one that is gone."""
        return self._rewards[self._held(ids)]

    def stacks(self, ids: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3S], oldest frame first, for ids int [N]. Raises ValueError for one that is gone."""
        episode = self._episode[self._held(ids)]
        back = self._environments * np.arange(1 - self._stack, 1)
        window = np.maximum(np.asarray(ids)[:, None] + back, episode[:, None])
        frames = self._frames.read(self._held(window))
        return np.moveaxis(frames, 1, 3).reshape(len(frames), *self._shape[:2], -1)

    def observations(self, ids: np.ndarray) -> list[Observation]:
        """What was seen at ids int [N], without named state. Raises ValueError for one that is gone."""
        ids = np.asarray(ids)
        stacks = self.stacks(ids)
        befores: list[Before | None] = [None] * len(ids)
        if self._remembers:
            came = np.flatnonzero(ids > self._episode[self._held(ids)])
            previous = ids[came] - self._environments
            earlier = zip(self.stacks(previous), self.actions(previous), strict=True)
            for n, (stack, action) in zip(came, earlier, strict=True):
                befores[n] = Before(stack, action)
        pairs = zip(stacks, befores, strict=True)
        return [Observation(stack[..., -3:], stack, {}, before) for stack, before in pairs]

    def _held(self, ids: np.ndarray) -> np.ndarray:
        if not np.all(self.contains(ids)):
            raise ValueError("replay.capacity is too small: steps still needed have been overwritten")
        return np.asarray(ids) % self._slots

    def _checked(self, frame: np.ndarray) -> np.ndarray:
        if frame.shape != self._shape or frame.dtype != np.uint8:
            wanted = list(self._shape)
            raise ValueError(f"a frame must be uint8 {wanted}, got {frame.dtype} {list(frame.shape)}")
        return frame

    def _append(self, frame: np.ndarray, episode: int) -> int:
        slot, new = self._next % self._slots, self._next
        self._next += 1
        if self._next - self._environments - self._first > self._capacity:
            self._transitions -= int(self._acted[self._first % self._slots])
            self._sampler.dropped(self._first % self._slots)
            self._first += 1
        self._frames.write(np.array([slot]), frame[None])
        self._episode[slot] = episode
        self._acted[slot] = self._prior_ok[slot] = False
        return new


def _shaped(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if array.shape != shape:
        raise ValueError(f"replay {name}: must be {list(shape)}, not {list(array.shape)}")
    return array
