"""Held labels: when the prior is asked, and which transitions get which answer."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax.config import PriorConfig
from covr_jax.priors.labels import HeldLabels
from covr_jax.schedule import asks
from covr_jax.types import Label, Observation


def test_asks_when_the_counter_crosses_a_multiple_of_the_period():
    # Eight frames a decision, a question every ten frames: 0, 8 -> 16, 16 -> 24, 24 -> 32, 32 -> 40, not 40 -> 48.
    steps = [8 * n for n in range(7)]
    asked = [now for before, now in zip([0, *steps], steps, strict=False) if asks(before, now, 10, first=now == 0)]
    assert asked == [0, 16, 24, 32, 40]


class ScriptedPipeline:
    """Answers the question of decision t at t + 2 by the action t / 10; decision 5's answer is malformed."""

    def __init__(self):
        self.asked, self.reliable = [], False
        self.flushed = 0

    def ask(self, ticket, observation):
        self.asked.append(ticket)

    def _answer(self, ticket):
        bad = ticket == 5
        action = None if bad else np.array([ticket / 10], np.float32)
        return ticket, Label(action, "malformed" if bad else "ok", "", "v1", "", reliable=self.reliable)

    def due(self, decision):
        ready, self.asked = [t for t in self.asked if t <= decision - 2], [t for t in self.asked if t > decision - 2]
        return [self._answer(t) for t in ready]

    def drain(self):
        ready, self.asked = self.asked, []
        return [self._answer(t) for t in ready]

    def flush(self):
        self.flushed += 1


class RecordingReplay:
    def __init__(self):
        self.labels, self.reliable = {}, {}

    def label(self, transition, action, ok, version, age, reliable):
        self.labels[transition] = (round(float(action[0]), 2), ok, version, age)
        self.reliable[transition] = reliable


def _run(hold: str, reliable: bool = False):
    """Six decisions of one step each, a question every five, so at 0 and 5; transition ids are 100 + decision."""
    replay = RecordingReplay()
    pipeline = ScriptedPipeline()
    pipeline.reliable = reliable
    labels = HeldLabels(pipeline, replay, PriorConfig(period=5, hold=hold))
    observation = Observation(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 9), np.uint8), {})
    for decision in range(7):
        labels.collect(decision)
        labels.observe(decision, decision, observation, first=decision == 0, iteration=3)
        labels.attach(100 + decision, np.array([0.5], np.float32))
    labels.end_episode()
    labels.drain()
    return labels, replay


def test_an_answer_is_held_until_the_next_question_and_ages():
    labels, replay = _run("hold")
    assert replay.labels == {100 + n: (0.0, True, 3, n) for n in range(5)}  # 105 and 106: malformed, masked
    assert labels.counts == {"ok": 1, "malformed": 1}
    assert labels.pop_distance() == pytest.approx(0.5)  # |0.0 - 0.5|
    assert labels.pop_distance() is None
    assert [answered.decision for answered in labels.recent] == [0, 5]


def test_mask_labels_only_the_decision_that_asked():
    assert _run("mask")[1].labels == {100: (0.0, True, 3, 0)}


@pytest.mark.parametrize("reliable", [False, True])
def test_what_a_teacher_says_of_its_label_goes_with_it(reliable):
    assert _run("hold", reliable)[1].reliable == dict.fromkeys(range(100, 105), reliable)
