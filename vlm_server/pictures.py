"""Procedural pictures with known numbers: what the tiny model is pre-trained on.

A picture is a ground with a few shapes, or a bar on a hub, or a two-link arm with a dot. A question names
the numbers it wants, and the answer gives each of them: position in [-1, 1] (x to the right, y up; +-1 is
36 pixels from the centre) or direction (sine and cosine of the angle from straight up, positive to the
right). Nothing is rendered by an environment that the learner is tested on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 84  # pixels, square
REACH = 36.0  # pixels from the centre to position 1
COLORS = {
    "red": (205, 60, 50),
    "green": (60, 175, 70),
    "blue": (60, 90, 205),
    "yellow": (220, 200, 60),
    "white": (225, 225, 225),
    "purple": (150, 70, 180),
}
# Names that tasks give to their actions (a copy, because they decide the weights). In a drawn picture they
# stand for place or direction, so that the words and the reply's form are learned; what they mean in a task
# is left to fine-tuning.
ACTION_NAMES = (
    ("slide",),
    ("shoulder", "wrist"),
    ("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    ("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    ("proximal", "distal"),
    ("x", "z"),
    ("waist", "hip", "knee", "ankle"),
    ("torque",),
    ("throttle", "steer"),
    ("steer", "gas", "brake"),
    tuple(
        f"{motion}_{leg}"
        for leg in ("front_left", "front_right", "back_right", "back_left")
        for motion in ("yaw", "lift", "extend")
    ),
)
LINES = ("throttle", "steer")  # this task's reply has a line for each number
# What there is to see. Every picture has some of these numbers, whatever it is asked for.
FACTS = (
    *("x", "y", "sin", "cos", "dot_x", "dot_y", "tip_x", "tip_y", "turn"),
    *(f"{color}_{axis}" for color in COLORS for axis in "xy"),
)

_RGB = np.array(list(COLORS.values()), np.float32)
_NAMES = tuple(COLORS)
_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


@dataclass(frozen=True)
class Pictures:
    """N pictures, what is asked of each, and what is right.

    ``frames`` uint8 [N,84,84,3]; ``names`` N tuples of K names; ``values`` float32 [N,K] in [-1,1]; ``facts``
    float32 [N,F], every number of ``FACTS`` that the picture shows, NaN for the others.
    """

    frames: np.ndarray
    names: tuple[tuple[str, ...], ...]
    values: np.ndarray
    facts: np.ndarray

    @property
    def questions(self) -> list[str]:
        return [question(names) for names in self.names]

    @property
    def answers(self) -> list[str]:
        return [answer(n, v) for n, v in zip(self.names, self.values, strict=True)]


def question(names: Sequence[str]) -> str:
    """The short prompt of a task whose reply names these numbers."""
    return "Look at the image. Answer with numbers: " + " ".join(names) + " "


def answer(names: Sequence[str], values: Sequence[float]) -> str:
    """``"x: 0.50 y: -0.25"``: two decimals, never ``-0.00``."""
    pairs = (f"{n}: {float(v):.2f}" for n, v in zip(names, values, strict=True))
    return ("\n" if tuple(names) == LINES else " ").join(pairs).replace("-0.00", "0.00")


def _facts(n: int, **known: np.ndarray) -> np.ndarray:
    facts = np.full((n, len(FACTS)), np.nan, np.float32)
    for name, values in known.items():
        facts[:, FACTS.index(name)] = values
    return facts


def _place_facts(facts: np.ndarray, color: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Writes the place of the shape of each picture's ``color`` (an index) into ``facts``."""
    rows, first = np.arange(len(facts)), FACTS.index(f"{_NAMES[0]}_x")
    facts[rows, first + 2 * color] = x
    facts[rows, first + 2 * color + 1] = y


def _pixel(x: np.ndarray) -> np.ndarray:
    return (SIZE - 1) / 2 + REACH * x


