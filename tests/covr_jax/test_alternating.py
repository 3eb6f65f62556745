"""Who acts when, in the data that the value critic is fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from covr_jax.alternating import AlternatingExploration
from covr_jax.types import Observation

SEEN = Observation(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 9), np.uint8), {})
POLICY, PRIOR = np.float32([-1.0]), np.float32([1.0])


def explore(source, steps=8):
    drivers = []

    def driver():
        drivers.append(0)
        return lambda observations: np.stack([PRIOR] * len(observations))

    return AlternatingExploration(source, lambda observation: POLICY, driver, steps), drivers


def episode(explorer, seed, decisions=125):
    explorer.begin(np.random.default_rng(seed))
    announced, acted = [], []
    for _ in range(decisions):
        announced.append(explorer.prior_acts())
        acted.append(bool(explorer(SEEN)[0] > 0))
    assert announced == acted
    return np.array(acted)


@pytest.mark.parametrize(("source", "who"), [("vlm", True), ("rl", False)])
def test_one_of_them_alone(source, who):
    assert np.all(episode(explore(source)[0], 0) == who)


def test_phases_have_one_length_per_episode_and_change_hands():
    explorer, drivers = explore("rae", steps=8)
    lengths, first = set(), set()
    for seed in range(200):
        before = len(drivers)
        acted = episode(explorer, seed)
        turns = np.flatnonzero(np.diff(acted)) + 1
        assert len(turns)
        # In steps, a change falls on the first decision at or after a multiple of T.
        phase = next(t for t in range(50, 401) if [-(-t * k // 8) for k in range(1, len(turns) + 1)] == turns.tolist())
        lengths.add(phase // 50)
        first.add(bool(acted[0]))
        assert len(drivers) - before == acted[0] + np.sum(np.diff(acted.astype(int)) == 1)  # asked anew each time
    assert lengths >= set(range(1, 8)) and first == {True, False}


def test_an_episode_is_a_function_of_its_generator():
    np.testing.assert_array_equal(episode(explore("rae")[0], 3), episode(explore("rae")[0], 3))


def test_unknown_source():
    with pytest.raises(ValueError, match="allowed: rae, vlm, rl"):
        explore("both")
