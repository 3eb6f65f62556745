"""Ledger rows held here (docs/fidelity.md): S17, S18."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("dm_control")

from covr_jax import envs
from covr_jax.config import EnvConfig

# action dimensions, action repeat, camera, decisions per episode, length of a decision in seconds
TABLE = {
    "dmc/cartpole/swingup": (1, 8, 0, 125, 0.08),
    "dmc/reacher/easy": (2, 4, 0, 250, 0.08),
    "dmc/cheetah/run": (6, 4, 0, 250, 0.04),
    "dmc/walker/walk": (6, 2, 0, 500, 0.05),
    "dmc/finger/spin": (2, 2, 0, 500, 0.04),
    "dmc/ball_in_cup/catch": (2, 4, 0, 250, 0.08),
    "dmc/hopper/hop": (4, 2, 0, 500, 0.04),
    "dmc/walker/run": (6, 2, 0, 500, 0.05),
    "dmc/pendulum/swingup": (1, 2, 0, 500, 0.04),
    "dmc/quadruped/walk": (12, 2, 2, 500, 0.04),
    "dmc/quadruped/run": (12, 2, 2, 500, 0.04),
}
CARTPOLE = "dmc/cartpole/swingup"


@pytest.fixture
def make():
    made = []

    def one(name: str = CARTPOLE, render_size: int = 32, render_quality: str = "fast", **options):
        made.append(envs.make(EnvConfig(name, render_size, render_quality=render_quality, **options)))
        return made[-1]

    yield one
    for env in made:
        env.close()


def episode(env, seed: int | None, decisions: int = 6):
    """First frame, last frame and rewards under a fixed sequence of actions."""
    actions = np.random.default_rng(0).uniform(-1, 1, (decisions, *env.action_space.shape))
    first, info = env.reset(seed=seed)
    steps = [env.step(action) for action in actions]
    states = [info["state"], *(step[4]["state"] for step in steps)]
    return first, steps[-1][0], [step[1] for step in steps], states


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a[:2], b[:2], strict=True)) and a[2:] == b[2:]


@pytest.mark.parametrize("name", TABLE)
def test_every_task(make, name):
    dimensions, repeat, camera, decisions, seconds = TABLE[name]
    env = make(name)
    assert env.action_space.shape == (dimensions,) and len(set(env.action_names)) == dimensions
    assert (env.action_repeat, env.max_decisions) == (repeat, decisions)
    assert env.decision_rate == pytest.approx(1 / seconds)
    frame, info = env.reset(seed=1)
    assert frame.shape == (32, 32, 3) and frame.dtype == np.uint8 and frame.std() > 5
    state = info["state"]
    assert all(type(value) is float and math.isfinite(value) for value in state.values())
    np.testing.assert_array_equal(frame, make(name, camera=camera).reset(seed=1)[0])
    joints = {key.rsplit("_", 1)[0] for key in state if key.endswith("_position")}
    assert joints and all(f"{joint}_velocity" in state for joint in joints)
    _, reward, terminated, truncated, info = env.step(np.zeros(dimensions))
    assert type(reward) is float and 0 <= reward <= repeat
    assert not terminated and not truncated and info["frames"] == repeat
    assert info["state"].keys() == state.keys()
    # An episode is a function of its seed, whatever came before it.
    one = episode(env, 3)
    other = episode(env, 4)
    unseeded = episode(env, None)
    assert same(one, episode(env, 3)) and not same(one, other) and not same(other, unseeded)
    if name in ("dmc/reacher/easy", "dmc/quadruped/walk"):
        assert same(one, episode(make(name), 3))


def test_it_is_the_suites_own_episode(make):
    """Rewards and frames against dm_control driven by hand."""
    env = make("dmc/reacher/easy", render_size=48, render_quality="default")
    frame, _ = env.reset(seed=7)
    from dm_control import suite

    reference = suite.load("reacher", "easy", task_kwargs={"random": 7})
    reference.reset()
    np.testing.assert_array_equal(frame, reference.physics.render(48, 48, camera_id=0))
    for action in np.random.default_rng(1).uniform(-1, 1, (5, 2)):
        total = sum(reference.step(action).reward for _ in range(4))
        frame, reward, *_ = env.step(action)
        assert reward == pytest.approx(total)
    np.testing.assert_array_equal(frame, reference.physics.render(48, 48, camera_id=0))
    reference.physics.free()


def test_cut_off_after_1000_simulator_frames(make):
    for repeat, lengths in ((8, [8] * 125), (300, [300, 300, 300, 100])):
        env = make(render_size=8, action_repeat=repeat)
        env.reset(seed=0)
        steps = [env.step(np.zeros(1)) for _ in lengths]
        assert [step[4]["frames"] for step in steps] == lengths and len(lengths) == env.max_decisions
        assert [step[3] for step in steps] == [False] * (len(lengths) - 1) + [True]
        assert not any(step[2] for step in steps)
        with pytest.raises(ValueError, match="reset"):
            env.step(np.zeros(1))
        env.reset(seed=0)
        env.step(np.zeros(1))


def test_actions_are_rescaled_to_the_tasks_range(make):
    """The quadruped's lift and extend have ranges of their own: [-1, 1.1] and [-0.8, 0.8]."""
    env = make("dmc/quadruped/walk")
    env.reset(seed=0)
    high, low = [1.0, 1.1, 0.8], [-1.0, -1.0, -0.8]
    for action, native in ((1.0, high), (-1.0, low), (0.0, [0.0, 0.05, 0.0]), (9.0, high)):
        env.step(np.full(12, action))
        np.testing.assert_allclose(env._env.physics.control()[:3], native, atol=1e-12)


