"""What models see of pictures: equal to what their own image processors make, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.vlm_server import checkpoints
from vlm_server import models, picture_tensors

SIZES = [(84, 84), (56, 112), (28, 28), (8, 8), (100, 60), (83, 85), (9, 200), (128, 128)]


def processors():
    return [checkpoints.load(kind).processor.image_processor for kind in checkpoints.TYPES] + [
        models.load_processor(models.TINY, models.ARCHITECTURES["qwen2_5_vl"]).image_processor
    ]


def pictures(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.mark.parametrize("sizes", [[size] for size in SIZES] + [[(84, 84)] * 5, [(100, 60)] * 3, SIZES])
def test_tensors_are_those_of_the_models_own_processor(sizes):
    for processor in processors():
        frames = pictures(sizes)
        expected = processor(images=frames, input_data_format="channels_last", return_tensors="pt")
        found = picture_tensors.prepare(processor)(frames)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value), (type(processor), name)


def test_every_value_of_every_channel(seed=1):
    for processor in processors():
        ramp = np.arange(256, dtype=np.uint8).repeat(84 * 84 * 3 // 256 + 1)[: 84 * 84 * 3]
        frames = [np.random.default_rng(seed).permutation(ramp).reshape(84, 84, 3)]
        expected = processor(images=frames, input_data_format="channels_last", return_tensors="pt")
        found = picture_tensors.prepare(processor)(frames)["pixel_values"]
        assert torch.equal(found, expected["pixel_values"])


def test_read_only_frames_are_taken():
    frame = pictures([(84, 84)])[0]
    message = np.frombuffer(frame.tobytes(), np.uint8).reshape(84, 84, 3)
    for processor in processors():
        prepare = picture_tensors.prepare(processor)
        for name, value in prepare([message]).items():
            assert torch.equal(value, prepare([frame])[name])
