"""The fixed-lag pipeline: a question of decision t is answered at decision t + lag, whatever the clock says.

So the VLM's time overlaps with learning, and a run is still a function of its seed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from covr_jax.priors.source import PriorSource, PriorUnavailable
from covr_jax.types import Label, Observation

FIRST_BACKOFF_S = 1.0  # from a failure to the first probe; doubles with each probe that fails
LAST_BACKOFF_S = 30.0
_log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """A label for the transition that asked."""

    ticket: int  # the caller's name for the question
    label: Label


@dataclass
class PipelineStats:
    """Counts since the process began. All but ``waited_s`` follow from the calls alone as long as the prior works."""

    asked: int = 0
    answered: Counter[str] = field(default_factory=Counter)  # status -> labels returned
    calls: int = 0  # of predict, probes included
    openings: int = 0  # of the circuit breaker
    waited_s: float = 0.0  # spent blocked in due() and drain()


@dataclass
class _Group:
    closed_at: int  # decision
    tickets: list[int]
    observations: list[Observation]
    labels: list[Label] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.labels is not None or self.error is not None


class PriorPipeline:
    """Asks a prior from one background thread, one group of questions at a time, in order.

    Call ``due(decision)`` once at the start of each decision: it also tells which decision ``ask`` and
    ``flush`` belong to. While the prior works, what is returned when depends on the calls, never on timing.

    When a group fails with PriorUnavailable, a circuit breaker opens: this group's labels and all that follow
    have status "unavailable". One observation is then asked again after 1, 2, 4 ... 30 seconds, and nobody
    waits for these probes, so a prior that hangs costs the learner one deadline per opening. The first probe
    that is answered closes the breaker. With ``required`` due() and drain() raise the exception instead.

    Args:
      source: the prior; the caller closes it, after the pipeline.
      lag: decisions from the closing of a group to the use of its answers, >= 0.
      group: questions that close a group, >= 1.
      required: raise instead of going on without a prior.
    """

    def __init__(self, source: PriorSource, lag: int, group: int, required: bool = False):
        if lag < 0:
            raise ValueError(f"prior.lag is {lag}; it must be 0 or more decisions")
        if group < 1:
            raise ValueError(f"prior.group is {group}; it must be 1 or more questions")
        self.lag = lag
        self.group = group
        self.required = required
        self.stats = PipelineStats()
        self._source = source
        self._decision = 0
        self._open: list[tuple[int, Observation]] = []  # questions of the group that is being filled
        self._groups: deque[_Group] = deque()  # closed and not yet returned, in order
        self._unsent: deque[_Group] = deque()
        self._available = True
        self._probe: Observation | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="prior-pipeline", daemon=True)
        self._thread.start()

    @property
    def available(self) -> bool:
        """False while the circuit breaker is open."""
        return self._available

    def ask(self, ticket: int, observation: Observation) -> None:
        """Queues a question at the current decision. ``ticket`` is the id of what the label belongs to."""
        self.stats.asked += 1
        # Copies, since the background thread reads them while the environment goes on.
        kept = Observation(observation.frame.copy(), observation.stack.copy(), dict(observation.state))
        self._open.append((ticket, kept))
        if len(self._open) == self.group:
            self.flush()

    def flush(self) -> None:
        """Closes the group that is being filled, e.g. at the end of an episode."""
        if not self._open:
            return
        tickets, observations = zip(*self._open, strict=True)
        group = _Group(self._decision, list(tickets), list(observations))
        self._open = []
        self._groups.append(group)
        with self._changed:
            if self._available:
                self._unsent.append(group)
                self._changed.notify_all()
            else:
                _give_up(group)

    def due(self, decision: int) -> list[Answer]:
        """Answers of every group that was closed at or before ``decision - lag``, in order of the questions.

        Waits for those that are late. Raises PriorUnavailable if the prior is required and did not answer,
        and whatever else the source raised.
        """
        self._decision = decision
        answers: list[Answer] = []
        while self._groups and self._groups[0].closed_at <= decision - self.lag:
            answers += self._take()
        return answers

    def drain(self) -> list[Answer]:
        """Answers of all questions that are out, before a tuning round and at the end. Raises as due()."""
        self.flush()
        answers: list[Answer] = []
        while self._groups:
            answers += self._take()
        return answers

    def state(self) -> dict[str, Any]:
        """Which questions are out, in JSON's types; their answers are not part of it."""
        return {
            "decision": self._decision,
            "open": [ticket for ticket, _ in self._open],
            "groups": [[group.closed_at, group.tickets] for group in self._groups],
        }

    def restore(self, state: Mapping[str, Any], observations: Mapping[int, Observation]) -> None:
        """Asks what was out when ``state`` was taken, in the same groups, which are due when they were.

        Args:
            observations: by ticket.
        """
        self._decision = state["decision"]
        self._open = [(ticket, observations[ticket]) for ticket in state["open"]]
        groups = [_Group(at, tickets, [observations[t] for t in tickets]) for at, tickets in state["groups"]]
        self._groups.extend(groups)
        with self._changed:
            self._unsent.extend(groups)
            self._changed.notify_all()

    def settle(self) -> None:
        """Waits until nothing is being asked, without taking an answer: others may then ask the source."""
        with self._changed:
            self._changed.wait_for(lambda: all(group.done for group in self._groups))

    def close(self) -> None:
        """Ends the thread and drops the questions that are still out.

        A call in flight ends when the caller closes the source.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=1.0)

    def _take(self) -> list[Answer]:
        """The answers of the oldest group, once they are there."""
        group = self._groups[0]
        start = time.monotonic()
        with self._changed:
            while not group.done:
                self._changed.wait()
        self.stats.waited_s += time.monotonic() - start
        if group.error is not None:
            raise group.error
        self._groups.popleft()
        self.stats.answered.update(label.status for label in group.labels)
        return [Answer(ticket, label) for ticket, label in zip(group.tickets, group.labels, strict=True)]

    def _work(self) -> None:
        backoff = FIRST_BACKOFF_S
        while True:
            with self._changed:
                if self._available:
                    self._changed.wait_for(lambda: self._unsent or self._stopped)
                    group = None if self._stopped else self._unsent.popleft()
                else:
                    self._changed.wait_for(lambda: self._stopped, timeout=backoff)
                    group = None
                if self._stopped:
                    return
            if group is None:
                backoff = min(2 * backoff, LAST_BACKOFF_S)
                self._ask_again()
            else:
                backoff = FIRST_BACKOFF_S
                self._answer(group)

    def _answer(self, group: _Group) -> None:
        """Asks one group; on failure opens the breaker."""
        labels, failure = None, None
        self.stats.calls += 1
        try:
            labels = self._source.predict(group.observations)
            if len(labels) != len(group.tickets):
                raise RuntimeError(f"the prior gave {len(labels)} labels for {len(group.tickets)} questions")
        except Exception as error:  # reported by due(), in the caller's thread
            labels, failure = None, error
        with self._changed:
            if failure is None:
                group.labels = labels
            elif self.required or not isinstance(failure, PriorUnavailable):
                group.error = failure
            else:
                _log.warning("going on without the prior: %s", failure)
                self.stats.openings += 1
                self._available = False
                self._probe = group.observations[-1]
                _give_up(group)
                while self._unsent:
                    _give_up(self._unsent.popleft())
            self._changed.notify_all()

    def _ask_again(self) -> None:
        """Asks one observation and throws the answer away; closes the breaker if there is one."""
        self.stats.calls += 1
        try:
            self._source.predict([self._probe])
        except Exception as error:
            _log.info("still without the prior: %s", error)
            return
        with self._changed:
            _log.warning("the prior answers again")
            self._available = True


def _give_up(group: _Group) -> None:
    group.labels = [Label(None, "unavailable", "", "", "")] * len(group.tickets)
