"""Prompts, reply grammar and the parser, which must survive any text.

Ledger rows held here (docs/fidelity.md): S7, S8, C17.
"""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm_server import tasks

NAMES = sorted(tasks.TASKS)
DMC = [name for name in NAMES if name.startswith("dmc/")]


@st.composite
def task_and_action(draw):
    task = tasks.get(draw(st.sampled_from(NAMES)))
    return task, [draw(st.floats(a.low, a.high)) for a in task.actions]


@given(task_and_action())
def test_parse_inverts_format_to_two_decimals(case):
    task, action = case
    parsed, status = task.parse(task.format(action))
    assert status == "ok"
    assert list(parsed) == [round(v, 2) for v in action]
    assert all(math.copysign(1, v) == 1 for v in parsed if v == 0)


@given(task_and_action())
def test_format_is_in_the_language_of_the_template(case):
    task, action = case
    reply = task.format(action)
    for field in task.template():
        if isinstance(field, str):
            assert reply.startswith(field)
            reply = reply[len(field) :]
        else:
            width = 5 if reply.startswith("-") else 4
            assert field.decimals == 2 and -1 <= float(reply[:width]) <= 1
            reply = reply[width:]
    assert reply == ""


@given(task_and_action())
def test_max_reply_tokens_is_enough_for_one_token_a_byte(case):
    task, action = case
    assert len(task.format(action).encode()) + 1 <= task.max_reply_tokens


@settings(max_examples=300)
@given(st.sampled_from(NAMES), st.text(max_size=300))
def test_parse_never_raises_on_any_text(name, text):
    task = tasks.get(name)
    action, status = task.parse(text)
    assert (action is None) == (status == "malformed")


WORDS = ["slide", "throttle", "steer", "Describe", "nan", "inf", "e5"]
MARKS = [":", "-", "+", ".", ",", " ", "\n", "\u2028", "0", "1", "9" * 40, "٣", "١.٠"]
DRIVE_OR_SLIDE = ["dmc/cartpole/swingup", "carla/highway"]


@settings(max_examples=500)
@given(st.sampled_from(DRIVE_OR_SLIDE), st.lists(st.sampled_from(WORDS + MARKS), max_size=30))
def test_every_accepted_reply_is_finite_and_in_range(name, pieces):
    task = tasks.get(name)
    action, status = task.parse("".join(pieces))
    if status != "malformed":
        assert len(action) == len(task.actions)
        assert all(a.low <= v <= a.high for v, a in zip(action, task.actions, strict=True))


@pytest.mark.parametrize("name", ["dmc/cartpole/swingup", "dmc/quadruped/run", "carla/highway"])
@pytest.mark.parametrize(
    "text",
    [
        " " * 1_000_000,
        "a" * 1_000_000,
        "slide:" * 200_000,
        "slide: " + "1" * 1_000_000,
        "Describe: " + "throttle : " * 200_000,
        "-" * 1_000_000,
        "\n" * 4000 + "slide",
        "slide" + " " * 4000,
        "Describe:" + "throttle" + " " * 4000,
        "slide: " + "1" * 4000,
        "slide: 0." + "1" * 4000,
        "x: 1 " * 800,
        "\u0131" * 4000,
    ],
)
def test_hostile_texts_are_malformed_at_once(name, text):
    start = time.perf_counter()
    assert tasks.get(name).parse(text) == (None, "malformed")
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slide: -0.35", ((-0.35,), "ok")),
        ("  SLIDE :\n-0.35 \n", ((-0.35,), "ok")),
        ("slide:1", ((1.0,), "ok")),
        ("slide: +.5", ((0.5,), "ok")),
        ("slide: -0.00", ((0.0,), "ok")),
        ("slide: 1.01", ((1.0,), "clipped")),
        ("slide: -99", ((-1.0,), "clipped")),
        ("", (None, "malformed")),
        ("-0.35", (None, "malformed")),
        ("slide -0.35", (None, "malformed")),
        ("slide: nan", (None, "malformed")),
        ("slide: inf", (None, "malformed")),
        ("slide: 1e-1", (None, "malformed")),
        ("slide: 1e400", (None, "malformed")),
        ("slide: 0,5", (None, "malformed")),
        ("slide: 0.35.", (None, "malformed")),
        ("slide: ٣", (None, "malformed")),
        ("slide: 0.1 slide: 0.1", (None, "malformed")),
        ("slide: 0.1 hinge: 0.1", (None, "malformed")),
        ("Push left. slide: 0.1", (None, "malformed")),
        ("slide: 0.1 because", (None, "malformed")),
        ("Describe: a cart. slide: 0.1", (None, "malformed")),
        ("slide: " + "1" * 33, (None, "malformed")),
    ],
)
def test_one_dimension(text, expected):
    assert tasks.get("dmc/cartpole/swingup").parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("throttle: 0.50\nsteer: -0.10", ((-0.1, 0.5), "ok")),
        ("steer: -0.10 throttle: 0.50", ((-0.1, 0.5), "ok")),
        ("\nDescribe:A red van ahead. \nthrottle:1 \nsteer:0", ((0.0, 1.0), "ok")),
        ("describe: I would steer left: careful\nThrottle: -1.5\nSteer: 0.25\n", ((0.25, -1.0), "clipped")),
        ("Describe: nothing", (None, "malformed")),
        ("Describe: throttle: 0.1 is low. throttle: 1 steer: 0", (None, "malformed")),
        ("Describe: x throttle: 1", (None, "malformed")),
        ("Describe: x throttle: 1 steer: 0 done", (None, "malformed")),
        ("The road is clear. throttle: 1 steer: 0", (None, "malformed")),
        ("throttle: 1 brake: 0", (None, "malformed")),
    ],
)
def test_driving_reply_maps_by_name(text, expected):
    assert tasks.get("carla/highway").parse(text) == expected


