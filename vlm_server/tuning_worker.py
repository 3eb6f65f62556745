"""One process of a tuning job, started by ``tuning_launcher``: ``tuning.train`` on its share of every batch.

    python -m vlm_server.tuning_worker FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from vlm_server import end_of_input, models, process_group, tuning
from vlm_server.adapter_errors import NoRoom
from vlm_server.tuning_folder import TuningFolder


def main() -> int:
    folder, rank, size = TuningFolder(Path(sys.argv[1])), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    end_of_input.then(lambda: os._exit(1))
    try:
        outcome = _train(folder, rank, size)
        if rank == 0:
            folder.finish(outcome)
    except (tuning.TuningFailed, NoRoom) as error:
        folder.reports.fail(rank, str(error))
        return 1
    except (torch.OutOfMemoryError, MemoryError):
        folder.reports.fail(rank, f"out of memory: process {rank} has no room for the model")
        return 1
    torch.distributed.destroy_process_group()
    return 0


def _train(folder: TuningFolder, rank: int, size: int) -> tuning.TuningOutcome:
    work = folder.assignment()
    group = process_group.join(work.device, folder.path / "meeting", rank, size)
    torch.set_num_threads(work.threads)
    device = "cpu" if work.device == "cpu" else f"cuda:{rank}"
    vlm = models.load(work.model, device, work.dtype)
    if vlm.digest != work.model_digest:
        raise tuning.TuningFailed("the base model's files have changed since the server read them")
    return tuning.train(
        vlm,
        work.task,
        folder.samples(work),
        Path(work.parent) if work.parent else None,
        work.config,
        folder.reports.step if rank == 0 else lambda *_: None,
        group=group,
    )


if __name__ == "__main__":
    sys.exit(main())
