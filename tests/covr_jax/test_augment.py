"""Views: which pixels they show, where, and what o and o' share."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax import augment, sight
from tests.covr_jax import tiny


def coordinate_frames(batch: int, frames: int, side: int) -> np.ndarray:
    """Frames whose channels are (row + 1, column + 1, frame index + 1), so that a view tells where it came from."""
    pictures = np.zeros((batch, frames, side, side, 3), np.uint8)
    pictures[..., 0] = 1 + np.arange(side)[:, None]
    pictures[..., 1] = 1 + np.arange(side)
    pictures[..., 2] = 1 + np.arange(frames)[:, None, None]
    return pictures


def test_stack_puts_oldest_frame_first_and_keeps_rgb_together():
    stack = np.asarray(augment.stacked(coordinate_frames(2, 3, 5)))
    assert stack.shape == (2, 5, 5, 9)
    np.testing.assert_array_equal(stack[1, 3, 4], [4, 5, 1, 4, 5, 2, 4, 5, 3])


def test_no_augmentation_splits_into_o_and_next_o():
    views = augment.random_views("none", jax.random.PRNGKey(0), coordinate_frames(2, 4, 5), 5)
    np.testing.assert_array_equal(views.o[0, 0, 0, 2::3], [1, 2, 3])
    np.testing.assert_array_equal(views.next_o[0, 0, 0, 2::3], [2, 3, 4])


def crop_corners(view) -> np.ndarray:
    """Top left corner [B,2] of each sample's window; asserts that the window is contiguous in every frame."""
    view = np.asarray(view).astype(int)
    size = view.shape[1]
    down = np.broadcast_to(np.arange(size)[:, None], view.shape[:3])
    right = np.broadcast_to(np.arange(size), view.shape[:3])
    for frame in range(0, view.shape[-1], 3):
        np.testing.assert_array_equal(view[..., frame] - view[:, :1, :1, 0], down)
        np.testing.assert_array_equal(view[..., frame + 1] - view[:, :1, :1, 1], right)
    return view[:, 0, 0, :2] - 1


def test_crops_are_windows_with_independent_uniform_offsets():
    frames = coordinate_frames(3000, 3, 8)
    views = jax.jit(lambda key: augment.random_views("crop", key, frames, 6))(jax.random.PRNGKey(1))
    now, later = crop_corners(views.o), crop_corners(views.next_o)
    for corners in (now, later):
        counts = np.array([[np.sum((corners == (i, j)).all(1)) for j in range(3)] for i in range(3)])
        assert counts.sum() == 3000
        # 9 cells of expectation 333, standard deviation 17.2: five of them.
        assert np.abs(counts - 3000 / 9).max() < 86
    same = np.mean((now == later).all(1))
    assert abs(same - 1 / 9) < 5 * np.sqrt((1 / 9) * (8 / 9) / 3000)
    assert set(np.asarray(views.o)[..., 2].ravel()) == {1}
    assert set(np.asarray(views.next_o)[..., 2].ravel()) == {2}


def test_translate_shares_offsets_and_keeps_the_whole_frame():
    frames = coordinate_frames(2000, 3, 5)
    views = augment.random_views("translate", jax.random.PRNGKey(2), frames, 7)
    o, next_o = np.asarray(views.o), np.asarray(views.next_o)
    corners = []
    for sample, later in zip(o, next_o, strict=True):
        top, left = (int(axis.min()) for axis in np.nonzero(sample[..., 0]))
        corners.append((top, left))
        for shown, first in ((sample, 0), (later, 1)):
            window = shown[top : top + 5, left : left + 5]
            np.testing.assert_array_equal(window[..., :3], frames[0, first])
            np.testing.assert_array_equal(window[..., 3:], frames[0, first + 1])
            assert shown.sum() == window.sum()
    counts = np.array([corners.count((i, j)) for i in range(3) for j in range(3)])
    # expectation 222, standard deviation 14: five of them.
    assert counts.sum() == 2000 and np.abs(counts - 2000 / 9).max() < 71


