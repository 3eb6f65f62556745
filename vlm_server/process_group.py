"""The processes of one tuning job, and what they add up over all of them. A process alone is a group of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Items = TypeVar("Items", list, torch.Tensor)


@dataclass(frozen=True)
class ProcessGroup:
    """Which of the processes this one is. All of them call ``sum`` and ``sum_gradients``, in the same order."""

    rank: int = 0
    size: int = 1

    def share(self, items: Items) -> Items:
        """This process's part of ``items``, a list or a tensor [N,...]; the parts of all are the whole. One may be
        empty."""
        return items[self.rank :: self.size]

    def sum(self, *values: float) -> tuple[float, ...]:
        """Each value added up over the processes, in float64."""
        if self.size == 1:
            return values
        from accelerate import PartialState
        from accelerate.utils import reduce

        return tuple(reduce(torch.tensor(values, dtype=torch.float64, device=PartialState().device), "sum").tolist())

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Gradients added up over the processes, the same bits in each; one that is missing counts as zero."""
        if self.size == 1:
            return
        from accelerate.utils import reduce

        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = reduce(gradient, "sum")


ALONE = ProcessGroup()


def join(device: str, meeting: Path, rank: int, size: int) -> ProcessGroup:
    """Waits for the other processes that torchrun started.

    They meet in a file, so that no port is open to others.

    Args:
        device: "cpu" or "cuda"; process r takes the r-th GPU.
        meeting: a file in a folder of theirs that does not exist yet.
    """
    from accelerate import PartialState

    backend = "gloo" if device == "cpu" else "nccl"
    torch.distributed.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=size)
    PartialState(cpu=device == "cpu")  # accelerate takes the group that it finds
    return ProcessGroup(rank, size)
