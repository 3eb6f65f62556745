"""Named teachers: priors that are not a VLM, for experiments that ask what a label of known quality is worth.

``teacher:oracle``  a saved policy or a hand-written controller
``teacher:noisy``   the oracle plus Gaussian noise
``teacher:half``    the oracle in one half of the task's states (HALVES), noise in the other; it says which
``teacher:zeros``   always the zero action (a valid label, as ERPv's "worst model" shows)
``teacher:random``  uniform
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np

from covr_jax.priors import driver
from covr_jax.types import Label, Observation

KINDS = ("oracle", "noisy", "half", "zeros", "random")

Controller = Callable[[Observation], np.ndarray]  # Observation -> float [A] in [-1, 1]
Policy = Callable[[np.ndarray], np.ndarray]  # stack uint8 [H, W, 3*S] -> float [A] in [-1, 1]


class Teacher:
    """A prior without a server. An answer is a pure function of the observation: asking for a video changes none."""

    def __init__(self, name: str, act: Controller):
        self.name = name
        self._act = act

    def predict(self, observations: Sequence[Observation]) -> list[Label]:
        labels = []
        for observation in observations:
            action = np.clip(np.asarray(self._act(observation), np.float32), -1.0, 1.0)
            labels.append(Label(action, "ok", "", self.name, ""))
        return labels

    def close(self) -> None:
        pass


class HalfTeacher:
    """Right in one half of the states, pure noise in the other; its labels tell which (a ``source.GradedPrior``).

    Args:
      right: acts in the reliable half.
      noise: acts elsewhere.
      reliable: whether an observation lies in the reliable half.
    """

    name = "half"

    def __init__(self, right: Controller, noise: Controller, reliable: Callable[[Observation], bool]):
        self._teachers = {True: Teacher(self.name, right), False: Teacher(self.name, noise)}
        self.reliable = reliable

    def predict(self, observations: Sequence[Observation]) -> list[Label]:
        labels = []
        for observation in observations:
            reliable = self.reliable(observation)
            labels += [
                label._replace(reliable=reliable) for label in self._teachers[reliable].predict([observation])
            ]
        return labels

    def close(self) -> None:
        pass


def make(
    kind: str, task: str, action_dim: int, seed: int = 0, noise: float = 0.5, policy: Policy | None = None
) -> Teacher | HalfTeacher:
    """The teacher called ``teacher:<kind>``.

    Args:
      kind: one of KINDS.
      task: environment name, e.g. "dmc/cartpole/swingup"; picks the oracle's controller, and the halves.
      action_dim: A.
      seed: of noisy, half and random.
      noise: standard deviation of noisy, action units.
      policy: a saved policy that oracle, noisy and half use in place of the task's controller.

    Raises:
      ValueError: unknown kind, an oracle without a policy for a task that has no controller, or no halves.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown teacher {kind!r}; there are {', '.join(KINDS)}")
    if kind == "zeros":
        return Teacher(kind, lambda observation: np.zeros(action_dim))

    def uniform(observation: Observation) -> np.ndarray:
        return _generator(seed, observation).uniform(-1, 1, action_dim)

    if kind == "random":
        return Teacher(kind, uniform)
    oracle = _oracle(task, policy)
    if kind == "oracle":
        return Teacher(kind, oracle)
    if kind == "half":
        if task not in HALVES:
            raise ValueError(f"{task!r} has no halves for teacher:half; those that have: {', '.join(sorted(HALVES))}")
        return HalfTeacher(oracle, uniform, HALVES[task])

    def noisy(observation: Observation) -> np.ndarray:
        return oracle(observation) + noise * _generator(seed, observation).standard_normal(action_dim)

    return Teacher(kind, noisy)


def _generator(seed: int, observation: Observation) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(observation.frame.tobytes())])


def _oracle(task: str, policy: Policy | None) -> Controller:
    if policy is not None:
        return lambda observation: policy(observation.stack)
    if task not in CONTROLLERS:
        raise ValueError(
            f"no hand-written controller for {task!r}; give prior.teacher_policy or take one of "
            f"{', '.join(sorted(CONTROLLERS))}"
        )
    return CONTROLLERS[task]


