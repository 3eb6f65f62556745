"""What one tuning job's processes are to do and what they made: files in a folder for the server's user alone.

    <adapters>/.jobs/.tuning-<x>/assignment.json      an ``Assignment``, sealed
                                 samples.safetensors  as ``sample_files`` writes them
                                 adapter/             the two files of ``lora.save``, by process 0
                                 statistics.json      ``tuning.Statistics``, sealed, when the adapter is there
                                 ...                  what ``tuning_reports`` and torch's launcher write
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_server import lora, sample_files, sealed_files
from vlm_server.adapters import JOBS
from vlm_server.defaults import TuningConfig
from vlm_server.tasks import Action, Task
from vlm_server.tuning import Sample, Statistics, TuningOutcome
from vlm_server.tuning_reports import TuningReports

PREFIX = ".tuning-"


def remove_leftovers(root: Path | str) -> None:
    """Removes the folders of a server that was killed.

    Args:
        root: the folder of the adapters, which one server at a time owns.
    """
    for leftover in (Path(root) / JOBS).glob(f"{PREFIX}*"):
        shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class Assignment:
    """What the processes are to do, besides the samples."""

    model: str  # folder of the base model
    model_digest: str
    device: str  # "cpu" or "cuda"; process r takes the r-th GPU
    dtype: str  # of ``models.load``
    threads: int  # of each process
    task: Task
    samples: str  # ``datasets.digest``
    parent: str  # folder of the adapter to go on from; "": none
    config: TuningConfig


class TuningFolder:
    """One such folder, from either side."""

    def __init__(self, path: Path):
        self.path, self.reports = path, TuningReports(path)

    def assign(self, assignment: Assignment, samples: Sequence[Sample]) -> None:
        """By the server, first.

        Raises:
            NoRoom: the disk is full.
        """
        with sealed_files.full_disk_is_no_room():
            sample_files.write(self.path / "samples.safetensors", assignment.task, samples)
            (self.path / "assignment.json").write_bytes(sealed_files.seal(dataclasses.asdict(assignment)))

    def assignment(self) -> Assignment:
        """Raises:
        ValueError: it is not what was written.
        """
        fields = sealed_files.unseal(self.path / "assignment.json")
        task = fields["task"] | {
            "actions": tuple(Action(**action) for action in fields["task"]["actions"]),
            "state": tuple((name, sentence) for name, sentence in fields["task"]["state"]),
            "reply_order": tuple(fields["task"]["reply_order"]),
        }
        return Assignment(**fields | {"task": Task(**task), "config": TuningConfig(**fields["config"])})

    def samples(self, assignment: Assignment) -> tuple[Sample, ...]:
        """Raises:
        ValueError: they are not what was written.
        """
        return sample_files.read(self.path / "samples.safetensors", assignment.task, assignment.samples)

    def finish(self, outcome: TuningOutcome) -> None:
        """By process 0, last.

        Raises:
            NoRoom: the disk is full.
        """
        with sealed_files.full_disk_is_no_room():
            (self.path / "adapter").mkdir()
            lora.save(self.path / "adapter", outcome.lora_config, outcome.tensors)
            data = sealed_files.seal(dataclasses.asdict(outcome.statistics))
            (self.path / "statistics.json").write_bytes(data)

    def outcome(self, config: TuningConfig) -> TuningOutcome:
        """What ``finish`` wrote.

        Raises:
            ValueError: it did not.
            AdapterInvalid: the adapter is unreadable.
        """
        statistics: dict[str, Any] = sealed_files.unseal(self.path / "statistics.json")
        saved = lora.read(self.path / "adapter")
        return TuningOutcome(saved.tensors, saved.config, config, Statistics(**statistics))
