"""Writes the report of runs: ``python -m experiments.report RUNS... [--html=FILE] [--csv=FILE] [--latex=FILE]``.

RUNS: run directories, or folders above them. One run: RUN/report.html. Several: a report for each, and comparison.html
beside the runs, which groups them by task, base, method and settings, with seeds as repetitions. With --html, one page
there. --csv and --latex write the table of final returns besides.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from absl import app, flags

from experiments.command_line import fail
from experiments.report_page.page import write_comparison, write_run
from experiments.report_page.run_data import load
from experiments.report_tables import write_csv, write_latex


def report(paths: Sequence[str], html: str = "", csv: str = "", latex: str = "") -> list[Path]:
    """The files written. Raises ValueError, in one line, if one of ``paths`` neither is nor holds a run."""
    if not paths:
        raise ValueError("name at least one run directory: python -m experiments.report RUN [RUN ...]")
    runs = list(dict.fromkeys(run for path in paths for run in find_runs(Path(path))))
    written = []
    if len(runs) == 1:
        written = [write_run(runs[0], html or None)]
    elif html:
        written = [write_comparison(runs, html)]
    else:
        above = Path(os.path.commonpath([_above(Path(path)) for path in paths]))
        written = [*(write_run(run) for run in runs), write_comparison(runs, above / "comparison.html")]
    for file, write in ((csv, write_csv), (latex, write_latex)):
        if file:
            written.append(write([load(run) for run in runs], Path(file)))
    return written


def find_runs(path: Path) -> list[Path]:
    """``path`` if it is a run directory, else all that lie below it, sorted."""
    found = sorted(_below(path))
    if not found:
        raise ValueError(f"{path} holds no run (no config.json in it or below)")
    return found


def _below(path: Path) -> Iterator[Path]:
    if (path / "config.json").is_file():
        yield path
    elif path.is_dir():
        for folder in _folders(path):
            yield from _below(folder)


def _folders(path: Path) -> Iterable[Path]:
    return (entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())


def _above(path: Path) -> Path:
    return path.resolve().parent if (path / "config.json").is_file() else path.resolve()


def main(argv: Sequence[str]) -> None:
    values = flags.FLAGS
    try:
        for page in report(argv[1:], values.html, values.csv, values.latex):
            print(page)
    except (ValueError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    flags.DEFINE_string(
        "html", "", "where the page goes; empty: report.html in the run, comparison.html beside several"
    )
    flags.DEFINE_string("csv", "", "Write final returns as CSV: a line per group and counterpart in the papers.")
    flags.DEFINE_string("latex", "", "Write final returns as a LaTeX table (booktabs): methods by tasks.")
    app.run(main)