def _ground(rng: np.random.Generator, n: int, plain: bool) -> np.ndarray:
    """float32 [n,84,84,3]: one colour, or (not ``plain``) also checkers, a vertical gradient or a horizon."""
    first, second = rng.uniform(15, 150, (2, n, 3)).astype(np.float32)
    kind = rng.integers(0, 4, n) * (not plain)
    period, shift, level = rng.integers(8, 30, n), rng.uniform(0, 60, (2, n)), rng.uniform(35, 80, n)
    frames = np.broadcast_to(first[:, None, None], (n, SIZE, SIZE, 3)).copy()
    for i in np.nonzero(kind)[0]:
        if kind[i] == 1:
            mix = ((_X + shift[0, i]) // period[i] + (_Y + shift[1, i]) // period[i]) % 2
        elif kind[i] == 2:
            mix = _Y / SIZE
        else:
            mix = (_Y > level[i]).astype(np.float32)
        frames[i] += mix[..., None].astype(np.float32) * (second[i] - first[i])
    return frames


def _paint(frames: np.ndarray, mask: np.ndarray, color: np.ndarray) -> None:
    frames += mask[..., None] * (color[:, None, None] - frames)


def _shape(
    kind: np.ndarray, x: np.ndarray, y: np.ndarray, half: np.ndarray, flat: np.ndarray | float = 1.0
) -> np.ndarray:
    """float32 mask [n,84,84]; kind 0 square, 1 disc, 2 triangle; ``half`` half its width in pixels, ``flat``
    its height over its width.
    """
    dx, dy = np.abs(_X - _pixel(x)[:, None, None]), _Y - _pixel(-y)[:, None, None]
    half, kind = half[:, None, None], kind[:, None, None]
    dy = dy / np.asarray(flat, np.float32).reshape(-1, 1, 1)
    square, disc = np.maximum(dx, np.abs(dy)) <= half, dx**2 + dy**2 <= half**2
    triangle = (np.abs(dy) <= half) & (dx <= (dy + half) / 2)
    return np.where(kind == 0, square, np.where(kind == 1, disc, triangle)).astype(np.float32)


def _bar(
    x: np.ndarray, y: np.ndarray, sin: np.ndarray, cos: np.ndarray, length: np.ndarray, width: np.ndarray
) -> np.ndarray:
    """float32 mask [n,84,84] bar from (x, y) along (sin, cos); ``length`` and half ``width`` in pixels."""
    dx, dy = _X - _pixel(x)[:, None, None], _pixel(-y)[:, None, None] - _Y
    sin, cos, length, width = (v[:, None, None] for v in (sin, cos, length, width))
    along, across = dx * sin + dy * cos, dx * cos - dy * sin
    return ((along >= 0) & (along <= length) & (np.abs(across) <= width)).astype(np.float32)


def _draw(rng: np.random.Generator, low: float, high: float, *shape: int) -> np.ndarray:
    return rng.uniform(low, high, shape).astype(np.float32)


def _finish(rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
    frames += 4 * rng.standard_normal(frames.shape, np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _ask(
    rng: np.random.Generator,
    frames: np.ndarray,
    facts: np.ndarray,
    sets: Sequence[tuple[str, ...]],
    **more: np.ndarray,
) -> Pictures:
    """One of ``sets`` is asked of the whole batch: replies are equally long. ``more`` adds to the facts."""
    names = sets[rng.integers(len(sets))]
    values = np.stack([more[k] if k in more else facts[:, FACTS.index(k)] for k in names], 1)
    return Pictures(_finish(rng, frames), (names,) * len(frames), values.astype(np.float32), facts)


def _one_shape(rng: np.random.Generator, n: int, plain: bool) -> tuple[np.ndarray, np.ndarray]:
    frames, color = _ground(rng, n, plain), rng.integers(0, len(_RGB), n)
    x, y = _draw(rng, -1, 1, 2, n)
    _paint(frames, _shape(rng.integers(0, 3, n), x, y, _draw(rng, 4, 9, n)), _RGB[color])
    facts = _facts(n, x=x, y=y)
    _place_facts(facts, color, x, y)
    return frames, facts


def easy_shape(rng: np.random.Generator, n: int) -> Pictures:
    """One shape anywhere on a ground of one colour. Asks for its place."""
    return _ask(rng, *_one_shape(rng, n, True), (("x", "y"),))


def shape(rng: np.random.Generator, n: int) -> Pictures:
    """One shape anywhere. Asks for its place."""
    return _ask(rng, *_one_shape(rng, n, False), (("x", "y"), ("y", "x"), ("x",)))


def pair(rng: np.random.Generator, n: int) -> Pictures:
    """Two shapes of two colours. Asks for the place of one, by its colour."""
    frames, facts = _ground(rng, n, False), _facts(n)
    asked, step = rng.integers(0, len(_RGB), n), rng.integers(1, len(_RGB), n)
    other = (asked + step) % len(_RGB)
    (x, x2), (y, y2) = _draw(rng, -1, 1, 2, 2, n)
    _paint(frames, _shape(rng.integers(0, 3, n), x2, y2, _draw(rng, 4, 9, n)), _RGB[other])
    _paint(frames, _shape(rng.integers(0, 3, n), x, y, _draw(rng, 4, 9, n)), _RGB[asked])
    _place_facts(facts, other, x2, y2)
    _place_facts(facts, asked, x, y)
    names = tuple((f"{_NAMES[c]}_x", f"{_NAMES[c]}_y") for c in asked)
    return Pictures(_finish(rng, frames), names, np.stack([x, y], 1), facts)


def _hub_and_bar(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The hub is in the middle (2 of 5 batches), near the middle line (2 of 5) or anywhere."""
    frames, where = _ground(rng, n, False), rng.random()
    spread = (0.04, 0.04) if where < 0.4 else (1.0, 0.15) if where < 0.8 else (1.0, 0.8)
    x, y = _draw(rng, -1, 1, 2, n) * np.float32(spread)[:, None]
    angle = _draw(rng, -np.pi, np.pi, n)
    sin, cos = np.sin(angle), np.cos(angle)
    bar = _bar(x, y, sin, cos, _draw(rng, 18, 36, n), _draw(rng, 1.0, 3, n)), _draw(rng, 120, 250, n, 3)
    hub_mask = _shape(rng.integers(0, 2, n), x, y, _draw(rng, 2.5, 8, n), _draw(rng, 0.4, 1, n))
    hub = hub_mask, _draw(rng, 120, 250, n, 3)
    for part in (bar, hub) if rng.random() < 0.5 else (hub, bar):
        _paint(frames, *part)
    return frames, _facts(n, x=x, y=y, sin=sin, cos=cos), where


def _side(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, 1.0, -1.0)


def bar(rng: np.random.Generator, n: int) -> Pictures:
    """A bar on a hub. Asks for its direction, its side (-1 left, 1 right) or the hub's place."""
    frames, facts, where = _hub_and_bar(rng, n)
    sets = (("sin", "cos"), ("cos", "sin"), ("sin",), ("side",), ("x", "y", "sin", "cos"), ("x", "sin"))
    side = _side(facts[:, FACTS.index("sin")])
    return _ask(rng, frames, facts, sets[:4] if where < 0.4 else sets, side=side)


def arm(rng: np.random.Generator, n: int) -> Pictures:
    """A two-link arm on a hub in the middle, and a dot. Asks for the dot, the tip, or the turn from tip to
    dot: the sine of the angle, clockwise positive, that brings the tip's direction from the hub to the
    dot's (``turn_side``: its sign).
    """
    frames = _ground(rng, n, False)
    x0, y0 = _draw(rng, -0.04, 0.04, 2, n)
    first = _draw(rng, -np.pi, np.pi, n)
    second = first + _draw(rng, -2.6, 2.6, n)
    l1, l2, width = _draw(rng, 11, 18, n), _draw(rng, 10, 17, n), _draw(rng, 1.0, 2.6, n)
    x1, y1 = x0 + l1 / REACH * np.sin(first), y0 + l1 / REACH * np.cos(first)
    x2, y2 = x1 + l2 / REACH * np.sin(second), y1 + l2 / REACH * np.cos(second)
    angle, distance = _draw(rng, -np.pi, np.pi, n), _draw(rng, 0.15, 0.95, n)
    dx, dy = distance * np.sin(angle), distance * np.cos(angle)
    color, disc = _draw(rng, 120, 250, n, 3), np.ones(n, int)
    _paint(frames, _shape(disc, dx, dy, _draw(rng, 2.5, 7, n)), _RGB[rng.integers(0, len(_RGB), n)])
    _paint(frames, _bar(x0, y0, np.sin(first), np.cos(first), l1, width), color)
    _paint(frames, _bar(x1, y1, np.sin(second), np.cos(second), l2, width), color)
    _paint(frames, _shape(disc, x2, y2, _draw(rng, 1.5, 3.5, n)), _draw(rng, 120, 250, n, 3))
    turn = np.sin(angle - np.arctan2(x2 - x0, y2 - y0))
    facts = _facts(n, dot_x=dx, dot_y=dy, tip_x=np.clip(x2, -1, 1), tip_y=np.clip(y2, -1, 1), turn=turn)
    places = "dot_x", "dot_y", "tip_x", "tip_y"
    sets = (places[:2], places[2:], places, ("turn",), ("turn_side",))
    return _ask(rng, frames, facts, sets, turn_side=_side(turn))


def named(rng: np.random.Generator, n: int) -> Pictures:
    """A shape or a bar; asks by the action names of one task: x and y in turn, or sine and cosine in turn."""
    # Short replies are asked for more often: a reply of twelve numbers costs as much time as ten of one.
    chance = np.array([1 / len(names) for names in ACTION_NAMES])
    names = ACTION_NAMES[rng.choice(len(ACTION_NAMES), p=chance / chance.sum())]
    if rng.random() < 0.5:
        (frames, facts), turns = _one_shape(rng, n, False), ("x", "y")
    else:
        (frames, facts, _), turns = _hub_and_bar(rng, n), ("sin", "cos")
    values = np.stack([facts[:, FACTS.index(turns[k % 2])] for k in range(len(names))], 1)
    return Pictures(_finish(rng, frames), (names,) * n, values, facts)


KINDS: dict[str, Callable[[np.random.Generator, int], Pictures]] = {
    "easy_shape": easy_shape,
    "shape": shape,
    "pair": pair,
    "bar": bar,
    "arm": arm,
    "named": named,
}


def corpus(rng: np.random.Generator) -> list[str]:
    """Questions, answers and state lines that the tokenizer is trained on."""
    lines = []
    for kind in KINDS.values():
        for _ in range(60):
            pictures = kind(rng, 4)
            lines += pictures.questions + pictures.answers
    for names in ACTION_NAMES:
        for _ in range(40):
            lines += [question(names), answer(names, rng.uniform(-1, 1, len(names)))]
    for _ in range(200):
        speed, yaw = rng.uniform(0, 30), rng.uniform(-180, 180)
        lines.append(f"speed: {speed:.2f} yaw: {yaw:.2f}")
    return [*lines, *["user\n", "assistant\n", "system\n", "action: "] * 60]
