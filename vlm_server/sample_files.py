"""Samples of a tuning job on disk, so that the job can go on after the server was gone.

One safetensors file a data set: ``frame0``, ``frame1``, ... uint8 [H,W,3]; ``actions`` float32 [N,A]; ``returns``
float64 [N]; ``state`` float64 [N,S] in the order of the task's state names, NaN where a sample has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from vlm_server import datasets
from vlm_server.engine import Observation
from vlm_server.tasks import Task
from vlm_server.tuning import Sample


def write(file: Path, task: Task, samples: Sequence[Sample]) -> None:
    """Writes the samples of one task; their pixels once more in memory meanwhile."""
    seen = [sample.observation for sample in samples]
    save_file(
        {f"frame{i}": np.ascontiguousarray(each.frame) for i, each in enumerate(seen)}
        | {
            "actions": np.array([sample.action for sample in samples], np.float32),
            "returns": np.array([sample.return_to_go for sample in samples], np.float64),
            "state": np.array(
                [[each.state.get(name, math.nan) for name in task.state_names] for each in seen], np.float64
            ).reshape(len(samples), len(task.state_names)),
        },
        file,
    )


def read(file: Path, task: Task, digest: str) -> tuple[Sample, ...]:
    """The samples that ``write`` wrote, in their order.

    Raises:
        ValueError: the file is missing or unreadable, or its samples do not have this ``datasets.digest``.
    """
    try:
        tensors = load_file(file)
        columns = [tensors[name].tolist() for name in ("actions", "returns", "state")]
        samples = tuple(
            Sample(Observation(tensors[f"frame{i}"], _present(task, state)), tuple(action), value)
            for i, (action, value, state) in enumerate(zip(*columns, strict=True))
        )
    except (OSError, SafetensorError, KeyError, ValueError):
        raise ValueError("the samples of the job are missing or unreadable") from None
    if datasets.digest(task, samples) != digest:
        raise ValueError("the samples of the job have changed since they were written")
    return samples


def _present(task: Task, values: list[float]) -> dict[str, float]:
    return {name: value for name, value in zip(task.state_names, values, strict=True) if not math.isnan(value)}
