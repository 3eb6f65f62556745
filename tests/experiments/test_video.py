import imageio_ffmpeg
import numpy as np
import pytest

from experiments.video import POLICY, PRIOR, draw_step, write_episode

NAMES = ["cart force", "elbow torque"]


def episode(steps: int = 6, size: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames = np.zeros((steps, size, size, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 250, steps).astype(np.uint8)[:, None, None]
    policy = np.tile(np.linspace(-1, 1, steps)[:, None], (1, 2)).astype(np.float32)
    prior = -policy
    prior[0] = np.nan
    return frames, policy, prior


def decode(path) -> tuple[dict, np.ndarray]:
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(raw, np.uint8).reshape(height, width, 3) for raw in reader])


def colour_share(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Columns of the picture in which the colour covers at least four pixels."""
    return np.flatnonzero((np.abs(picture.astype(int) - colour).max(-1) < 12).sum(0) >= 4)


def test_the_file_decodes_to_the_frames(tmp_path):
    frames, policy, prior = episode()
    path = write_episode(tmp_path / "videos" / "a.mp4", frames, policy, prior, NAMES, fps=10)
    meta, decoded = decode(path)
    assert meta["codec"] == "h264" and "yuv420p" in meta["pix_fmt"] and meta["fps"] == 10
    assert len(decoded) == len(frames)
    assert decoded.shape[1] % 2 == 0 and decoded.shape[2] % 2 == 0
    reds = decoded[:, 100:300, 100:300, 0].mean((1, 2))
    np.testing.assert_allclose(reds, frames[:, 0, 0, 0], atol=6)
    assert list(tmp_path.glob("videos/*")) == [path]


def test_the_index_comes_first(tmp_path):
    data = write_episode(tmp_path / "a.mp4", *episode(), NAMES, fps=10).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_equal_input_gives_equal_bytes(tmp_path):
    files = [write_episode(tmp_path / name, *episode(), NAMES, fps=10) for name in ("a.mp4", "b.mp4")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_bars_grow_from_the_centre_to_the_action():
    frame = np.zeros((50, 50, 3), np.uint8)
    left, right, small = (
        colour_share(draw_step(frame, np.array([value, value]), None, NAMES, False)[60:], POLICY)
        for value in (-1.0, 1.0, 0.25)
    )
    assert left.max() <= right.min() + 1
    assert len(right) == pytest.approx(len(left), abs=2)
    assert len(small) == pytest.approx(len(right) / 4, abs=2)


def test_no_reply_draws_no_bar_of_the_vlm():
    frame, policy = np.zeros((50, 50, 3), np.uint8), np.zeros(2)
    answered = draw_step(frame, policy, np.array([0.5, 0.5]), NAMES, True)[60:]
    silent = draw_step(frame, policy, np.array([np.nan, np.nan]), NAMES, True)[60:]
    assert len(colour_share(answered, PRIOR)) > 50
    assert len(colour_share(silent, PRIOR)) == 0


def test_many_actions_make_a_higher_picture(tmp_path):
    frame = np.zeros((85, 85, 3), np.uint8)
    picture = draw_step(frame, np.zeros(12), None, [f"joint {i}" for i in range(12)], True)
    assert picture.shape[0] > 12 * 70 and picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0


@pytest.mark.parametrize(
    ("change", "needed"),
    [({"frames": np.zeros((2, 8, 8, 3))}, "uint8"), ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "T > 0"),
     ({"policy_actions": np.zeros((6, 3))}, "policy_actions"),
     ({"prior_actions": np.zeros((5, 2))}, "prior_actions")],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_refused(tmp_path, change, needed):
    frames, policy, prior = episode()
    given = {"frames": frames, "policy_actions": policy, "prior_actions": prior} | change
    with pytest.raises(ValueError, match=needed):
        write_episode(tmp_path / "a.mp4", **given, names=NAMES, fps=10)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "part-a.mp4").mkdir()
    frames, policy, prior = episode()
    with pytest.raises(OSError, match="ffmpeg failed"):
        write_episode(tmp_path / "a.mp4", frames, policy, prior, NAMES, fps=10)
