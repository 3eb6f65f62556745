"""What a model is asked in each environment, and how its words become an action.

A task holds the prompt, the grammar of the reply and the names of the action's dimensions. Actions are in the
environment's order everywhere in this package; only the text of a reply may name them in another order, and
``parse`` maps by name. Neither paper prints its DMControl prompts; the CARLA ones say what ERPv, Figs. 12 and
13, say, in our words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_REPLY_CHARS = 4096  # longer texts are malformed unread
DESCRIPTION_TOKENS = 256  # room for the free text of a reply that may describe the picture first

_NUMBER = r"[+-]?(?:[0-9]{1,32}+(?:\.[0-9]{0,32}+)?|\.[0-9]{1,32}+)"
_PAIR = re.compile(rf"\s*+(\w++)\s*+:\s*+({_NUMBER})(?!\S)", re.ASCII)
_DESCRIBE = re.compile(r"\s*+describe\s*+:", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Action:
    """One dimension of an action: its name, its closed range, and what a positive value does, in words."""

    name: str
    sign: str
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Number:
    """A field of a reply template: an optionally negative number in [-1, 1] with this many decimals."""

    decimals: int = 2


@dataclass(frozen=True)
class Task:
    """One environment as a model sees it."""

    name: str
    goal: str
    view: str
    actions: tuple[Action, ...]
    reply_order: tuple[int, ...] = ()  # dimensions in the order that a reply names them; (): the action's own
    separator: str = " "  # between the dimensions of a reply
    advice: str = ""
    state: tuple[tuple[str, str], ...] = ()  # name -> sentence with one {} for the value
    describes: bool = False  # a reply may begin with "Describe: <free text>"

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the scalars that the prompt may mention."""
        return tuple(name for name, _ in self.state)

    @property
    def max_reply_tokens(self) -> int:
        """Tokens that any reply of ``format`` fits in, with its end token: at worst one a byte."""
        longest = self.format([min(a.low, -a.high) for a in self.actions])
        return len(longest.encode()) + 1 + DESCRIPTION_TOKENS * self.describes

    def prompt(self, state: Mapping[str, float] | None = None, style: str = "full") -> str:
        """The question that goes with a picture.

        Args:
            state: scalars by name, from ``state_names``; those absent are not mentioned.
            style: "full" tells goal, view, every dimension and the reply's grammar; "short" names the
                dimensions only, for models too small to read more.

        Raises:
            ValueError: unknown style, or a state name that the task does not know.
        """
        state = self._checked(state or {})
        if style == "short":
            names = " ".join(a.name for a in self._replied())
            return f"Look at the image. Answer with numbers: {names} "
        if style != "full":
            raise ValueError(f"style must be full or short, not {style!r}")
        count = len(self.actions)
        lines = [f"{self.view} Goal: {self.goal}"]
        if self.advice:
            lines.append(self.advice)
        lines += [sentence.format(f"{state[name]:.2f}") for name, sentence in self.state if name in state]
        lines.append(
            "Choose the action for this moment. It is one number:"
            if count == 1
            else f"Choose the action for this moment. It has {count} numbers, in this order:"
        )
        for number, a in enumerate(self._replied(), 1):
            lines.append(f"{number}. {a.name}, from {a.low:.2f} to {a.high:.2f}: {a.sign}")
        form = self.separator.join(f"{a.name}: <number>" for a in self._replied())
        if self.describes:
            lines.append("Describe the picture in one or two sentences, then give the numbers, in this form:")
            lines.append("Describe: <text>\n" + form)
        else:
            lines.append("Reply in exactly this form, with nothing before or after it:")
            lines.append(form)
        lines.append("Write every number as a plain decimal with two digits after the point.")
        return "\n".join(lines) + "\n"

    def format(self, action: Sequence[float]) -> str:
        """The reply that ``parse`` reads as ``action``, to two decimals.

        Args:
            action: [A] floats in the environment's order, finite and within their ranges.

        Raises:
            ValueError: wrong length, or a value that is not finite or out of its range.
        """
        if len(action) != len(self.actions):
            raise ValueError(f"{self.name} has {len(self.actions)} action dimensions, not {len(action)}")
        for a, value in zip(self.actions, action, strict=True):
            if not a.low <= value <= a.high:
                raise ValueError(f"{self.name}: {a.name} must be in [{a.low:g}, {a.high:g}], not {value:g}")
        return self.separator.join(
            f"{self.actions[i].name}: {_two_decimals(action[i])}" for i in self._reply_indices()
        )

    def parse(self, text: str) -> tuple[tuple[float, ...] | None, str]:
        """Reads a reply. Never raises, whatever the text; time is linear in its length.

        Every dimension must be named exactly once, in any order and letter case, with a finite decimal
        number; nothing else may stand beside them, but "Describe: ..." before them where the task allows it.

        Args:
            text: the model's raw reply.

        Returns:
            ([A] floats in the environment's order, "ok"), the same with values clipped to their ranges and
            "clipped", or (None, "malformed").
        """
        start = 0 if len(text) <= MAX_REPLY_CHARS else None
        if start is not None and self.describes and _DESCRIBE.match(text):
            start = self._answer_start(text)
        if start is None:
            return None, "malformed"
        values: dict[str, float] = {}
        end = len(text.rstrip(" \t\r\n\v\f"))
        while start < end:
            pair = _PAIR.match(text, start)
            if pair is None:
                return None, "malformed"
            name = pair[1].lower()
            if name in values:
                return None, "malformed"
            values[name] = float(pair[2])
            start = pair.end()
        if len(values) != len(self.actions) or any(a.name not in values for a in self.actions):
            return None, "malformed"
        given = [values[a.name] for a in self.actions]
        # + 0.0 turns "-0.00" into a plain zero.
        action = tuple(min(max(v, a.low), a.high) + 0.0 for v, a in zip(given, self.actions, strict=True))
        return action, "ok" if all(v == g for v, g in zip(action, given, strict=True)) else "clipped"

    def template(self) -> tuple[str | Number, ...]:
        """Fields of a reply in the form that ``format`` writes: literal texts and numbers in turn."""
        fields: list[str | Number] = []
        for position, action in enumerate(self._replied()):
            fields += [(self.separator if position else "") + f"{action.name}: ", Number()]
        return tuple(fields)

    def _reply_indices(self) -> tuple[int, ...]:
        return self.reply_order or tuple(range(len(self.actions)))

    def _replied(self) -> list[Action]:
        return [self.actions[i] for i in self._reply_indices()]

    def _checked(self, state: Mapping[str, float]) -> Mapping[str, float]:
        for name in state:
            if name not in self.state_names:
                allowed = ", ".join(self.state_names) or "none"
                raise ValueError(f"{self.name} knows no state {name[:40]!r}; it knows: {allowed}")
        return state

    def _answer_start(self, text: str) -> int | None:
        """Where the numbers begin after a description; None if it names a dimension, or none follows."""
        names = "|".join(re.escape(a.name) for a in self.actions)
        found = list(re.finditer(rf"(?<!\w)({names})\s*+:", text, re.ASCII | re.IGNORECASE))
        return found[0].start() if len(found) == len(self.actions) else None


