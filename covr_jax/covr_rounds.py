"""COVR's rounds: D_f collects the agent's own steps, EDDF filters them, the VLM is tuned on them (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from covr_jax import filters, returns, schedule
from covr_jax.config import RoundsConfig
from covr_jax.priors.source import PriorSource, PriorUnavailable, TunablePrior, TuningFailed
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.types import Sample

Score = Callable[[np.ndarray], np.ndarray]  # replay ids int [N] -> scores float [N]


class Steps(NamedTuple):
    """N steps of D_f, episode by episode in the order in which these ended."""

    ids: np.ndarray  # int64 [N], transition ids of the replay
    returns: np.ndarray  # float64 [N], discounted return-to-go g, reward units
    time: np.ndarray  # int64 [N], decision within the episode
    states: list[dict[str, float]]  # N observations' named state


class Filtered(NamedTuple):
    """What EDDF did to the steps of one round."""

    steps: Steps
    keep: np.ndarray  # bool [N]
    tau: float  # threshold; EDDF's in z units
    entropy: float  # nats, as handed to Eq. 5


class ReturnMemory:
    """D_f. Returns are filled in when an episode closes, since g_t needs the rewards to come (C6).

    ``open_episode`` says what becomes of the running episode's steps when a round fires: ``drop`` forgets them,
    ``truncate`` takes them with the return of the rewards so far. Later steps of that episode go to the next round.
    Each of N ``environments`` has a running episode of its own.
    """

    def __init__(self, discount: float, open_episode: str, environments: int = 1):
        self._discount = discount
        self._truncate = open_episode == "truncate"
        self._closed: list[Steps] = []  # whole episodes, in the order in which they ended
        # Of each environment: id, reward, time, state.
        self._open: list[list[tuple[int, float, int, dict]]] = [[] for _ in range(environments)]
        self._time = [0] * environments

    def step(
        self, transition: int, reward: float, state: dict[str, float], enters: bool = True, environment: int = 0
    ) -> None:
        """Notes one step; with ``enters`` false only its time counts (a warm-up step that stays out, C20)."""
        if enters:
            self._open[environment].append((transition, reward, self._time[environment], state))
        self._time[environment] += 1

    def close_episode(self, environment: int = 0) -> None:
        self._close_steps(environment)
        self._time[environment] = 0

    def take(self) -> Steps:
        """All steps since the last call; D_f is empty afterwards."""
        for environment, steps in enumerate(self._open):
            if self._truncate:
                self._close_steps(environment)
            steps.clear()
        taken, self._closed = self._joined(), []
        return taken

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs: JSON values and arrays."""
        closed = self._joined()
        return {
            "closed": closed._asdict() | {"states": _table(closed.states)},
            "open": [_columns(steps) for steps in self._open],
            "time": list(self._time),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where another was."""
        closed = state["closed"]
        self._closed = [Steps(**closed | {"states": _rows(closed["states"])})]
        self._open = [
            list(zip(*(each[name].tolist() for name in ("ids", "rewards", "time")), _rows(each["states"]), strict=True))
            for each in state["open"]
        ]
        self._time = list(state["time"])

    def _joined(self) -> Steps:
        if not self._closed:
            return Steps(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), [])
        return Steps(
            np.concatenate([s.ids for s in self._closed]),
            np.concatenate([s.returns for s in self._closed]),
            np.concatenate([s.time for s in self._closed]),
            [state for s in self._closed for state in s.states],
        )

    def _close_steps(self, environment: int) -> None:
        steps = self._open[environment]
        if steps:
            ids, rewards, time, states = zip(*steps, strict=True)
            to_go = returns.to_go(np.asarray(rewards, np.float64), self._discount)
            self._closed.append(Steps(np.asarray(ids, np.int64), to_go, np.asarray(time, np.int64), list(states)))
        steps.clear()


class Rounds:
    """Counts steps, tells when a round is due, and filters what it is tuned on."""

    def __init__(self, config: RoundsConfig, discount: float, action_dim: int, environments: int = 1):
        self.config = config
        self._action_dim = action_dim
        discount = discount if config.discount is None else config.discount
        self.memory = ReturnMemory(discount, config.open_episode, environments)
        self.done = 0  # c, rounds done
        self.adapter_round = 0  # tuning iteration of the adapter that answers
        self._steps = 0  # f, steps since the last round

    @property
    def warm(self) -> bool:
        """Whether the cold start is over: before, nothing is asked and the actor term is off (C10)."""
        return self.done >= self.config.cold_start

    @property
    def asking(self) -> bool:
        return self.warm or self.config.cold_start_labels

    @property
    def trusted_from(self) -> float:
        """The earliest tuning iteration whose labels may guide (C11); infinite while the cold start lasts."""
        if not self.warm:
            return math.inf
        return {"keep": 0, "keep_warm": self.config.cold_start, "latest": self.adapter_round}[self.config.stale_labels]

    def advance(self, steps: int) -> bool:
        """Counts steps; True when a round is due, i.e. f has reached psi_c (counted after the step, C9)."""
        self._steps += steps
        return self._steps >= schedule.interval(self.done, self.config.psi0, self.config.schedule)

    def filter(self, entropy: float, score: Score | None = None, seed: int = 0) -> Filtered:
        """Takes D_f and applies EDDF, or the filter that stands for it.

        Args:
            entropy: mean -log pi of the latest training batch, nats over all dims.
            score: what the steps are judged by, given their replay ids; None: their returns.
            seed: of a random filter.
        """
        eddf_config = self.config.eddf
        if eddf_config.entropy == "per_dim":
            entropy = entropy / self._action_dim
        steps = self.memory.take()
        if not len(steps.ids):
            return Filtered(steps, np.zeros(0, bool), float("nan"), entropy)
        scores = steps.returns if score is None else score(steps.ids)
        keep, tau = filters.select(scores, entropy, eddf_config, np.random.default_rng(seed))
        return Filtered(steps, keep, tau, entropy)

    def finish(self) -> None:
        """Ends a round: f starts again and psi grows."""
        self.done += 1
        self._steps = 0

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs: JSON values and arrays."""
        return {
            "done": self.done,
            "adapter_round": self.adapter_round,
            "steps": self._steps,
            "memory": self.memory.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where another was."""
        self.done, self.adapter_round, self._steps = state["done"], state["adapter_round"], state["steps"]
        self.memory.restore(state["memory"])


def run_round(
    rounds: Rounds,
    prior: PriorSource,
    replay: ReplayBuffer,
    entropy: float,
    seed: int,
    vlm_alone: Callable[[], list[float]],
    progress: Callable[[int, int, float], None],
    required: bool,
    score: Score | None = None,
) -> dict[str, Any]:
    """One round: D_f filtered (by ``score``), tuning on what is kept, and the VLM driving alone before and after.

    A teacher cannot be tuned: its rounds only filter. Returns the line of rounds.jsonl (without the counters).
    Raises PriorUnavailable only if the prior is ``required``; otherwise, and when tuning fails (no sample with a
    positive return, say), the adapter stays as it was and the record's ``error`` says why.
    """
    filtered = rounds.filter(entropy, score, seed)
    record = {"round": rounds.done, **statistics(filtered)}
    try:
        if isinstance(prior, TunablePrior):
            record["vlm_returns_before"] = vlm_alone()
            if filtered.keep.any():
                chosen = {name: float(record[name]) for name in ("tau", "entropy", "kept", "total")}
                report = prior.tune(
                    _samples(filtered, replay), rounds.config, seed=seed, progress=progress, selection=chosen
                )._asdict()
                if report["activated"]:
                    rounds.adapter_round = rounds.done + 1
                del report["seconds"]  # wall-clock stays out of what two equal runs share
                record |= {f"adapter_{key}" if key in ("version", "digest") else key: report[key] for key in report}
            record["vlm_returns_after"] = vlm_alone()
    except (PriorUnavailable, TuningFailed) as error:
        if required and isinstance(error, PriorUnavailable):
            raise
        record["error"] = str(error)
    for when in ("before", "after"):
        if record.get(f"vlm_returns_{when}"):
            record[f"vlm_return_{when}"] = float(np.mean(record[f"vlm_returns_{when}"]))
    rounds.finish()
    replay.trusted_from = rounds.trusted_from
    return record


def _samples(filtered: Filtered, replay: ReplayBuffer) -> list[Sample]:
    steps, kept = filtered.steps, np.flatnonzero(filtered.keep)
    frames, actions = replay.frames(steps.ids[kept]), replay.actions(steps.ids[kept])
    return [
        Sample(frames[n], steps.states[i], actions[n], float(steps.returns[i]))
        for n, i in enumerate(kept)
    ]


def _columns(steps: Sequence[tuple[int, float, int, dict]]) -> dict[str, Any]:
    """Steps of a running episode as arrays."""
    ids, rewards, time, states = zip(*steps, strict=True) if steps else ((), (), (), ())
    return {
        "ids": np.asarray(ids, np.int64),
        "rewards": np.asarray(rewards, np.float64),
        "time": np.asarray(time, np.int64),
        "states": _table(states),
    }


def _table(states: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Dictionaries with equal keys as one array: {"names": K texts, "values": float64 [N, K]}."""
    names = list(states[0]) if states else []
    if any(list(state) != names for state in states):
        raise ValueError("an environment must name the same state in every step")
    values = np.array([list(state.values()) for state in states], np.float64).reshape(len(states), len(names))
    return {"names": names, "values": values}


def _rows(table: dict[str, Any]) -> list[dict[str, float]]:
    return [dict(zip(table["names"], row, strict=True)) for row in table["values"].tolist()]


def statistics(filtered: Filtered, bins: int = 20) -> dict:
    """The numbers of a round that rounds.jsonl shows: counts, threshold, and histograms of D_f and its kept part."""
    g, keep, time = filtered.steps.returns, filtered.keep, filtered.steps.time
    record = {
        "tau": filtered.tau,
        "entropy": filtered.entropy,
        "kept": int(keep.sum()),
        "total": len(g),
    }
    if len(g):
        edges = np.histogram_bin_edges(g, bins)
        time_edges = np.linspace(0, int(time.max()) + 1, bins + 1)
        record |= {
            "return_mean_all": float(g.mean()),
            "return_mean_kept": float(g[keep].mean()) if keep.any() else float("nan"),
            "return_hist_edges": edges.tolist(),
            "return_hist_all": np.histogram(g, edges)[0].tolist(),
            "return_hist_kept": np.histogram(g[keep], edges)[0].tolist(),
            "kept_time_edges": time_edges.tolist(),
            "kept_time_hist": np.histogram(time[keep], time_edges)[0].tolist(),
        }
    return record