def test_pushing_right_moves_the_cart_right(make):
    env = make()
    _, info = env.reset(seed=0)
    assert set(info["state"]) == {f"{j}_{q}" for j in ("slider", "hinge_1") for q in ("position", "velocity")}
    before = info["state"]["slider_position"]
    *_, info = env.step(np.array([1.0]))
    assert info["state"]["slider_position"] > before and info["state"]["slider_velocity"] > 0


def test_the_reacher_tells_its_target_and_the_quadruped_its_body(make):
    env = make("dmc/reacher/easy")
    targets = [env.reset(seed=seed)[1]["state"] for seed in (1, 2)]
    assert targets[0]["target_x"] != targets[1]["target_x"]
    assert math.hypot(targets[0]["target_x"], targets[0]["target_y"]) <= 0.21
    state = make("dmc/quadruped/walk").reset(seed=1)[1]["state"]
    assert len([key for key in state if key.startswith("root_")]) == 13
    assert math.hypot(*(state[f"root_orientation_{part}"] for part in "wxyz")) == pytest.approx(1)


def test_camera_and_quality_change_the_picture(make):
    seen = [
        make(**options).reset(seed=0)[0]
        for options in ({}, {"render_quality": "default"}, {"camera": 1}, {"camera": -1})
    ]
    assert all((a != b).any() for i, a in enumerate(seen) for b in seen[:i])
    assert make(render_size=640).reset(seed=0)[0].shape == (640, 640, 3)  # more than the model's 480 lines


def test_a_frame_does_not_change_later(make):
    env = make()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    for _ in range(10):
        last, *_ = env.step(np.ones(1))
    assert (first == kept).all() and (first != last).any()


@pytest.mark.parametrize(
    "action", [np.zeros(2), np.zeros(()), np.array([np.nan]), np.array([np.inf]), np.zeros((1, 1))]
)
def test_bad_actions(make, action):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="an action must be 1 finite numbers, got") as error:
        env.step(action)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dmc/cartpole/swingop"}, "did you mean dmc/cartpole/swingup.*dmc/quadruped/run"),
        ({"name": "dmc/humanoid/stand"}, "unknown environment dmc/humanoid/stand; .*allowed: dmc/cartpole/"),
        ({"name": "dmc/walker"}, "unknown environment dmc/walker"),
        ({"name": "CartPole-v1"}, "unknown environment 'CartPole-v1'; allowed: dmc/.*toy/"),
        ({"camera": 9}, "camera_id=9 is invalid"),
        ({"render_quality": "best"}, "one of default, fast, got 'best'"),
    ],
)
def test_bad_configurations(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_close_frees_the_gl_context_and_the_exit_is_silent():
    code = (
        "import numpy as np\nfrom covr_jax import envs\nfrom covr_jax.config import EnvConfig\n"
        "env = envs.make(EnvConfig(render_size=16, render_quality='fast'))\n"
        "env.reset(seed=0); env.step(np.zeros(1))\n"
        "assert env._env.physics._contexts\nenv.close(); env.close()\nassert not env._env.physics._contexts\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
