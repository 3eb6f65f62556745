"""Several runs on one page: curves by method, finals, areas under the curve, frames to half of the final."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from covr_jax.config import Config
from experiments.configuration import as_text
from experiments.configuration_values import field_types
from experiments.report_page.html import Swatch, escape, figure, missing, section, table
from experiments.report_page.marks import MARKERS, Series, line, points
from experiments.report_page.numbers import DASH, duration, exact, significant
from experiments.report_page.run_data import RunData
from experiments.report_page.statistics import Curve, area, curve, frames_to_half, mean_curve, mean_std
from experiments.report_page.svg import Axis, Plot, Size, axis_for, both_widths, step_rows

COLOURS = tuple(f"var(--c{i})" for i in range(1, 7))


def body(runs: Sequence[RunData]) -> str:
    tasks = list(dict.fromkeys(run.config.env.name for run in runs))
    named = dict(zip(map(id, runs), distinct_labels(runs), strict=True))
    labels = list(dict.fromkeys(named.values()))
    head = (
        f'<header><div class="eyebrow"><span>Comparison of {len(runs)} runs</span></div>'
        f"<h1>{escape(', '.join(tasks))}</h1><p class='subtitle'>{escape(', '.join(labels))}</p></header>"
    )
    notes = [missing(f"{run.path}: {text}.") for run in runs for text in run.missing]
    return (
        head
        + "".join(
            _task(task, [r for r in runs if r.config.env.name == task], named, len(tasks) > 1)
            for task in tasks
        )
        + "".join(notes)
    )


class Style(NamedTuple):
    colour: str
    marker: str


def style_of(label: str, labels: Sequence[str]) -> Style:
    """The same for a method on every chart of the page; 30 of them differ."""
    place = labels.index(label)
    return Style(
        COLOURS[place % len(COLOURS)], tuple(MARKERS)[(place + place // len(COLOURS)) % len(MARKERS)]
    )


def distinct_labels(runs: Sequence[RunData]) -> list[str]:
    """One label a run: base and method, and the settings in which runs of the same base and method differ.

    Seed and environment make no label: runs that differ in nothing else are seeds of one method.
    """
    settings = [flat(run.config) for run in runs]
    labels = []
    for run, mine in zip(runs, settings, strict=True):
        peers = [theirs for other, theirs in zip(runs, settings, strict=True) if other.label == run.label]
        differing = [
            path for path in mine if path != "run.seed" and not path.startswith("env.")
            and any(theirs[path] != mine[path] for theirs in peers)
        ]  # fmt: skip
        labels.append(", ".join([run.label, *(f"{path}={as_text(mine[path])}" for path in differing)]))
    return labels


def flat(config: Config) -> dict[str, Any]:
    """Dotted path -> value of every field."""
    return {path: functools.reduce(getattr, path.split("."), config) for path in field_types()}


def _task(task: str, runs: Sequence[RunData], named: dict[int, str], several: bool) -> str:
    labels = list(dict.fromkeys(named.values()))
    curves = {
        id(run): curve(run.column("evaluations", "frames"), run.column("evaluations", "return_mean"))
        for run in runs
    }
    groups = {label: [run for run in runs if named[id(run)] == label] for label in labels}
    groups = {label: members for label, members in groups.items() if members}
    warnings = [missing(text) for text in _unequal(runs)]
    identifier = "task-" + "".join(c if c.isalnum() else "-" for c in task)
    return section(
        identifier,
        task if several else "Curves and figures",
        _chart(runs, groups, curves, labels),
        _methods(groups, curves),
        _runs(runs, curves, named),
        *warnings,
    )


def _chart(
    runs: Sequence[RunData], groups: dict[str, list[RunData]], curves: dict[int, Curve], labels: Sequence[str]
) -> str:
    everything = [value for one in curves.values() for value in one.y]
    if not everything:
        return missing("None of these runs has been evaluated.")
    right = max(one.x[-1] for one in curves.values() if len(one.x))
    ratios = {round(run.decisions_per_frame, 9) for run in runs if math.isfinite(run.decisions_per_frame)}

    def draw(size: Size) -> str:
        rows = step_rows(ratios.copy().pop() if len(ratios) == 1 else math.nan)
        plot = Plot(
            size,
            Axis(0, max(right, 1)),
            axis_for(everything, zero=True),
            "Evaluation return by method",
            len(rows),
        )
        plot.y_grid("evaluation return, mean of the episodes")
        plot.x_ticks(rows)
        for label, members in groups.items():
            style = style_of(label, labels)
            for run in members:
                one = curves[id(run)]
                thin = Series(f"{label}, seed {run.config.run.seed}", style.colour, one.x, one.y, 1.0, 0.55)
                line(plot, thin)
            mean = mean_curve([curves[id(run)] for run in members])
            thick = Series(
                f"{label}, mean of {len(members)}", style.colour, mean.x, mean.y, 3.0, marker=style.marker
            )
            line(plot, thick)
            told = [
                [("frames", x), (label, y), ("seeds", len(members))]
                for x, y in zip(mean.x, mean.y, strict=True)
            ]
            points(plot, thick, told)
        return plot.render()

    swatches = [
        Swatch(
            f"{label} ({_seeds(members)})",
            style_of(label, labels).colour,
            glyph=style_of(label, labels).marker,
        )
        for label, members in groups.items()
    ]
    caption = "Thick: mean over seeds, where all of them have been evaluated. Thin: single seeds."
    return figure("Evaluation return", both_widths(draw), swatches, caption)


def _methods(groups: dict[str, list[RunData]], curves: dict[int, Curve]) -> str:
    rows = []
    for label, members in groups.items():
        ours = [curves[id(run)] for run in members]
        finals = [one.y[-1] for one in ours if len(one.y)]
        columns = (finals, [area(one) for one in ours], [frames_to_half(one) for one in ours])
        rows.append([escape(label), str(len(finals)), *(_plus_minus(mean_std(column)) for column in columns)])
    head = ["method", "seeds", "final return", "area under the curve", "frames to half of final"]
    return (
        "<h3 class='aside'>By method</h3>"
        + table(head, rows)
        + "<p class='lead after'>Mean ± sample standard deviation over seeds. Area under the curve is "
        "divided by the range of frames, so it reads as a mean return.</p>"
    )


def _runs(runs: Sequence[RunData], curves: dict[int, Curve], named: dict[int, str]) -> str:
    rows = []
    for run in runs:
        one = curves[id(run)]
        last = run.lines["evaluations"][-1] if run.lines["evaluations"] else {}
        episodes = len(last.get("returns") or [])
        spread = run.column("evaluations", "return_std")[-1] if last else math.nan
        final = (
            f"{exact(one.y[-1])} <small>± {significant(spread)}, {episodes} episodes</small>"
            if len(one.y)
            else DASH
        )
        rows.append([
            escape(named[id(run)]), str(run.config.run.seed), escape(run.status.get("state", "unknown")),
            final, exact(area(one)), exact(frames_to_half(one)), exact(run.reached[0]),
            exact(run.reached[1]), duration(run.seconds), escape(run.path.resolve().name),
        ])  # fmt: skip
    head = ["method", "seed", "state", "final evaluation", "area", "frames to half", "frames",
            "decisions",             "wall-clock", "directory"]  # fmt: skip
    return "<h3 class='aside'>By run</h3>" + table(head, rows, (0, 9))


def _plus_minus(figures: tuple[float, float, int]) -> str:
    mean, deviation, count = figures
    if not count:
        return DASH
    return exact(mean) + (
        f" <small>± {significant(deviation)}</small>"
        if math.isfinite(deviation)
        else " <small>one seed</small>"
    )


def _seeds(members: Sequence[RunData]) -> str:
    return f"{len(members)} seed{'s' if len(members) > 1 else ''}"


def _unequal(runs: Sequence[RunData]) -> list[str]:
    """What makes the comparison lame."""
    texts = []
    budgets = {run.budget for run in runs}
    if len(budgets) > 1:
        texts.append(
            "The runs have different budgets, so their areas and finals do not cover the same range."
        )
    unfinished = [run for run in runs if run.status.get("state") != "done"]
    if unfinished:
        texts.append(
            f"{len(unfinished)} of {len(runs)} runs are not done: "
            + ", ".join(str(run.path) for run in unfinished)
            + "."
        )
    return texts
