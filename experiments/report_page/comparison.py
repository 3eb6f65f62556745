"""Several runs on one page: curves by group, returns beside the papers', speed of learning, and every run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from experiments.paper_results import PaperResult, counterparts
from experiments.report_page.aggregates import aggregates
from experiments.report_page.curves import Curve, area, curve, mean_curve, steps_to_half
from experiments.report_page.groups import Group, differences, evaluation_curve, group, shared_unit
from experiments.report_page.html import Swatch, escape, figure, missing, section, switch, table
from experiments.report_page.marks import MARKERS, Series, band, line, points
from experiments.report_page.numbers import DASH, duration, exact, interval, short, significant
from experiments.report_page.run_data import RunData
from experiments.report_page.svg import Axis, Plot, Size, axis_for, both_widths
from experiments.statistics import Interval, difference_interval, mean_interval, mean_std

COLOURS = tuple(f"var(--c{i})" for i in range(1, 7))
# Measure of progress on the x axis -> its name, and the text of a tick.
UNITS: dict[str, tuple[str, Callable[[float], str]]] = {
    "frames": ("simulator frames", short),
    "decisions": ("decisions of the agent", short),
    "seconds": ("wall-clock minutes", lambda seconds: short(seconds / 60)),
}


def body(runs: Sequence[RunData]) -> str:
    groups, left_out = group(runs)
    tasks = list(dict.fromkeys(one.task for one in groups))
    styles = styles_of(list(dict.fromkeys(one.name for one in groups)))
    head = (
        f'<header><div class="eyebrow"><span>Comparison of {len(runs)} runs</span></div>'
        f"<h1>{escape(', '.join(tasks))}</h1><p class='subtitle'>{escape(', '.join(styles))}</p></header>"
    )
    lame = differences(groups, left_out)
    notes = [missing(text) for text in _missing(runs)]
    return "".join([
        head,
        _settings(groups),
        section("equal", "Before comparing", *map(missing, lame)) if lame else "",
        aggregates(groups, styles) if len(groups) > 1 else "",
        *(_task(task, [one for one in groups if one.task == task], styles, len(tasks) > 1) for task in tasks),
        *notes,
    ])  # fmt: skip


def _missing(runs: Sequence[RunData]) -> list[str]:
    """What could not be read, one sentence a kind."""
    where: dict[str, list[str]] = {}
    for run in runs:
        for text in run.missing:
            where.setdefault(text, []).append(str(run.path))
    return [
        f"{text}, in {'every run' if len(paths) == len(runs) > 1 else ', '.join(paths)}."
        for text, paths in where.items()
    ]


class Style(NamedTuple):
    colour: str
    marker: str


def styles_of(labels: Sequence[str]) -> dict[str, Style]:
    """The same for a group on every chart of the page; 30 of them differ."""
    return {
        label: Style(COLOURS[i % len(COLOURS)], tuple(MARKERS)[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, label in enumerate(labels)
    }


def _settings(groups: Sequence[Group]) -> str:
    """What the names stand for, if the settings are too many to be part of them."""
    settings = {one.name: one.label for one in groups if one.name != one.label}
    if not settings:
        return ""
    rows = [[escape(name), escape(label)] for name, label in settings.items()]
    return section("settings", "Settings", table(["group", "base, method, differences"], rows, (0, 1)))


def _task(task: str, groups: Sequence[Group], styles: dict[str, Style], several: bool) -> str:
    identifier = "task-" + "".join(c if c.isalnum() else "-" for c in task)
    return section(
        identifier,
        task if several else "Curves and figures",
        _chart(identifier, groups, styles),
        _returns(groups),
        _papers(groups),
        _speed(groups),
        _runs(groups),
    )


def _chart(identifier: str, groups: Sequence[Group], styles: dict[str, Style]) -> str:
    if not any(len(one.x) for members in groups for one in members.curves):
        return missing("None of these runs has been evaluated.")
    first = shared_unit(groups) or "frames"
    choices = [(unit, _curves(unit, groups, styles)) for unit in sorted(UNITS, key=lambda unit: unit != first)]
    names = {"seconds": "wall-clock"}
    swatches = [
        Swatch(f"{one.name} ({_seeds(one)})", styles[one.name].colour, glyph=styles[one.name].marker)
        for one in groups
    ]
    caption = (
        "Thick: mean over seeds, where all of them have been evaluated, between evaluations by straight lines. Band: "
        "95 % interval of that mean (Student's t; none for one seed), cut at the frame. Thin: single seeds."
    )
    switched = switch(f"x-{identifier}", [(names.get(unit, unit), chart) for unit, chart in choices])
    return figure("Evaluation return", switched, swatches, caption)


def _curves(unit: str, groups: Sequence[Group], styles: dict[str, Style]) -> str:
    lines = {id(one): [evaluation_curve(run, unit) for run in one.runs] for one in groups}
    everything = [each for members in lines.values() for each in members if len(each.x)]
    if not everything:
        return missing("timings.jsonl holds no line, so wall-clock figures are unknown.")
    right = max(each.x[-1] for each in everything)
    values = [value for each in everything for value in each.y]

    def draw(size: Size) -> str:
        axis = axis_for(values, zero=True)
        plot = Plot(size, Axis(0, max(right, 1)), axis, f"Evaluation return by group over {UNITS[unit][0]}")
        plot.y_grid("evaluation return, mean of the episodes")
        minutes = Axis(0, right / 60).ticks(max(3, size[0] // 110))
        plot.x_ticks([UNITS[unit]], [60 * tick for tick in minutes] if unit == "seconds" else None)
        means = {id(one): mean_curve(lines[id(one)]) for one in groups}
        for one in groups:
            mean, colour = means[id(one)], styles[one.name].colour
            band(plot, mean.x, np.clip(mean.low, axis.low, axis.high), np.clip(mean.high, axis.low, axis.high), colour)
        for one in groups:
            style, mean = styles[one.name], means[id(one)]
            for run, each in zip(one.runs, lines[id(one)], strict=True):
                line(plot, Series(f"{one.name}, seed {run.config.run.seed}", style.colour, each.x, each.y, 1.0, 0.45))
            name = f"{one.name}, mean of {_seeds(one)}"
            thick = Series(name, style.colour, mean.x, mean.y, 3.0, marker=style.marker)
            line(plot, thick)
            scale = 60 if unit == "seconds" else 1
            told = [
                [(UNITS[unit][0], x / scale), (one.name, y), ("95 % from", low), ("95 % to", high)]
                for x, y, low, high in zip(*mean, strict=True)
            ]
            points(plot, thick, told)
        return plot.render()

    return both_widths(draw)


def _returns(groups: Sequence[Group]) -> str:
    rows = [[
        escape(one.name), str(len(one.scores)), str(len(one.episodes)), interval(mean_interval(one.scores)),
        significant(mean_std(one.scores)[1]), significant(mean_std(one.episodes)[1]), _over_base(one, groups),
    ] for one in groups]  # fmt: skip
    head = ["method", "seeds", "episodes", "mean return", "std over seeds", "std over all episodes", "over its base"]
    return (
        "<h3 class='aside'>Final return</h3>" + table(head, rows)
        + "<p class='lead after'>Brackets: 95 % intervals over seeds (Student's t, Welch's for differences). Over its "
        "base: minus the mean of the same base learner without a VLM.</p>"
    )  # fmt: skip


def over_base(one: Group, groups: Sequence[Group]) -> Interval | None:
    """Mean return minus that of the same base learner without a VLM, if exactly one such group is there, and stands at
    the same step."""
    bases = [
        other for other in groups
        if (other.task, other.unit, other.at, other.config.learner.base, other.config.learner.method)
        == (one.task, one.unit, one.at, one.config.learner.base, "none")
    ]  # fmt: skip
    if one.config.learner.method == "none" or len(bases) != 1:
        return None
    return difference_interval(one.scores, bases[0].scores)


def _over_base(one: Group, groups: Sequence[Group]) -> str:
    difference = over_base(one, groups)
    return DASH if difference is None else interval(difference, sign=True)


def printed_results(one: Group) -> list[PaperResult]:
    return counterparts(one.task, one.config.learner.base, one.config.learner.method)


def _papers(groups: Sequence[Group]) -> str:
    """Final returns beside the numbers that the papers print; equal numbers share a row."""
    rows = []
    for one in groups:
        ours = mean_interval(one.scores)
        numbers: dict[tuple[float, float], dict[str, list[str]]] = {}
        for row in printed_results(one):
            numbers.setdefault((row.mean, row.std), {}).setdefault(row.printed_method, []).append(row.source)
        for (mean, std), names in numbers.items():
            told = "; ".join(f"{name} ({', '.join(sources)})" for name, sources in names.items())
            theirs = f"{exact(mean)} <small>± {exact(std)}</small>"
            rows.append([
                escape(one.name), interval(ours), theirs, interval(ours.minus(mean), sign=True), escape(told)
            ])  # fmt: skip
    if not rows:
        return ""
    notes = [
        "The papers do not say whether ± is over seeds or over all episodes (it seems the latter), nor whether a step "
        "is a frame or a decision. The interval of a difference to them holds our seeds' spread alone.",
        *_elsewhere(groups),
    ]  # fmt: skip
    printed = [row for one in groups for row in printed_results(one)]
    notes += list(dict.fromkeys(f"{row.source}, {row.printed_method}: {row.note}." for row in printed if row.note))
    return (
        "<h3 class='aside'>Beside the papers</h3>"
        + table(["method", "ours", "papers", "ours − papers", "printed as"], rows, (0, 4))
        + "".join(f"<p class='lead after'>{escape(note)}</p>" for note in notes)
    )


def _elsewhere(groups: Sequence[Group]) -> list[str]:
    """Groups that do not stand where the papers do."""
    texts = []
    for one in groups:
        budgets = sorted({row.steps for row in printed_results(one) if row.steps})
        if budgets and math.isfinite(one.at) and budgets != [one.at]:
            texts.append(
                f"{one.name} stands at {exact(one.reached('frames'))} frames ({exact(one.reached('decisions'))} "
                "decisions), the papers at "
                f"{', '.join(map(exact, budgets))} steps."
            )
    return texts


def _speed(groups: Sequence[Group]) -> str:
    rows = []
    for one in groups:
        ours = [_until(each, one.at) for each in one.curves if len(each.x)]
        columns = ([area(each) for each in ours], [steps_to_half(each) for each in ours],
                   [run.seconds / 60 for run in one.runs])  # fmt: skip
        rows.append([escape(one.name), *(interval(mean_interval(column)) for column in columns)])
    unit = _steps(groups)
    head = ["method", "area under the curve", f"{unit} to half of final", "minutes of wall-clock"]
    return (
        "<h3 class='aside'>Speed of learning</h3>" + table(head, rows)
        + "<p class='lead after'>Mean over seeds with its 95 % interval. Area under the curve is divided by the range "
        f"of {unit}, so it reads as a mean return.</p>"
    )  # fmt: skip


def _steps(groups: Sequence[Group]) -> str:
    """What to call a step of these groups."""
    return shared_unit(groups) or "steps"


def _until(each: Curve, step: float) -> Curve:
    return curve(each.x[each.x <= step], each.y[each.x <= step])


def _runs(groups: Sequence[Group]) -> str:
    rows = []
    for one in groups:
        for run, each in zip(one.runs, one.curves, strict=True):
            last = run.lines["evaluations"][-1] if run.lines["evaluations"] else {}
            episodes = len(last.get("returns") or [])
            spread = run.column("evaluations", "return_std")[-1] if last else math.nan
            final = (
                f"{exact(each.y[-1])} <small>± {significant(spread)}, {episodes} episodes</small>"
                if len(each.y) else DASH
            )  # fmt: skip
            rows.append([
                escape(one.name), str(run.config.run.seed), escape(run.status.get("state", "unknown")), final,
                exact(area(each)), exact(steps_to_half(each)), exact(run.reached[0]), exact(run.reached[1]),
                duration(run.seconds), escape(run.path.resolve().name),
            ])  # fmt: skip
    head = ["method", "seed", "state", "final evaluation", "area", f"{_steps(groups)} to half", "frames", "decisions",
            "wall-clock", "directory"]  # fmt: skip
    return "<h3 class='aside'>By run</h3>" + table(head, rows, (0, 9))


def _seeds(one: Group) -> str:
    return f"{len(one.runs)} seed{'s' if len(one.runs) > 1 else ''}"
