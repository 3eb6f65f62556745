"""The table of final returns as CSV and as LaTeX."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.report_page.comparison import over_base, printed_results
from experiments.report_page.groups import Group, group
from experiments.report_page.run_data import RunData
from experiments.statistics import Interval, mean_interval, mean_std

COLUMNS = (
    "task", "group", "base", "method", "seeds", "episodes", "frames", "decisions", "step_unit", "mean", "mean_low",
    "mean_high", "std_seeds", "std_episodes", "over_base", "over_base_low", "over_base_high", "paper", "paper_table",
    "paper_method", "paper_mean", "paper_std", "paper_steps", "paper_step_unit", "paper_note", "difference",
    "difference_low", "difference_high",
)  # fmt: skip


def write_csv(runs: Sequence[RunData], path: Path) -> Path:
    """One line per group and counterpart in the papers (one where there is none); unknown cells are empty."""
    groups, _ = group(runs)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for one in groups:
            ours = _ours(one, groups)
            for row in printed_results(one) or [None]:
                theirs = {} if row is None else {
                    "paper": row.paper, "paper_table": row.table, "paper_method": row.printed_method,
                    "paper_mean": row.mean, "paper_std": row.std, "paper_steps": row.steps,
                    "paper_step_unit": row.step_unit, "paper_note": row.note,
                    **_named("difference", mean_interval(one.scores).minus(row.mean)),
                }  # fmt: skip
                writer.writerow({key: _cell(value) for key, value in (ours | theirs).items()})
    return path


def _ours(one: Group, groups: Sequence[Group]) -> dict[str, Any]:
    learner = one.config.learner
    difference = over_base(one, groups)
    return {
        "task": one.task, "group": one.label, "base": learner.base, "method": learner.method, "seeds": len(one.scores),
        "episodes": len(one.episodes), "frames": one.reached("frames"),
        "decisions": one.reached("decisions"), "step_unit": one.unit, **_named("mean", mean_interval(one.scores)),
        "std_seeds": mean_std(one.scores)[1], "std_episodes": mean_std(one.episodes)[1],
        **(_named("over_base", difference) if difference else {}),
    }  # fmt: skip


def _named(name: str, found: Interval) -> dict[str, float]:
    return {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}


def _cell(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return f"{value:.10g}" if math.isfinite(value) else ""


def write_latex(runs: Sequence[RunData], path: Path) -> Path:
    """Mean ± sample standard deviation over seeds, a row a group and a column a task; the best mean is bold."""
    groups, _ = group(runs)
    tasks = list(dict.fromkeys(one.task for one in groups))
    cells = {(one.label, one.task): mean_std(one.scores) for one in groups}
    best = {task: max((mean for (_, where), (mean, *_) in cells.items() if where == task), default=math.nan)
            for task in tasks}  # fmt: skip
    lines = [f"\\begin{{tabular}}{{l{'r' * len(tasks)}}}", "\\toprule"]
    lines += [" & ".join(["method", *map(_escaped, tasks)]) + " \\\\", "\\midrule"]
    for label in dict.fromkeys(one.label for one in groups):
        row = [_latex(cells.get((label, task)), best[task]) for task in tasks]
        lines.append(" & ".join([_escaped(label), *row]) + " \\\\")
    path.write_text("\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""]), encoding="utf-8")
    return path


def _latex(cell: tuple[float, float, int] | None, best: float) -> str:
    if cell is None or not cell[2]:
        return "--"
    mean, deviation, count = cell
    number = f"\\mathbf{{{mean:.0f}}}" if mean == best else f"{mean:.0f}"
    spread = f" \\pm {deviation:.0f}" if math.isfinite(deviation) else ""
    return f"${number}{spread}$ ({count})"


def _escaped(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)