def test_shifts_move_by_up_to_four_pixels_and_repeat_the_edge():
    frames = np.random.default_rng(0).integers(0, 256, (2000, 3, 6, 6, 3), dtype=np.uint8)
    views = jax.jit(lambda key: augment.random_views("shift", key, frames, 6))(jax.random.PRNGKey(3))
    offsets = []
    for view, stack in ((views.o, frames[:, :2]), (views.next_o, frames[:, 1:])):
        padded = np.pad(stack, [(0, 0), (0, 0), (4, 4), (4, 4), (0, 0)], mode="edge")
        windows = np.stack([padded[:, :, i : i + 6, j : j + 6] for i in range(9) for j in range(9)], axis=1)
        windows = windows.transpose(0, 1, 3, 4, 2, 5).reshape(2000, 81, 6, 6, 6)
        found = (windows == np.asarray(view)[:, None]).all((2, 3, 4))
        assert found.sum(1).min() == 1 == found.sum(1).max()
        offsets.append(found.argmax(1))
        # 81 cells of expectation 24.7, standard deviation 4.9: five of them.
        assert np.abs(np.bincount(offsets[-1], minlength=81) - 2000 / 81).max() < 25
    assert np.mean(offsets[0] == offsets[1]) < 0.03  # independent: 1 of 81
    centre = np.random.default_rng(1).integers(0, 256, (1, 6, 6, 9), dtype=np.uint8)
    np.testing.assert_array_equal(augment.centre_view("shift", centre, 6), centre)


def test_intensity_scales_whole_samples_within_two_deviations():
    views = np.full((4000, 2, 2, 3), 100.0, np.float32)
    scaled = np.asarray(augment.intensity(jax.random.PRNGKey(4), views))
    assert (scaled == scaled[:, :1, :1, :1]).all()
    noise = (scaled[:, 0, 0, 0] / 100 - 1) / 0.05
    assert np.abs(noise).max() <= 2.0001
    # A standard normal clipped at 2: 4.6 % of it at the ends, standard deviation 0.96.
    assert abs(np.mean(np.abs(noise) > 1.999) - 0.0455) < 5 * np.sqrt(0.0455 / 4000)
    assert abs(noise.std() - 0.960) < 0.05 and abs(noise.mean()) < 5 * 0.96 / np.sqrt(4000)


def test_views_of_a_decision_and_the_one_before_share_their_offset():
    batch = tiny.batch("resact", 0)
    batch = batch._replace(frames=1 + batch.frames // 2)  # no black pixel in a frame
    views = sight.CHANGE.views("translate", jax.random.PRNGKey(5), batch, 20)
    assert views.o.shape == (16, 20, 20, 18) and views.o.dtype == np.uint8
    offsets = set()
    for i in range(16):
        now = np.asarray(views.o[i, ..., :9])
        top, left = (int(axis.min()) for axis in np.nonzero(now[..., 0]))
        offsets.add((top, left))
        at = slice(top, top + 16), slice(left, left + 16)
        before, current, later = (
            np.concatenate(list(batch.frames[i, j : j + 3]), axis=-1) for j in range(3)
        )
        np.testing.assert_array_equal(now[at], current)
        np.testing.assert_array_equal(views.next_o[i][at], np.concatenate([later, current], axis=-1))
        shown = np.asarray(views.o[i, ..., 9:])
        np.testing.assert_array_equal(shown[at], before if batch.previous_ok[i] else np.zeros_like(before))
    assert len(offsets) > 5


def test_centre_views():
    frames = coordinate_frames(1, 2, 7)
    stack = augment.stacked(frames)
    np.testing.assert_array_equal(augment.centre_view("none", stack, 7), stack)
    crop = np.asarray(augment.centre_view("crop", stack, 4))
    assert crop.shape == (1, 4, 4, 6)
    np.testing.assert_array_equal(crop[0, 0, 0, :2], [2, 2])  # (7 - 4) // 2 = 1, counted from one
    canvas = np.asarray(augment.centre_view("translate", stack, 10))
    assert canvas.shape == (1, 10, 10, 6)
    np.testing.assert_array_equal(canvas[0, 1:8, 1:8], np.asarray(stack)[0])
    assert canvas.sum() == np.asarray(stack).sum()


@pytest.mark.parametrize(
    ("name", "render", "image", "words"),
    [
        ("none", 10, 9, "equal to"),
        ("crop", 8, 9, "at least"),
        ("translate", 10, 9, "at most"),
        ("shift", 10, 9, "equal to"),
        ("warp", 9, 9, "allowed: none, crop, translate, shift"),
    ],
)
def test_sizes_that_do_not_fit(name, render, image, words):
    with pytest.raises(ValueError, match=words):
        augment.check(name, render, image)


def test_sizes_that_fit():
    for name, render, image in [("none", 9, 9), ("crop", 9, 9), ("crop", 10, 9), ("translate", 8, 9)]:
        augment.check(name, render, image)
