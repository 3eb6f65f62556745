from __future__ import annotations

import numpy as np
import pytest

from covr_jax.config import EnvConfig
from covr_jax.priors import teachers
from covr_jax.priors.source import GradedPrior
from covr_jax.types import Observation

FRAME = np.zeros((4, 4, 3), np.uint8)
CARTPOLE, REACHER = "dmc/cartpole/swingup", "dmc/reacher/easy"


def seen(**state: float) -> Observation:
    return Observation(FRAME, FRAME, state)


def pictures(count: int) -> list[Observation]:
    """Observations whose frames all differ."""
    return [seen()._replace(frame=np.array([[[n // 256, n % 256, 0]]], np.uint8)) for n in range(count)]


def mean_return(task: str, episodes: int = 5) -> float:
    """Mean return of teacher:oracle over whole episodes, at the environment's own action repeat."""
    pytest.importorskip("dm_control")
    from covr_jax.envs.dmc import DmcEnv

    env = DmcEnv(EnvConfig(name=task, render_size=16, render_quality="fast"), task.removeprefix("dmc/"))
    teacher = teachers.make("oracle", task, env.action_space.shape[0])
    returns = []
    for seed in range(episodes):
        frame, info = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            (label,) = teacher.predict([Observation(frame, frame, info["state"])])
            frame, reward, terminated, truncated, info = env.step(label.action)
            total += reward
            over = terminated or truncated
        returns.append(total)
    env.close()
    return float(np.mean(returns))


def test_the_cartpole_oracle_swings_up_and_balances():
    assert mean_return("dmc/cartpole/swingup") >= 700


def test_the_reacher_oracle_reaches():
    assert mean_return("dmc/reacher/easy") >= 950


def test_the_oracle_of_an_unknown_task_names_those_that_have_one():
    with pytest.raises(ValueError, match=r"dmc/cheetah/run.*dmc/cartpole/swingup, dmc/reacher/easy"):
        teachers.make("oracle", "dmc/cheetah/run", 6)
    with pytest.raises(ValueError, match=r"'wise'.*oracle, noisy, half, zeros, random"):
        teachers.make("wise", "dmc/cartpole/swingup", 1)


def test_a_saved_policy_takes_the_place_of_the_controller():
    stack = np.full((4, 4, 9), 51, np.uint8)
    teacher = teachers.make("oracle", "dmc/cheetah/run", 6, policy=lambda s: np.full(6, s.mean() / 255))
    (label,) = teacher.predict([Observation(FRAME, stack, {})])
    np.testing.assert_allclose(label.action, np.full(6, 0.2), rtol=1e-6)
    assert (label.status, label.version, label.text) == ("ok", "oracle", "")


@pytest.mark.parametrize("kind", teachers.KINDS)
def test_actions_are_float32_within_the_box(kind):
    teacher = teachers.make(kind, REACHER, 3, noise=5.0, policy=lambda stack: np.full(3, 4.0))
    for label in teacher.predict([seen(target_x=x) for x in (-0.1, 0.1)] * 25):
        assert label.action.dtype == np.float32 and label.action.shape == (3,)
        assert np.all(np.abs(label.action) <= 1)


def test_noise_has_the_configured_spread_around_the_oracle():
    teacher = teachers.make("noisy", "", 2, noise=0.1, policy=lambda stack: np.array([0.3, -0.2]))
    actions = np.array([label.action for label in teacher.predict(pictures(4000))])
    np.testing.assert_allclose(actions.mean(0), [0.3, -0.2], atol=0.01)  # 6 standard errors
    np.testing.assert_allclose(actions.std(0), 0.1, atol=0.008)  # 7 standard errors


@pytest.mark.parametrize("kind", ["noisy", "random"])
def test_random_teachers_depend_on_seed_and_observation_alone(kind):
    def actions(seed, order):
        teacher = teachers.make(kind, "", 2, seed=seed, policy=lambda stack: np.zeros(2))
        return [label.action.tolist() for label in teacher.predict(pictures(6)[order])]

    forwards = actions(1, slice(None))
    assert forwards == actions(1, slice(None, None, -1))[::-1]
    assert len({tuple(action) for action in forwards}) == 6
    assert forwards != actions(2, slice(None))


def test_zeros_and_random():
    np.testing.assert_array_equal(teachers.make("zeros", "", 2).predict([seen()])[0].action, [0, 0])
    actions = np.array([label.action for label in teachers.make("random", "", 2).predict(pictures(2000))])
    assert actions.min() < -0.99 and actions.max() > 0.99
    np.testing.assert_allclose(actions.std(), 1 / np.sqrt(3), atol=0.02)


def test_inverse_kinematics_brings_the_finger_to_the_target():
    for x, y in [(0.1, 0.1), (-0.2, 0.03), (0.0, -0.05)]:
        for elbow in (1.0, -1.0):
            shoulder, wrist = teachers.reacher_angles(x, y, elbow)
            finger = 0.12 * np.exp(1j * shoulder) + 0.12 * np.exp(1j * (shoulder + wrist))
            np.testing.assert_allclose([finger.real, finger.imag], [x, y], atol=1e-9)
            assert np.sign(wrist) == elbow


def test_lqr_solves_the_scalar_problem():
    # x' = x + u, cost x^2 + u^2: p = 1 + p/(1+p) gives the golden ratio, k = p/(1+p) = 1/golden ratio.
    one = np.ones((1, 1))
    np.testing.assert_allclose(teachers.lqr(one, one, one, one), [[2 / (1 + np.sqrt(5))]], rtol=1e-12)


def test_half_is_the_oracle_in_one_half_and_uniform_noise_in_the_other():
    policy = lambda stack: np.array([0.3])  # noqa: E731
    teacher = teachers.make("half", CARTPOLE, 1, policy=policy)
    left, right = ([each._replace(state={"hinge_1_position": lean}) for each in pictures(2000)] for lean in (-3.0, 2.9))
    assert isinstance(teacher, GradedPrior)
    labels = teacher.predict(right)
    assert all(label.reliable and label.action == np.float32(0.3) for label in labels)
    noise = teacher.predict(left)
    assert not any(label.reliable for label in noise)
    actions = np.array([label.action for label in noise])
    np.testing.assert_allclose([actions.mean(), actions.std()], [0, 1 / np.sqrt(3)], atol=0.04)  # 3 standard errors
    assert [label.action.tolist() for label in teacher.predict(left[::-1])] == actions[::-1].tolist()
    others = (teachers.make(kind, CARTPOLE, 1) for kind in ("oracle", "zeros", "random"))
    assert not any(isinstance(other, GradedPrior) for other in others)


def test_the_halves_are_mirror_images():
    for lean in (0.2, 1.5, 3.0):  # rad from upright, to the right
        for turns in (-2, 0, 1):
            at = lean + 2 * np.pi * turns
            assert teachers.pole_leans_right(seen(hinge_1_position=at))
            assert not teachers.pole_leans_right(seen(hinge_1_position=-at))
    assert teachers.target_is_right(seen(target_x=0.01)) and not teachers.target_is_right(seen(target_x=-0.01))
    assert teachers.heads_right(seen(heading_error=1.0)) and not teachers.heads_right(seen(heading_error=-1.0))


def test_a_task_without_halves_names_those_that_have_them():
    with pytest.raises(ValueError, match=r"dmc/cheetah/run.*dmc/cartpole/swingup, dmc/reacher/easy"):
        teachers.make("half", "dmc/cheetah/run", 6, policy=lambda stack: np.zeros(6))
