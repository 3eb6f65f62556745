"""What the two papers print (paper_results.csv), as far as this project's tasks and methods have a counterpart there.

Columns: paper, table; task (this project's name); printed_method; metric (return: undiscounted return of an episode;
distance: driving distance, CARLA only); mean and std as printed, before and after the ±; steps and step_unit (what a
step is, if the paper says so); seeds and episodes, where stated; base and method (this project's counterpart, empty
where there is none); note (slips begin with that word).
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).parent / "paper_results.csv"


class PaperResult(NamedTuple):
    """One printed number. ``seeds``, ``episodes`` and ``steps`` are None where the paper is silent."""

    paper: str
    table: str
    task: str
    printed_method: str
    metric: str
    mean: float
    std: float
    steps: int | None
    step_unit: str
    seeds: int | None
    episodes: int | None
    base: str
    method: str
    note: str

    @property
    def source(self) -> str:
        return f"{self.paper} {self.table}"


@functools.cache
def read() -> tuple[PaperResult, ...]:
    with FILE.open(encoding="utf-8", newline="") as file:
        return tuple(_typed(row) for row in csv.DictReader(file))


def counterparts(task: str, base: str, method: str) -> list[PaperResult]:
    """The returns that the papers print for that task, base and method; equal numbers are all there."""
    wanted = (task, base, method, "return")
    return [row for row in read() if (row.task, row.base, row.method, row.metric) == wanted]


def _typed(row: dict[str, str]) -> PaperResult:
    whole = {key: int(row[key]) if row[key] else None for key in ("steps", "seeds", "episodes")}
    return PaperResult(**{**row, **whole, "mean": float(row["mean"]), "std": float(row["std"])})
