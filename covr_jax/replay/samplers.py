"""Which transitions of the replay a batch holds: any (uniform), those with large errors (PER), recent or best ones.

A sampler is told of slots that come and go and hands out ids; the replay builds the batches. Draws are a function of
the replay, the sampler's state and the generator.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from covr_jax import returns
from covr_jax.config import ReplayConfig

if TYPE_CHECKING:
    from covr_jax.replay.buffer import ReplayBuffer


class Sampler:
    """Uniform, and what the others change."""

    wants_errors = False  # whether ``feed_back`` must follow the updates

    def attach(self, slots: int) -> None:
        """Called once, with the number of slots of the ring."""

    def added(self, slot: int) -> None:
        """A new transition is in that slot."""

    def dropped(self, slot: int) -> None:
        """What that slot holds can no longer be sampled."""

    def closed(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        """An episode has ended: the slots and rewards [T] of its transitions that can be sampled, in their order."""

    def draw(
        self, replay: ReplayBuffer, size: int, rng: np.random.Generator, progress: float
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Ids int [size] and importance weights float32 [size]; None: ones."""
        return replay.uniform(size, rng), None

    def feed_back(self, replay: ReplayBuffer, td_errors: np.ndarray) -> None:
        """TD errors float [K, B] of the last K draws."""

    def state(self, used: int) -> dict[str, Any]:
        """JSON values and arrays that ``restore`` needs; ``used``: slots in use."""
        return {}

    def restore(self, state: dict[str, Any], used: int) -> None:
        """Makes a new sampler what another was."""


class Uniform(Sampler):
    def __init__(self, config: ReplayConfig | None = None):
        del config


class Prioritised(Sampler):
    """PER (Schaul et al. 2016), proportional: P_i = p_i / sum p, p_i = (|delta_i| + epsilon)^exponent.

    delta_i is the mean of the two critics' TD errors at the transition's last update; a new transition has the largest
    p so far. Weights are (N P_i)^-beta over their largest in the batch, beta linear from ``per_beta`` to 1 over the
    run. Between an update and its feedback the old priorities hold.
    """

    wants_errors = True

    def __init__(self, config: ReplayConfig):
        self._exponent, self._beta, self._epsilon = config.per_exponent, config.per_beta, config.per_epsilon
        self._top = 1.0
        self._drawn: list[np.ndarray] = []  # ids whose errors are to come

    def attach(self, slots: int) -> None:
        self._mass = np.zeros(slots)  # p; 0: not to be drawn

    def added(self, slot: int) -> None:
        self._mass[slot] = self._top

    def dropped(self, slot: int) -> None:
        self._mass[slot] = 0.0

    def draw(
        self, replay: ReplayBuffer, size: int, rng: np.random.Generator, progress: float
    ) -> tuple[np.ndarray, np.ndarray]:
        cumulative = np.cumsum(self._mass)
        total = cumulative[-1]
        # Below the total even after rounding, so that no slot without mass is hit.
        at = np.minimum(rng.random(size) * total, np.nextafter(total, 0.0))
        slots = np.searchsorted(cumulative, at, side="right")
        ids = replay.transition_ids(slots)
        self._drawn.append(ids)
        beta = self._beta + (1.0 - self._beta) * progress
        weight = (len(replay) * self._mass[slots] / total) ** -beta
        return ids, (weight / weight.max()).astype(np.float32)

    def feed_back(self, replay: ReplayBuffer, td_errors: np.ndarray) -> None:
        for ids, errors in zip(self._drawn, td_errors, strict=True):
            mass = (np.abs(errors.astype(np.float64)) + self._epsilon) ** self._exponent
            self._top = max(self._top, float(mass.max()))
            still = replay.sampled(ids)
            self._mass[ids[still] % len(self._mass)] = mass[still]
        self._drawn.clear()

    def state(self, used: int) -> dict[str, Any]:
        """Raises ValueError while errors are to come."""
        if self._drawn:
            raise ValueError("the TD errors of the last draws must be fed back first")
        return {"mass": self._mass[:used], "top": self._top}

    def restore(self, state: dict[str, Any], used: int) -> None:
        self._mass[:used], self._top = state["mass"], float(state["top"])


class Recent(Sampler):
    """ERE (Wang and Ross 2019): the k-th of an episode's K updates draws uniformly from the newest c_k transitions.

    c_k = max(N eta^(1000 k/K), ``ere_minimum``), eta linear from ``ere_eta`` to 1 over the run. The authors update
    after an episode; here an update follows each decision, so k counts the running episode's decisions and K is the
    length of the episode before. Before one has ended everything is drawn from.
    """

    def __init__(self, config: ReplayConfig):
        self._eta, self._minimum = config.ere_eta, config.ere_minimum

    def draw(
        self, replay: ReplayBuffer, size: int, rng: np.random.Generator, progress: float
    ) -> tuple[np.ndarray, None]:
        decision, length = replay.episode_lengths
        if not length:
            return replay.uniform(size, rng), None
        share = min(decision / length, 1.0)
        return replay.uniform(size, rng, newest=self.window(len(replay), share, progress)), None

    def window(self, transitions: int, share: float, progress: float) -> int:
        """c_k for N transitions, k/K and the run's progress, both in [0, 1]."""
        eta = self._eta + (1.0 - self._eta) * progress
        return int(max(transitions * eta ** (1000.0 * share), self._minimum))


class Best(Sampler):
    """COVR's M10 and M11, without a VLM: a share p of a batch from the best steps, the rest from all (C22, C23).

    The best are the share p of the steps with the highest discounted return-to-go, among those whose episode has ended;
    before one has, everything is drawn from.
    """

    def __init__(self, share: float, discount: float):
        self._share, self._discount = share, discount

    def attach(self, slots: int) -> None:
        self._returns = np.full(slots, -np.inf)  # minus infinity: not to be drawn, or not known yet

    def dropped(self, slot: int) -> None:
        self._returns[slot] = -np.inf

    def closed(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        self._returns[slots] = returns.to_go(rewards, self._discount)

    def draw(
        self, replay: ReplayBuffer, size: int, rng: np.random.Generator, progress: float
    ) -> tuple[np.ndarray, None]:
        known = np.flatnonzero(np.isfinite(self._returns))
        if not len(known):
            return replay.uniform(size, rng), None
        best = round(self._share * size)
        count = math.ceil(self._share * len(known))
        top = known[np.argpartition(-self._returns[known], count - 1)[:count]]
        ids = replay.transition_ids(rng.choice(top, best))
        return np.concatenate([ids, replay.uniform(size - best, rng)]), None

    def state(self, used: int) -> dict[str, Any]:
        known = np.isfinite(self._returns[:used])
        return {"known": known, "returns": np.where(known, self._returns[:used], 0.0)}

    def restore(self, state: dict[str, Any], used: int) -> None:
        self._returns[:used] = np.where(state["known"], state["returns"], -np.inf)


def choose(kind: type[Sampler], config: ReplayConfig, discount: float) -> Sampler:
    """The base's own sampler, or with ``top_share`` that of the best steps by ``discount``ed return."""
    return Best(config.top_share, discount) if config.top_share else kind(config)
