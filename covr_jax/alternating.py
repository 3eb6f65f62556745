"""Random Alternating Exploration (ERPv, D.1): a trained policy and the prior take turns within an episode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from covr_jax.evaluation import PriorPolicy
from covr_jax.types import Observation

SOURCES = ("rae", "vlm", "rl")
PHASE = (50, 400)  # steps of a phase, drawn once an episode, both ends possible

Act = Callable[[Observation], np.ndarray]  # Observation -> float32 [A]


class AlternatingExploration:
    """Who acts now. ``rae``: turns of T steps, T ~ U[50, 400] drawn anew for each episode; who begins is drawn too.
    ``vlm`` and ``rl``: one of them alone.

    Args:
        policy: the trained policy.
        prior: makes a driver for one phase of the prior, which is asked at once when a phase begins.
        steps: steps of one decision, in the unit of the phases.

    Raises ValueError for an unknown source.
    """

    def __init__(self, source: str, policy: Act, prior: Callable[[], PriorPolicy], steps: int) -> None:
        if source not in SOURCES:
            raise ValueError(f"data source {source!r} is unknown; allowed: {', '.join(SOURCES)}")
        self._source, self._policy, self._prior, self._steps = source, policy, prior, steps
        self._driver: PriorPolicy | None = None

    def begin(self, rng: np.random.Generator) -> None:
        """Starts an episode."""
        self._phase = int(rng.integers(PHASE[0], PHASE[1] + 1))
        self._prior_first = bool(rng.integers(2))
        self._decision = 0
        self._driver = None

    def prior_acts(self) -> bool:
        """Whether the decision to come is the prior's."""
        if self._source != "rae":
            return self._source == "vlm"
        turn = self._decision * self._steps // self._phase
        return (turn % 2 == 0) == self._prior_first

    def __call__(self, observation: Observation) -> np.ndarray:
        """The action float32 [A] of the decision to come, then moves on to the next."""
        if self.prior_acts():
            self._driver = self._driver or self._prior()
            action = self._driver([observation])[0]
        else:
            self._driver = None
            action = self._policy(observation)
        self._decision += 1
        return action
