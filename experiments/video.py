"""Videos of an episode: the frames, and beside them what the policy does and what the VLM would do."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

FRAME_SIDE = 400  # pixels that the upscaled frame has at least
PANEL_WIDTH = 380
ROW_HEIGHT = 74
MARGIN = 20
BACKGROUND, TEXT, MUTED, TRACK = (18, 22, 30), (238, 241, 246), (150, 158, 172), (44, 51, 64)
POLICY, PRIOR = (86, 180, 233), (240, 162, 60)


def write_episode(
    path: str | Path,
    frames: np.ndarray,
    policy_actions: np.ndarray,
    prior_actions: np.ndarray | None,
    names: Sequence[str],
    fps: float,
) -> Path:
    """Writes one episode as mp4 (H.264, yuv420p, playable while it loads) and returns its path.

    frames: uint8 [T, H, W, 3]; policy_actions: [T, A] in [-1, 1]; prior_actions: [T, A], NaN where the VLM
    has not answered, or None if none was asked; names: A texts; fps: decisions shown a second. Equal input
    gives equal bytes.
    Raises ValueError for shapes that do not fit, OSError if the file cannot be written.
    """
    path, frames = Path(path), np.asarray(frames)
    _check(frames, policy_actions, prior_actions, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name("part-" + path.name)
    height, width = draw_step(frames[0], policy_actions[0], None, names, False).shape[:2]
    # One thread and no metadata: the bytes then depend on the pictures alone.
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}", "-i", "-",
        "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23", "-movflags", "+faststart", "-threads", "1",
        "-fflags", "+bitexact", "-flags:v", "+bitexact", str(part),
    ]  # fmt: skip
    # imageio_ffmpeg's own writer forks with a Python hook, which can hang beside JAX's threads. A new session
    # keeps Ctrl-C from ending the encoder in the middle of a file.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as encoder:
        with contextlib.suppress(BrokenPipeError):  # the encoder's own words follow below
            for index, frame in enumerate(frames):
                prior = None if prior_actions is None else prior_actions[index]
                encoder.stdin.write(
                    draw_step(frame, policy_actions[index], prior, names, prior_actions is not None)
                )
        _, complaint = encoder.communicate()
    if encoder.returncode:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(f"{path}: ffmpeg failed: {complaint.decode(errors='replace').strip()}")
    part.replace(path)
    return path


def draw_step(
    frame: np.ndarray, policy: np.ndarray, prior: np.ndarray | None, names: Sequence[str], with_prior: bool
) -> np.ndarray:
    """One picture, uint8 [H', W', 3] with even sides: the enlarged frame and a panel of action bars."""
    scale = max(1, -(-FRAME_SIDE // frame.shape[0]))
    enlarged = np.repeat(np.repeat(frame, scale, axis=0), scale, axis=1)
    head = MARGIN + 34
    height = max(enlarged.shape[0], head + ROW_HEIGHT * len(names))
    width = enlarged.shape[1] + PANEL_WIDTH
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), BACKGROUND)
    canvas.paste(Image.fromarray(enlarged), (0, (height - enlarged.shape[0]) // 2))
    draw = ImageDraw.Draw(canvas)
    left = enlarged.shape[1] + MARGIN
    _legend(draw, left, with_prior)
    for index, name in enumerate(names):
        answer = None if prior is None or np.isnan(prior[index]) else float(prior[index])
        _row(draw, left, head + ROW_HEIGHT * index, name, float(policy[index]), answer, with_prior)
    return np.asarray(canvas)


def _legend(draw: ImageDraw.ImageDraw, left: int, with_prior: bool) -> None:
    entries = [("policy (acts)", POLICY)] + ([("VLM (advises)", PRIOR)] if with_prior else [])
    for label, colour in entries:
        draw.rounded_rectangle((left, MARGIN + 3, left + 12, MARGIN + 15), 3, colour)
        draw.text((left + 18, MARGIN), label, TEXT, _font(15))
        left += 36 + int(draw.textlength(label, _font(15)))


def _row(
    draw: ImageDraw.ImageDraw,
    left: int,
    top: int,
    name: str,
    policy: float,
    prior: float | None,
    with_prior: bool,
) -> None:
    draw.text((left, top), name, MUTED, _font(14))
    _bar(draw, left, top + 22, policy, POLICY)
    if with_prior:
        _bar(draw, left, top + 44, prior, PRIOR)


def _bar(
    draw: ImageDraw.ImageDraw, left: int, top: int, value: float | None, colour: tuple[int, int, int]
) -> None:
    width, height = PANEL_WIDTH - 2 * MARGIN - 70, 16
    centre = left + width // 2
    draw.rectangle((left, top, left + width, top + height), TRACK)
    if value is None:
        draw.text((left + width + 10, top - 1), "no reply", MUTED, _font(14))
    else:
        end = centre + round(np.clip(value, -1, 1) * (width // 2))
        draw.rectangle((min(centre, end), top, max(centre, end), top + height), colour)
        draw.text((left + width + 10, top - 1), f"{value:+.2f}", TEXT, _font(14))
    draw.line((centre, top - 2, centre, top + height + 2), MUTED, 1)


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size)
    return _FONTS[size]


def _check(frames: np.ndarray, policy: np.ndarray, prior: np.ndarray | None, names: Sequence[str]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(
            f"frames must be uint8 [T, H, W, 3] with T > 0, not {frames.dtype} {list(frames.shape)}"
        )
    expected = (len(frames), len(names))
    for label, actions in (("policy_actions", policy), ("prior_actions", prior)):
        if actions is not None and np.shape(actions) != expected:
            raise ValueError(
                f"{label} must be {list(expected)} (steps, names), not {list(np.shape(actions))}"
            )
