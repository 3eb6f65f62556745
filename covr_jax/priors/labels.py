"""Labels for replay: a question every ``period`` steps, its answer held for the decisions in between (S5)."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from covr_jax.config import PriorConfig
from covr_jax.priors.pipeline import PriorPipeline
from covr_jax.replay.buffer import ReplayBuffer
from covr_jax.schedule import asks
from covr_jax.types import Label, Observation


class Answered(NamedTuple):
    """One question with its answer, for the report."""

    observation: Observation
    label: Label
    action: np.ndarray  # float32 [A], what the policy did there
    decision: int


class _Question:
    def __init__(self, decision: int, iteration: int, observation: Observation, environment: int):
        self.decision, self.iteration, self.observation = decision, iteration, observation
        self.environment = environment
        self.label: Label | None = None
        self.waiting: list[tuple[int, int]] = []  # (transition, age) stored before the answer came
        self.action: np.ndarray | None = None

    def state(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "iteration": self.iteration,
            "observation": _observation_state(self.observation),
            "environment": self.environment,
            "label": None if self.label is None else self.label._asdict(),
            "waiting": [list(pair) for pair in self.waiting],
            "action": self.action,
        }

    @classmethod
    def restored(cls, state: dict[str, Any]) -> _Question:
        observation = _observation(state["observation"])
        question = cls(state["decision"], state["iteration"], observation, state["environment"])
        question.label = None if state["label"] is None else Label(**state["label"])
        question.waiting = [tuple(pair) for pair in state["waiting"]]
        question.action = state["action"]
        return question


@dataclass
class _Place:
    """One environment."""

    current: _Question | None = None  # the latest one of the running episode
    age: int = 0  # decisions since then
    last_steps: int = 0
    begun: int = 0  # decision at which the running episode began
    held: Label | None = None  # newest answer to a question of this episode


class HeldLabels:
    """Asks the prior about the agent's observations and writes the answers into replay, whenever they come.

    ``environments``: N; each is asked about by its own steps, and holds its own answers.
    """

    def __init__(self, pipeline: PriorPipeline, replay: ReplayBuffer, config: PriorConfig, environments: int = 1):
        self._pipeline, self._replay, self._config = pipeline, replay, config
        self._questions: dict[int, _Question] = {}  # that are out, by decision
        self._places = [_Place() for _ in range(environments)]
        self.counts: Counter[str] = Counter()  # answers by status
        self.recent: deque[Answered] = deque(maxlen=4)
        self._disagreement: list[float] = []

    def observe(
        self, decision: int, steps: int, observation: Observation, first: bool, iteration: int, environment: int = 0
    ) -> None:
        """Called before each decision.

        ``decision``: of the run. ``steps``: of the environment. ``first``: of an episode. ``iteration``: tuning rounds
        behind the adapter that is asked.
        """
        place = self._places[environment]
        if first:
            place.begun, place.held = decision, None
        if asks(place.last_steps, steps, self._config.period, first):
            place.current = self._questions[decision] = _Question(decision, iteration, observation, environment)
            place.age = 0
            self._pipeline.ask(decision, observation)
        place.last_steps = steps

    def attach(self, transition: int, action: np.ndarray, environment: int = 0) -> None:
        """Called after each stored transition: it gets the label of the latest question."""
        place = self._places[environment]
        question, age = place.current, place.age
        if question is None:
            return
        place.age += 1
        if age and self._config.hold == "mask":
            return
        if not age:
            question.action = action
            if question.label is not None:  # answered without a lag
                self._note(question)
        if question.label is None:
            question.waiting.append((transition, age))
        else:
            self._write(question, transition, age)

    def held(self, environment: int = 0) -> np.ndarray | None:
        """The action float32 [A] of the running episode's newest answer; None if there is none or it cannot be read."""
        held = self._places[environment].held
        return None if held is None else held.action

    def collect(self, decision: int) -> None:
        """Takes the answers that are due; to be called first in every decision."""
        self._take(self._pipeline.due(decision))

    def end_episode(self, environment: int = 0) -> None:
        self._pipeline.flush()
        self._places[environment].current = None

    def drain(self) -> None:
        """Waits for every open question (before a round, at the end)."""
        self._take(self._pipeline.drain())

    def pop_distance(self) -> float | None:
        """Mean |a_v - a_r| over labels since the last call, averaged over dimensions; None without labels."""
        values, self._disagreement = self._disagreement, []
        return float(np.mean(values)) if values else None

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs: nested dictionaries and lists of JSON values and arrays."""
        return {
            "questions": [question.state() for question in self._questions.values()],
            "environments": [
                {
                    "current": None if place.current is None else place.current.state(),
                    "age": place.age,
                    "last_steps": place.last_steps,
                    "begun": place.begun,
                    "held": None if place.held is None else place.held._asdict(),
                }
                for place in self._places
            ],
            "counts": dict(self.counts),
            "recent": [
                {
                    "observation": _observation_state(answered.observation),
                    "label": answered.label._asdict(),
                    "action": answered.action,
                    "decision": answered.decision,
                }
                for answered in self.recent
            ],
            "disagreement": list(self._disagreement),
            "pipeline": self._pipeline.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where another was; what was out there is asked again."""
        self._questions = {each["decision"]: _Question.restored(each) for each in state["questions"]}
        for place, each in zip(self._places, state["environments"], strict=True):
            current = None if each["current"] is None else _Question.restored(each["current"])
            # While it is out, the current question is one of the questions.
            place.current = None if current is None else self._questions.get(current.decision, current)
            place.age, place.last_steps, place.begun = each["age"], each["last_steps"], each["begun"]
            place.held = None if each["held"] is None else Label(**each["held"])
        self.counts = Counter(state["counts"])
        for each in state["recent"]:
            label = Label(**each["label"])
            self.recent.append(Answered(_observation(each["observation"]), label, each["action"], each["decision"]))
        self._disagreement = list(state["disagreement"])
        observations = {ticket: question.observation for ticket, question in self._questions.items()}
        self._pipeline.restore(state["pipeline"], observations)

    def _take(self, answers: list[tuple[int, Label]]) -> None:
        for ticket, label in answers:
            question = self._questions.pop(ticket)
            question.label = label
            place = self._places[question.environment]
            if question.decision >= place.begun:
                place.held = label
            self.counts[label.status] += 1
            for transition, age in question.waiting:
                self._write(question, transition, age)
            if question.action is not None:
                self._note(question)

    def _note(self, question: _Question) -> None:
        """Keeps an answer and what was done there for the records."""
        label = question.label
        self.recent.append(Answered(question.observation, label, question.action, question.decision))
        if label.action is not None:
            self._disagreement.append(float(np.abs(label.action - question.action).mean()))

    def _write(self, question: _Question, transition: int, age: int) -> None:
        if question.label.action is not None:
            label = question.label
            self._replay.label(transition, label.action, True, question.iteration, age, label.reliable)


def _observation_state(observation: Observation) -> dict[str, Any]:
    """Without the frame, which is the newest of the stack."""
    return {"stack": observation.stack, "state": observation.state}


def _observation(state: dict[str, Any]) -> Observation:
    return Observation(np.ascontiguousarray(state["stack"][..., -3:]), state["stack"], state["state"])
