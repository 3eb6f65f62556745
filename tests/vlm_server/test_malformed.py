import pytest

from vlm_server import malformed, tasks

TASK = tasks.get("dmc/reacher/easy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" \n", "empty"),
        ("x" * 5000, "too_long"),
        ("I would push left", "no_dimension"),
        ("shoulder: 0.50", "missing_dimension"),
        ("shoulder: 0.50 shoulder: 0.20 wrist: 0.10", "repeated_dimension"),
        ("shoulder: 0.50 wrist: 0.10 and so on", "other_text"),
        ("Shoulder: fast WRIST: slow", "other_text"),
    ],
)
def test_reasons(text, expected):
    assert TASK.parse(text) == (None, "malformed")
    assert malformed.reason(TASK, text, False) == expected and expected in malformed.REASONS


def test_a_reply_without_tokens_left_was_cut_short():
    assert malformed.reason(TASK, "shoulder: 0.5", True) == "cut_short"