def lqr(a: np.ndarray, b: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Gain K [M, N] of the discrete, infinite-horizon linear-quadratic regulator: u = -K x minimises
    sum x'Qx + u'Ru under x' = Ax + Bu. Fixed-point iteration of the Riccati equation (float64)."""
    p = q
    for _ in range(2000):
        k = np.linalg.solve(r + b.T @ p @ b, b.T @ p @ a)
        p = q + a.T @ p @ (a - b @ k)
    return k


# Cart-pole: x to the right [m], theta from upright, positive to the right [rad]. The pole is a rod of length
# 1 m and mass 0.1 kg on a cart of 1 kg that is pushed with up to 10 N.
GRAVITY = 9.81  # m/s^2
CART_DT = 0.08  # s, 8 simulator frames a decision; the gains hold for shorter decisions too
CART_MASS, POLE_MASS, PUSH = 1.0, 0.1, 10.0


def _cartpole_balance_gain() -> np.ndarray:
    """K [1, 4] on (x, theta, x', theta') in m, rad, s; the input is an acceleration of the cart [m/s^2].

    About the upright pole of length 1 m: theta'' = 1.5 (g theta - x'').
    """
    flow = np.zeros((5, 5))  # the state and the held input, continuous time
    flow[0, 2] = flow[1, 3] = flow[2, 4] = 1.0
    flow[3, 1], flow[3, 4] = 1.5 * GRAVITY, -1.5
    step, term = np.eye(5), np.eye(5)
    for n in range(1, 20):  # matrix exponential, by its series
        term = term @ flow * (CART_DT / n)
        step = step + term
    return lqr(step[:4, :4], step[:4, 4:], np.diag([1.0, 10.0, 0.1, 0.1]), np.diag([0.05]))


BALANCE_GAIN = _cartpole_balance_gain()


def cartpole_swingup(observation: Observation) -> np.ndarray:
    """float64 [1]: pumps energy into the pole until it is near upright, then balances it by an LQR.

    The pole's energy over m g l/2, zero when it stands still upright, is e = w^2 / (3 g) + cos(theta) - 1 for
    l = 1 m; an acceleration k e w cos(theta) of the cart drives e to zero.
    """
    s = observation.state
    x, v, w = s["slider_position"], s["slider_velocity"], s["hinge_1_velocity"]
    theta = (s["hinge_1_position"] + np.pi) % (2 * np.pi) - np.pi
    energy = w * w / (3 * GRAVITY) + np.cos(theta) - 1
    if np.cos(theta) > 0.85 and abs(w + 2.0 * theta) < 4.0:
        acceleration = -float((BALANCE_GAIN @ np.array([x, theta, v, w]))[0])
    else:
        acceleration = 4.0 * energy * w * np.cos(theta) - 1.5 * x - 0.5 * v
    pole = 0.5 * POLE_MASS * (1.5 * np.cos(theta) * (GRAVITY * np.sin(theta) - acceleration * np.cos(theta)))
    return np.array([((CART_MASS + POLE_MASS) * acceleration + pole) / PUSH])


LINK = 0.12  # m, both links of the reacher


def reacher_angles(x: float, y: float, elbow: float) -> np.ndarray:
    """Inverse kinematics: float64 [2], shoulder and wrist angle [rad] that bring the finger to (x, y) [m];
    elbow is +1 or -1, the sign of the wrist angle."""
    wrist = elbow * np.arccos(np.clip((x * x + y * y) / (2 * LINK * LINK) - 1, -1.0, 1.0))
    return np.array([np.arctan2(y, x) - wrist / 2, wrist])  # equal links: the hand bends by half the wrist


def reacher(observation: Observation) -> np.ndarray:
    """float64 [2]: proportional control of both joints towards the nearer of the two arm poses at the target.
    The joints' own damping brakes."""
    s = observation.state
    joints = np.array([s["shoulder_position"], s["wrist_position"]])
    errors = []
    for elbow in (1.0, -1.0):
        error = reacher_angles(s["target_x"], s["target_y"], elbow) - joints
        error[0] = (error[0] + np.pi) % (2 * np.pi) - np.pi  # the shoulder turns freely, the wrist does not
        errors.append(error)
    return 0.6 * min(errors, key=lambda error: np.abs(error).max())


CONTROLLERS: dict[str, Controller] = {
    "dmc/cartpole/swingup": cartpole_swingup,
    "dmc/reacher/easy": reacher,
    "toy/highway": driver.highway,
    "toy/ghost_pedestrian": driver.ghost_pedestrian,
    "toy/jaywalk": driver.ghost_pedestrian,
}


def pole_leans_right(observation: Observation) -> bool:
    """Upright or hanging, the pole's free end is to the right of the cart.

    Gravity sees to it that both halves are visited all the time: a swinging pole crosses the vertical twice a period,
    and one that is balanced leans to both sides. Share of an episode's decisions spent here: 40 to 55 % under random
    actions, 43 to 62 % under four policies with returns of about 300, 43 to 55 % under the oracle. (The cart may stand
    on one side for most of an episode: 16 to 82 %.)
    """
    return bool(np.sin(observation.state["hinge_1_position"]) > 0)


def target_is_right(observation: Observation) -> bool:
    """The target lies to the right of the arm's shoulder: half of the episodes, whatever the policy does."""
    return observation.state["target_x"] > 0


def heads_right(observation: Observation) -> bool:
    """The car's nose points to the right of its lane's direction.

    Share of an episode's decisions spent here on the highway: 46 % under random actions, 47 % under the oracle, 44 %
    under ``teacher:half`` itself. (The side of the lane it is on: 49, 25 and 45 %.)
    """
    return observation.state["heading_error"] > 0


HALVES: dict[str, Callable[[Observation], bool]] = {
    "dmc/cartpole/swingup": pole_leans_right,
    "dmc/reacher/easy": target_is_right,
    "toy/highway": heads_right,
}
