"""The tables of the two papers (tables.toml): rows, and which base, method and settings answer to each."""

from __future__ import annotations

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("tables.toml")
STEPS = 100_000  # of both papers, where a table says nothing else


@dataclass(frozen=True)
class Row:
    """One printed row. In tables.toml ``like`` names a row of [row] to begin with; ``settings`` then come on top."""

    printed: str  # its name in the paper
    base: str = ""  # of covr_jax.methods.BASES; empty: the table's
    method: str = "none"  # of covr_jax.methods.METHODS
    preset: str = ""  # on top of the table's
    settings: tuple[str, ...] = ()  # of --set; {steps}, {half_the_updates} and {updates_at_half} are filled in
    prior: str = ""  # empty: the paper's VLM
    by_task: str = ""  # of [by_task]: whose settings it takes on some tasks
    critic_data: str = "rae"  # what a second critic is fitted to (experiments.pretrain_critic --data)
    then: tuple[str, ...] = ()  # the row is filled by experiments.evaluate with these arguments
    reads: str = ""  # where the row's figures are, if not in evaluations.jsonl
    absent: str = ""  # why nothing here answers to it


@dataclass(frozen=True)
class Table:
    paper: str  # COVR | ERPv
    number: str
    title: str
    printed: str  # what paper_results.csv calls it
    tasks: tuple[str, ...] = ()
    preset: str = ""
    settings: tuple[str, ...] = ()
    base: str = ""
    steps: int = STEPS  # in run.step_unit of the preset
    note: str = ""
    rows: tuple[Row, ...] = ()

    @property
    def key(self) -> str:
        """covr/3: as --table names it."""
        return f"{self.paper.lower()}/{self.number}"


@functools.cache
def read() -> dict[str, Table]:
    """Key -> table, in the papers' order."""
    document = _document()
    tables = [_table(values, document["row"]) for values in document["table"]]
    return {table.key: table for table in tables}


def find(key: str) -> Table:
    """The table that --table names. Raises ValueError, in one line, for any other name."""
    known = read()
    if key.lower() not in known:
        raise ValueError(f"--table={key}: must be one of {', '.join(known)}")
    return known[key.lower()]


def vlm(paper: str) -> str:
    """The VLM of a paper, as a Hugging Face id."""
    return _document()["prior"][paper]


def by_task(row: Row, task: str) -> tuple[str, tuple[str, ...]]:
    """Preset and settings that a row has on a task alone; empty for most."""
    chosen = _document()["by_task"][row.by_task].get(task, {}) if row.by_task else {}
    return chosen.get("preset", ""), tuple(chosen.get("settings", ()))


@functools.cache
def _document() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _table(values: Mapping[str, Any], library: Mapping[str, Any]) -> Table:
    rows = tuple(_row({"like": row} if isinstance(row, str) else row, library) for row in values.get("rows", ()))
    printed = values.get("printed", f"Table {values['number']}")
    return Table(**(_tuples(values) | {"rows": rows, "printed": printed}))


def _row(values: Mapping[str, Any], library: Mapping[str, Any]) -> Row:
    own = dict(values)
    like = own.pop("like", None)
    start = Row(**({"printed": like} | _tuples(library[like]))) if like else Row(printed=own["printed"])
    own["settings"] = (*start.settings, *own.get("settings", ()))
    return dataclasses.replace(start, **_tuples(own))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