def test_two_dimensions_in_one_line():
    task = tasks.get("dmc/reacher/easy")
    assert task.format([0.1, -0.2]) == "shoulder: 0.10 wrist: -0.20"
    assert task.parse("wrist: -0.20\nshoulder: 0.10") == ((0.1, -0.2), "ok")
    assert task.parse("shoulder: 0.10") == (None, "malformed")


def test_driving_reply_names_throttle_first():
    task = tasks.get("carla/ghost_pedestrian")
    assert [a.name for a in task.actions] == ["steer", "throttle"]
    assert task.format([-0.1, 0.5]) == "throttle: 0.50\nsteer: -0.10"


@pytest.mark.parametrize("name", NAMES)
def test_full_prompt_names_every_dimension_its_sign_and_range(name):
    task = tasks.get(name)
    prompt = task.prompt()
    assert task.goal in prompt and task.view in prompt
    for action in task.actions:
        assert f"{action.name}, from {action.low:.2f} to {action.high:.2f}: {action.sign}" in prompt
    assert task.prompt(style="short").endswith(" ") and len(task.prompt(style="short")) < len(prompt)


def test_action_names_are_those_of_the_simulator_in_its_order():
    counts = {name: len(tasks.get(name).actions) for name in DMC}
    assert counts == {
        "dmc/ball_in_cup/catch": 2,
        "dmc/cartpole/swingup": 1,
        "dmc/cheetah/run": 6,
        "dmc/finger/spin": 2,
        "dmc/hopper/hop": 4,
        "dmc/pendulum/swingup": 1,
        "dmc/quadruped/run": 12,
        "dmc/quadruped/walk": 12,
        "dmc/reacher/easy": 2,
        "dmc/walker/run": 6,
        "dmc/walker/walk": 6,
    }
    quadruped = [a.name for a in tasks.get("dmc/quadruped/walk").actions]
    assert quadruped[:4] == ["yaw_front_left", "lift_front_left", "extend_front_left", "yaw_front_right"]
    assert quadruped[-1] == "extend_back_left"


def test_both_driving_worlds_are_asked_about_in_the_same_words():
    state = {"speed": 7.0, "yaw": -90.0}
    for name in ("highway", "ghost_pedestrian", "jaywalk"):
        assert tasks.get(f"toy/{name}").prompt(state) == tasks.get(f"carla/{name}").prompt(state)
    assert tasks.get("toy/highway").parse("Describe: clear.\nsteer: 0.10\nthrottle: 1.00") == ((0.1, 1.0), "ok")


def test_state_enters_the_prompt_with_two_decimals():
    prompt = tasks.get("carla/highway").prompt({"speed": 7.126, "yaw": -3.0})
    assert "7.13 m/s" in prompt and "-3.00 degrees" in prompt
    assert "m/s" not in tasks.get("carla/highway").prompt({"yaw": 1.0})


def test_wrong_use_is_refused_in_one_line():
    task = tasks.get("carla/highway")
    for call in (
        lambda: task.prompt({"height": 1.0}),
        lambda: task.prompt(style="long"),
        lambda: task.format([0.0]),
        lambda: task.format([0.0, 1.5]),
        lambda: task.format([0.0, math.nan]),
        lambda: tasks.get("x" * 10_000),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_unknown_task_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'dmc/cartpole/swingup'"):
        tasks.get("dmc/cartpole/swing_up")