def _two_decimals(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def get(name: str) -> Task:
    """The task of this name, e.g. "dmc/cartpole/swingup".

    Raises:
        ValueError: unknown name; the message suggests the nearest one.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name[:100], TASKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(TASKS)
    raise ValueError(f"unknown task {name[:100]!r}; {hint}")


def _joints(sign: str, *names: str) -> tuple[Action, ...]:
    return tuple(Action(name, sign) for name in names)


_SIDE_VIEW = "The picture shows {}, seen from the side."
_CCW = "positive turns it counter-clockwise in the picture, negative clockwise; 1 is full strength."
_CW = "positive turns it clockwise in the picture, negative counter-clockwise; 1 is full strength."

_WALKER = _joints(_CCW, "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle")
_WALKER_VIEW = _SIDE_VIEW.format("a two-legged walker")
_LEG = {
    "yaw": "positive swings the {} leg counter-clockwise about its vertical axis, negative clockwise.",
    "lift": "positive lifts the {} leg, negative lowers it.",
    "extend": "positive stretches the {} leg, negative pulls it in.",
}
_QUADRUPED = tuple(
    Action(f"{motion}_{leg}", sign.format(leg.replace("_", " ")))
    for leg in ("front_left", "front_right", "back_right", "back_left")
    for motion, sign in _LEG.items()
)
_QUADRUPED_VIEW = "The picture shows a four-legged robot on flat ground."
_DRIVING = (
    Action("steer", "positive steers right, negative steers left, 0 goes straight."),
    Action("throttle", "above 0 accelerates, the more the larger; 0 or less slows down, -1 is full brake."),
)
_DRIVING_STATE = (("speed", "Your speed now is {} m/s."), ("yaw", "Your heading (yaw) now is {} degrees."))
_DRIVING_VIEW = "You drive a car in a simulator. The picture is the view of its front camera."


def _driving(name: str, goal: str, advice: str) -> list[Task]:
    """The scene in CARLA and in the toy world, which are asked about in the same words."""
    # The papers' replies name throttle first; the environment's action is [steer, throttle].
    return [
        Task(f"{world}/{name}", goal, _DRIVING_VIEW, _DRIVING, (1, 0), "\n", advice, _DRIVING_STATE, describes=True)
        for world in ("carla", "toy")
    ]


_GHOST_PEDESTRIAN = (
    "drive on quickly in your lane, but never hit a pedestrian; some step out suddenly from cover.",
    "Look for pedestrians who cross or may be about to: if one is near, change the action so that you do "
    "not hit them. If you see none, or they are far away, throttle 1 is right. If the car drifts from "
    "its lane, steer it back.",
)


_RACING_VIEW = (
    "You drive a red racing car round a grey track on green grass. The picture shows it from above, the car near the "
    "bottom and heading up; a black bar at the lower edge shows its instruments."
)
_RACING_GOAL = "drive round the track as fast as you can without leaving the grey asphalt."
_RACING_STATE = (("speed", "Your speed now is {} m/s."),)
_STEER = _DRIVING[0]

_ALL = (
    Task(
        "dmc/cartpole/swingup",
        "swing the pole up, then keep it upright and the cart near the middle of the rail.",
        _SIDE_VIEW.format("a cart on a rail with a pole hinged to it"),
        (Action("slide", "positive pushes the cart to the right, negative to the left; 1 is full force."),),
    ),
    Task(
        "dmc/reacher/easy",
        "bring the tip of the arm into the target ball and keep it there.",
        "The picture shows a flat two-link arm and a target ball, seen from above.",
        _joints(_CCW, "shoulder", "wrist"),
    ),
    Task(
        "dmc/cheetah/run",
        "run to the right as fast as possible, 10 m/s or more, without falling over.",
        _SIDE_VIEW.format("a running robot with a back leg (names with b) and a front leg (names with f)"),
        _joints(_CW, "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    ),
    Task("dmc/walker/walk", "stand upright and walk to the right at 1 m/s.", _WALKER_VIEW, _WALKER),
    Task("dmc/walker/run", "stand upright and run to the right at 8 m/s.", _WALKER_VIEW, _WALKER),
    Task(
        "dmc/finger/spin",
        "flick the hinged body with the finger so that it keeps spinning fast.",
        _SIDE_VIEW.format("a two-link finger above a body that turns on a hinge"),
        _joints(_CCW, "proximal", "distal"),
    ),
    Task(
        "dmc/ball_in_cup/catch",
        "swing the ball into the cup and keep it there.",
        _SIDE_VIEW.format("a cup that can move and a ball that hangs from it on a string"),
        (
            Action("x", "positive pulls the cup to the right, negative to the left."),
            Action("z", "positive pulls the cup up, negative down."),
        ),
    ),
    Task(
        "dmc/hopper/hop",
        "stay upright and hop to the right at 2 m/s or more.",
        _SIDE_VIEW.format("a one-legged hopper"),
        _joints(_CW, "waist", "hip", "knee", "ankle"),
    ),
    Task(
        "dmc/pendulum/swingup",
        "swing the pendulum up and keep it upright; the motor is too weak to lift it without swinging.",
        _SIDE_VIEW.format("a pendulum on a motor"),
        _joints(_CW, "torque"),
    ),
    Task("dmc/quadruped/walk", "stay upright and walk forward at 0.5 m/s.", _QUADRUPED_VIEW, _QUADRUPED),
    Task("dmc/quadruped/run", "stay upright and run forward at 5 m/s.", _QUADRUPED_VIEW, _QUADRUPED),
    Task(
        "car_racing",
        _RACING_GOAL,
        _RACING_VIEW,
        (
            _STEER,
            Action("gas", "1 is full gas, 0 is half, -1 is none."),
            Action("brake", "-1 does not brake, 0 brakes by half, 1 is full brake."),
        ),
        state=_RACING_STATE,
    ),
    Task("car_racing/one_pedal", _RACING_GOAL, _RACING_VIEW, _DRIVING, (1, 0), "\n", state=_RACING_STATE),
    *_driving(
        "highway",
        "drive fast along the highway, keep to your lane as far as you can, and hit nothing.",
        "Look for anything that you could soon hit: if there is, slow down with a throttle below 0; if there "
        "is none, throttle 1 is right. Look whether the road bends: if it does, steer along it.",
    ),
    *_driving("ghost_pedestrian", *_GHOST_PEDESTRIAN),
    *_driving("jaywalk", *_GHOST_PEDESTRIAN),  # ERPv's name for it
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}
