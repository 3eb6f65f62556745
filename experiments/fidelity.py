"""Holds docs/fidelity.md against the code: ``python -m experiments.fidelity``. Silence and exit code 0: they agree.

A row of a table with the columns Ledger | ... | Switch and default | ... | Held by is read so:

    `learner.vpg.scale=joint` (`separate`, `none`)   a field of covr_jax/config.py, its default, the other values
    `rounds.rank=128`, `alpha=16`                    a field without its table is one of the table named before it
    `learner.alpha_zero_after`                       a field whose default the row does not tell
    `learner.*`                                      all fields of a table
    `--preset=walker`, `--method=rsf`, ...           flags that experiments.train must accept
    `test_vpg`                                       a file under tests/, one of which names the row's ledger number or
                                                     one of its switches

Every field of the tables in LEDGER_TABLES must be named somewhere in the document, and every number of the ledger must
stand in the first column of some table (the last one says which have no switch here, and why).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax.config import Config
from experiments import configuration
from experiments.configuration_values import CHOICES, coerce, field_types

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "fidelity.md"
FIELDS = field_types()
LEDGER = {"S": 19, "C": 27, "E": 33}  # letter -> its last number
LEDGER_TABLES = ("learner.guidance.", "learner.vpg.", "learner.ver.", "rounds.")
FLAGS = {"method": "learner.method", "base": "learner.base", "prior": "prior.source"}


class Row(NamedTuple):
    line: int
    ledger: list[str]
    switches: str
    tests: list[str]


def rows(text: str) -> Iterator[Row]:
    """The rows of all tables whose first column is Ledger; those without a switch column have no switches, no tests."""
    header: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.startswith("|"):
            continue  # an empty line between two rows of a table does no harm
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "".join(lines[number : number + 1]).startswith("|--"):
            header = cells
        elif header[:1] == ["Ledger"] and not set(line) <= set("|-: "):
            named = dict(zip(header, cells, strict=False))
            yield Row(number, re.findall(r"\b[A-Z]\d+\b", cells[0]), named.get("Switch and default", "none"),
                      re.findall(r"`(test_\w+)`", named.get("Held by", "")))  # fmt: skip


def findings(text: str, tests: Path = ROOT / "tests") -> list[str]:
    """What is wrong, a line each, with the way to mend it."""
    found = []
    for row in rows(text):
        where = f"docs/fidelity.md, line {row.line} ({', '.join(row.ledger) or 'no number'})"
        names: list[str] = []
        found += [f"{where}: {text}" for text in _switches(row.switches, names)]
        if row.switches != "none" or row.tests:
            found += [f"{where}: {text}" for text in _tests(row, names, tests)]
    named = _named(text)
    found += [
        f"docs/fidelity.md names the field {path} nowhere: add it to a row, or to the fields that belong "
        "to no row"
        for path in FIELDS if path.startswith(LEDGER_TABLES) and path not in named
    ]  # fmt: skip
    there = {number for row in rows(text) for number in row.ledger}
    for letter, last in LEDGER.items():
        absent = [f"{letter}{i}" for i in range(1, last + 1) if f"{letter}{i}" not in there]
        if absent:
            found.append(f"docs/fidelity.md has no row for {', '.join(absent)}: add one, or name it with the reason in "
                         "the table of what is not in this version")  # fmt: skip
    return found


def _switches(cell: str, names: list[str]) -> Iterator[str]:
    """Complaints about a cell of switches; the fields that it names are added to ``names``."""
    table, latest, inside = "", "", False
    alternatives: dict[str, set[str]] = {}
    for token, bracket in re.findall(r"`([^`]+)`|([()])", cell):
        if bracket:
            inside = bracket == "("
        elif token.startswith("--"):
            yield from _command(token)
        elif re.match(r"(experiments|vlm_server|covr_jax)\.", token):
            if find_spec(token.split()[0]) is None:
                yield f"there is no module {token.split()[0]}"
        elif inside and "=" not in token and latest:
            if f"{table}{token}" in FIELDS:  # a switch that one of the values brings along
                names.append(f"{table}{token}")
            elif token not in configuration.presets():
                alternatives.setdefault(latest, set()).add(token)
        else:
            path, equals, value = token.partition("=")
            if path.endswith(".*"):
                if not any(name.startswith(path[:-1]) for name in FIELDS):
                    yield f"covr_jax/config.py has no table {path[:-2]}"
                continue
            if path not in FIELDS and f"{table}{path}" in FIELDS:
                path = f"{table}{path}"
            if path not in FIELDS:
                yield f"covr_jax/config.py has no field {path}; write it as table.field=default"
                continue
            table, latest = path.rpartition(".")[0] + ".", path
            names.append(path)
            if equals:
                alternatives.setdefault(path, set())
                yield from _default(path, value)
    for path, others in alternatives.items():
        yield from _allowed(path, others)


def _default(path: str, value: str) -> Iterator[str]:
    default = _value(Config(), path)
    try:
        named = coerce(path, FIELDS[path], value, text=True)
    except ValueError as error:
        yield str(error)
        return
    if named != default:
        yield (f"{path}={value} is named first, as the default, which is {configuration.as_text(default)}: write "
               f"`{path}={configuration.as_text(default)}` (`{value}`)")  # fmt: skip


def _allowed(path: str, others: set[str]) -> Iterator[str]:
    for value in sorted(others):
        try:
            coerce(path, FIELDS[path], value, text=True)
        except ValueError as error:
            yield f"`{value}` is named as a value of {path}: {error}"
    if others and path in CHOICES:
        default = configuration.as_text(_value(Config(), path))
        if missing := sorted(set(CHOICES[path]) - others - {default}):
            yield f"{path} also allows {', '.join(missing)}: name all values in the brackets"


def _command(text: str) -> Iterator[str]:
    flags: dict[str, Any] = {}
    settings, preset = [], ""
    for word in shlex.split(text.replace("--set ", "--set=")):
        name, _, value = word.removeprefix("--").partition("=")
        if name == "set":
            settings.append(value)
        elif name == "preset":
            preset = value
        elif name in FLAGS:
            flags[FLAGS[name]] = value
    try:
        configuration.build(preset, flags, settings)
    except ValueError as error:
        yield f"`{text}`: {error}"


def _tests(row: Row, names: list[str], tests: Path) -> Iterator[str]:
    if not row.tests:
        yield "names no test: write the file that holds the row as `test_name` in the last column"
    words = row.ledger + [name.rpartition(".")[2] for name in names]
    texts = []
    for test in row.tests:
        if files := list(tests.rglob(f"{test}.py")):
            texts.append(files[0].read_text(encoding="utf-8"))
        else:
            yield f"there is no file {test}.py under tests/"
    if texts and words and not any(re.search(rf"\b{word}\b", text) for word in words for text in texts):
        yield (f"none of {', '.join(row.tests)} mentions {' or '.join(words)}: name the number in the docstring of the "
               "test that holds the row")  # fmt: skip


def _named(text: str) -> set[str]:
    """The fields that stand in backquotes anywhere in the document."""
    found: list[str] = []
    for row in rows(text):
        list(_switches(row.switches, found))
    return {*found, *(match.partition("=")[0] for match in re.findall(r"`([^`]+)`", text))}


def _value(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def main() -> int:
    lines = findings(DOCUMENT.read_text(encoding="utf-8"))
    print("\n".join(lines) or f"{DOCUMENT.name} agrees with the code")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
