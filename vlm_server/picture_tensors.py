"""Pictures to the tensors that a model takes: what its image processor gives, to the bit, for many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from transformers.image_processing_utils import BaseImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

Prepare = Callable[[Sequence[np.ndarray]], dict[str, torch.Tensor]]


def prepare(processor: BaseImageProcessor) -> Prepare:
    """Function of B pictures, uint8 [H,W,3] RGB, to the model's tensors on the CPU."""
    if type(processor) is Qwen2VLImageProcessorPil and processor.do_rescale and processor.do_normalize:
        return _QwenPictures(processor)

    def plainly(frames: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        return dict(processor(images=list(frames), input_data_format="channels_last", return_tensors="pt"))

    return plainly


class _QwenPictures:
    """Qwen's processor does the same arithmetic to every pixel, 256 values a channel: here it is looked up.

    Pictures of the right size (multiples of a patch) are not resized, others are, one by one, by the processor.
    """

    def __init__(self, processor: Qwen2VLImageProcessorPil):
        self._processor = processor
        self._unit = processor.patch_size * processor.merge_size
        ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, 3))
        ramp = processor.rescale(ramp.transpose(2, 0, 1), processor.rescale_factor)
        values = processor.normalize(ramp, processor.image_mean, processor.image_std)
        self._values = np.asarray(values, np.float32).reshape(3 * 256)
        self._offsets = (256 * np.arange(3, dtype=np.int32))[:, None, None]

    def __call__(self, frames: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """``pixel_values`` float32 [N,D] of N patches, and ``image_grid_thw`` int64 [B,3]."""
        sizes = {frame.shape for frame in frames}
        fit = len(sizes) == 1 and self._fits(*next(iter(sizes))[:2])
        pictures = np.stack(frames) if fit else [self._resized(frame) for frame in frames]
        groups = [pictures] if fit else [picture[None] for picture in pictures]
        patches = np.concatenate([self._patches(group) for group in groups])
        grids = [
            [1, group.shape[1] // self._processor.patch_size, group.shape[2] // self._processor.patch_size]
            for group in groups
            for _ in group
        ]
        return {"pixel_values": torch.from_numpy(patches), "image_grid_thw": torch.tensor(grids)}

    def _fits(self, height: int, width: int) -> bool:
        size = self._processor.size
        target = smart_resize(height, width, self._unit, size["shortest_edge"], size["longest_edge"])
        return not self._processor.do_resize or target == (height, width)

    def _resized(self, frame: np.ndarray) -> np.ndarray:
        if self._fits(*frame.shape[:2]):
            return frame
        processor = self._processor
        moved = processor.resize(frame.transpose(2, 0, 1), processor.size, processor.resample, self._unit)
        return moved.transpose(1, 2, 0)

    def _patches(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3] -> float32 [B H/p W/p, 3 t p p], patches that are merged side by side."""
        p, m, t = (getattr(self._processor, f"{name}_size") for name in ("patch", "merge", "temporal_patch"))
        count, height, width, _ = frames.shape
        rows, columns = height // (p * m), width // (p * m)
        split = frames.reshape(count, rows, m, p, columns, m, p, 3)
        ordered = split.transpose(0, 1, 4, 2, 5, 7, 3, 6)  # picture, row, column, merged row and column, channel, y, x
        values = self._values[ordered + self._offsets]
        repeated = np.broadcast_to(values[:, :, :, :, :, :, None], (*values.shape[:6], t, p, p))
        return repeated.reshape(count * rows * columns * m * m, 3 * t * p * p)
