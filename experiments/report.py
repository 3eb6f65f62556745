"""Writes the report of runs: ``python -m experiments.report RUN [RUN ...] [--html=out.html]``.

One run: RUN/report.html. Several: a report for each, and comparison.html beside the runs. With --html,
one page there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.command_line import fail
from experiments.report_page.page import write_comparison, write_run


def report(runs: Sequence[str], html: str = "") -> list[Path]:
    """The pages written. Raises ValueError, in one line, if one of ``runs`` is no run directory."""
    if not runs:
        raise ValueError("name at least one run directory: python -m experiments.report RUN [RUN ...]")
    runs = list(dict.fromkeys(runs))
    if len(runs) == 1:
        return [write_run(runs[0], html or None)]
    if html:
        return [write_comparison(runs, html)]
    parent = Path(os.path.commonpath([Path(run).resolve().parent for run in runs]))
    return [*(write_run(run) for run in runs), write_comparison(runs, parent / "comparison.html")]


def main(argv: Sequence[str]) -> None:
    try:
        for page in report(argv[1:], flags.FLAGS.html):
            print(page)
    except (ValueError, OSError) as error:
        fail(str(error))


if __name__ == "__main__":
    flags.DEFINE_string(
        "html", "", "where the page goes; empty: report.html in the run, comparison.html beside several"
    )
    app.run(main)
