from __future__ import annotations

import numpy as np
import pytest

from covr_jax.envs.stack import FrameStack


def frame(value: int) -> np.ndarray:
    return np.full((2, 4, 3), value, np.uint8)


def seen(stack: np.ndarray) -> list[int]:
    """The values of the stacked frames, oldest first."""
    assert stack.shape == (2, 4, 9) and stack.dtype == np.uint8
    frames = stack.reshape(2, 4, 3, 3)
    assert (frames == frames[:1, :1, :, :1]).all()
    return frames[0, 0, :, 0].tolist()


def test_the_first_frame_fills_the_stack_and_leaves_it():
    stack = FrameStack(3)
    assert seen(stack.reset(frame(1))) == [1, 1, 1]
    assert seen(stack.push(frame(2))) == [1, 1, 2]
    assert seen(stack.push(frame(3))) == [1, 2, 3]
    assert seen(stack.push(frame(4))) == [2, 3, 4]
    assert seen(stack.reset(frame(9))) == [9, 9, 9]


def test_what_was_returned_does_not_change():
    stack = FrameStack(3)
    first = stack.reset(frame(1))
    first[:] = 77
    second = stack.push(frame(2))
    assert seen(second) == [1, 1, 2]
    stack.push(frame(3))
    assert seen(second) == [1, 1, 2]


def test_one_frame():
    stack = FrameStack(1)
    assert (stack.reset(frame(5)) == frame(5)).all() and (stack.push(frame(6)) == frame(6)).all()


def test_errors():
    with pytest.raises(ValueError, match="reset"):
        FrameStack(3).push(frame(1))
    with pytest.raises(ValueError, match="1 frame or more, got 0"):
        FrameStack(0)
