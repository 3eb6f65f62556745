"""Any Gymnasium environment in pixels, and CarRacing."""

from __future__ import annotations

import builtins

import gymnasium
import numpy as np
import pytest

from covr_jax import envs
from covr_jax.config import EnvConfig


class Counting(gymnasium.Env):
    """Shows how often it was stepped, rewards the sum of its action, ends at 7; actions in [0, 4] x [-2, 2]."""

    def __init__(self, render_mode=None):
        self.action_space = gymnasium.spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32))
        self.observation_space = gymnasium.spaces.Box(0, 255, (4, 8, 3), np.uint8)
        self.actions = []

    def _picture(self):
        return np.full((4, 8, 3), 10 * len(self.actions), np.uint8)

    def reset(self, *, seed=None, options=None):
        self.actions = []
        return self._picture(), {"state": {"height": 0}}

    def step(self, action):
        self.actions.append(action.tolist())
        return self._picture(), float(action.sum()), len(self.actions) == 7, False, {"state": {"height": 2}}


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register("Counting-v0", entry_point=Counting, max_episode_steps=10)
    gymnasium.register("CountingEndless-v0", entry_point=Counting)
    yield
    for name in ("Counting-v0", "CountingEndless-v0"):
        del gymnasium.registry[name]


def make(name="gym/Counting-v0", size=4, **options):
    return envs.make(EnvConfig(name=name, render_size=size, **options))


def test_a_small_example():
    env = make(action_repeat=3)
    frame, info = env.reset(seed=0)
    assert frame.shape == (4, 4, 3) and frame.max() == 0 and info == {"state": {"height": 0.0}, "frames": 0}
    assert env.max_decisions == 4 and env.decision_rate == pytest.approx(10.0) and env.action_names[1] == "action_1"
    frame, reward, terminated, truncated, info = env.step(np.array([0.5, -0.25]))
    # [-1, 1] to [0, 4] and [-2, 2]: 3.0 and -0.5, three times.
    assert env._inner.unwrapped.actions == [[3.0, -0.5]] * 3 and reward == pytest.approx(7.5)
    assert (frame == 30).all() and not terminated and not truncated
    assert info == {"state": {"height": 2.0}, "frames": 3}
    env.step(np.array([9.0, 0.0]))
    assert env._inner.unwrapped.actions[-1] == [4.0, 0.0]
    *_, terminated, truncated, info = env.step(np.zeros(2))
    assert terminated and not truncated and info["frames"] == 1
    with pytest.raises(ValueError, match="reset"):
        env.step(np.zeros(2))


def test_rendered_pictures_and_a_time_limit():
    env = make("gym/Pendulum-v1", size=32, action_repeat=50)
    frame, _ = env.reset(seed=1)
    assert frame.shape == (32, 32, 3) and frame.std() > 5
    steps = [env.step(np.array([0.3])) for _ in range(env.max_decisions)]
    assert [step[3] for step in steps] == [False] * 3 + [True] and not any(step[2] for step in steps)
    again, _ = env.reset(seed=1)
    assert (again == frame).all() and (steps[0][0] != frame).any()
    env.close()


@pytest.mark.parametrize(("name", "message"), [
    ("gym/Pendulam-v1", "gym/Pendulam-v1: .*Pendulum"),
    ("gym/no_such_package:Env-v0", "no_such_package"),
    ("gym/CartPole-v1", "must be a bounded box"),
    ("gym/CountingEndless-v0", "no time limit"),
    ("gym/", "allowed: dmc/.*gym/<id>"),
    ("car_racing/three_pedals", "allowed: car_racing, car_racing/two_pedals, car_racing/one_pedal"),
])  # fmt: skip
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message) as error:
        make(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", [np.zeros(1), np.array([np.nan, 0.0])])
def test_bad_actions(action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action must be 2 finite numbers"):
        env.step(action)


def test_car_racing():
    env = make("car_racing", size=84)
    assert (env.action_names, env.action_repeat, env.max_decisions) == (("steer", "gas", "brake"), 4, 250)
    assert env.decision_rate == pytest.approx(12.5)
    np.testing.assert_allclose(env.native(np.array([-0.5, 0.0, -1.0])), [-0.5, 0.5, 0.0])
    first, info = env.reset(seed=3)
    assert first.shape == (84, 84, 3) and info["state"]["speed"] < 0.1
    for _ in range(20):
        _, _, _, _, info = env.step(np.array([0.0, 1.0, -1.0]))
    assert info["state"]["speed"] > 5 and info["frames"] == 4
    for _ in range(3):
        _, _, _, _, right = env.step(np.array([1.0, -1.0, -1.0]))
    assert right["state"]["steering"] < -0.1
    env.close()


def test_car_racing_with_one_pedal_and_its_rewards():
    env = make("car_racing/one_pedal", size=84)
    assert env.action_names == ("steer", "throttle") and env.action_space.shape == (2,)
    np.testing.assert_allclose(env.native(np.array([0.2, 0.7])), [0.2, 0.7, 0.0])
    np.testing.assert_allclose(env.native(np.array([0.2, -0.7])), [0.2, 0.0, 0.7])
    # Standing still costs 0.1 a frame from the first tiles on.
    env.reset(seed=0)
    rewards = [env.step(np.zeros(2))[1] for _ in range(5)]
    assert rewards[1:] == pytest.approx([-0.4] * 4)
    env.close()


def test_without_box2d_one_line_says_what_to_install(monkeypatch):
    found = builtins.__import__

    def absent(name, *rest, **options):
        if name == "Box2D":
            raise ImportError(name)
        return found(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ValueError, match=r'car_racing needs Box2D: pip install "gymnasium\[box2d\]"'):
        make("car_racing")
