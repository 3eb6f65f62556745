"""Tuning jobs in several processes, each with the base model and a share of every batch (``tuning_worker``)."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vlm_server import datasets, tuning_launcher
from vlm_server.adapters import JOBS
from vlm_server.defaults import TuningConfig
from vlm_server.models import Vlm
from vlm_server.tasks import Task
from vlm_server.tuning import Sample, TuningCancelled, TuningFailed, TuningOutcome
from vlm_server.tuning_folder import PREFIX, Assignment, TuningFolder

POLL_S = 0.05
STDERR = 2  # a server's standard output holds its address and nothing else


def check(device: torch.device, processes: int) -> None:
    """Whether there is a GPU for each process, if the model is on one.

    Raises:
        ValueError: there is not.
    """
    if processes == 1 or device.type == "cpu":
        return
    if device.index:
        raise ValueError("tuning_processes: they take the GPUs from cuda:0 on; choose GPUs by CUDA_VISIBLE_DEVICES")
    if processes > torch.cuda.device_count():
        raise ValueError(f"tuning_processes={processes} takes a GPU each; torch sees {torch.cuda.device_count()}")


class TuningProcesses:
    """Trains in ``processes`` processes what ``tuning.train`` trains in this one."""

    def __init__(self, root: Path | str, processes: int):
        """
        Args:
            root: the folder of the adapters.
        """
        self._folder, self._processes = Path(root) / JOBS, processes

    def train(
        self,
        vlm: Vlm,
        task: Task,
        samples: Sequence[Sample],
        parent_adapter: Path | None,
        config: TuningConfig,
        progress: Callable[[int, int, float], None] = lambda step, steps, loss: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> TuningOutcome:
        """As ``tuning.train``. When it returns or raises, its processes are gone; where their launcher was killed, they
        notice at once that nobody holds their standard input.

        Raises:
            TuningFailed: besides its reasons, a process was killed or could not start.
            TuningCancelled: ``cancelled`` returned True.
            NoRoom: the disk is full.
        """
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=self._folder, ignore_cleanup_errors=True) as name:
            folder = TuningFolder(Path(name).resolve())
            folder.assign(_assignment(vlm, task, samples, parent_adapter, config), samples)
            status = self._run(folder, progress, cancelled)
            if status != 0:
                launcher = f"the tuning processes' launcher {tuning_launcher.how_it_ended(status)}"
                raise TuningFailed(folder.reports.failure() or launcher)
            outcome = folder.outcome(config)
        seconds = time.perf_counter() - started
        statistics = dataclasses.replace(outcome.statistics, seconds=seconds)
        return dataclasses.replace(outcome, statistics=statistics, processes=self._processes)

    def _run(self, folder: TuningFolder, progress, cancelled) -> int:
        """The launcher's exit status."""
        command = [sys.executable, "-m", "vlm_server.tuning_launcher", str(folder.path), str(self._processes)]
        env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=STDERR, stderr=STDERR)
        try:
            while process.poll() is None:
                if cancelled():
                    raise TuningCancelled("cancelled")
                time.sleep(POLL_S)
                for report in folder.reports.new_steps():
                    progress(*report)
            for report in folder.reports.new_steps():
                progress(*report)
            return process.returncode
        finally:
            process.stdin.close()  # all of them end
            try:
                process.wait(3 * tuning_launcher.PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _assignment(vlm: Vlm, task: Task, samples, parent_adapter: Path | None, config: TuningConfig) -> Assignment:
    return Assignment(
        model=str(vlm.folder.resolve()),
        model_digest=vlm.digest,
        device=vlm.device.type,
        dtype=vlm.dtype,
        threads=torch.get_num_threads(),
        task=task,
        samples=datasets.digest(task, samples),
        parent="" if parent_adapter is None else str(parent_adapter.resolve()),
        config=config,
    )
