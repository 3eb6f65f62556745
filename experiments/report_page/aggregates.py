"""What holds over tasks: interquartile means, performance profiles, and who beats whom."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report_page.groups import Group
from experiments.report_page.html import Swatch, escape, figure, missing, section, table
from experiments.report_page.marks import Series, band, line
from experiments.report_page.numbers import interval, short, significant
from experiments.report_page.svg import Axis, Plot, Size, both_widths
from experiments.statistics import bootstrap_interval, iqm, probability_of_improvement, profile

# Suite -> the highest return of an episode; scores are returns divided by it. Without a bound there is no common scale.
HIGHEST = {"dmc": 1000.0}
THRESHOLDS = np.linspace(0, 1, 101)


def aggregates(groups: Sequence[Group], styles: Mapping[str, tuple[str, str]]) -> str:
    """The section over the tasks that every method has been run on. ``styles``: name -> (colour, marker)."""
    scores: dict[str, dict[str, np.ndarray]] = {}
    for one in groups:
        suite = one.task.split("/")[0]
        if suite in HIGHEST and len(one.scores):
            scores.setdefault(one.name, {})[one.task] = one.scores / HIGHEST[suite]
    if not scores:
        return section("aggregates", "Over tasks", missing("No group has a score between 0 and 1 to aggregate."))
    if all(len(seeds) < 2 for of in scores.values() for seeds in of.values()):
        return ""  # one seed each: the table of returns says it all
    everywhere = list(dict.fromkeys(one.task for one in groups))
    tasks = [task for task in everywhere if all(task in of for of in scores.values())]
    if not tasks:
        return section("aggregates", "Over tasks", missing("No task has an evaluation of every method."))
    chosen = {label: [of[task] for task in tasks] for label, of in scores.items()}
    notes = []
    if rest := [task for task in everywhere if task not in tasks]:
        notes.append(missing(f"Not in here, for not every method has a score there: {', '.join(rest)}."))
    lead = f"Score: final return over 1000, DeepMind Control's highest. Over {', '.join(tasks)}."
    return section(
        "aggregates", "Over tasks" if len(tasks) > 1 else "Over seeds", _iqm(chosen), _improvement(chosen),
        _profile(chosen, styles), *notes, lead=escape(lead),
    )  # fmt: skip


def _iqm(chosen: Mapping[str, list[np.ndarray]]) -> str:
    rows = [
        [escape(label), str(len(tasks)), str(sum(map(len, tasks))), interval(bootstrap_interval(tasks, iqm)),
         significant(float(np.mean([scores.mean() for scores in tasks])))]
        for label, tasks in chosen.items()
    ]  # fmt: skip
    return (
        "<h3 class='aside'>Interquartile mean</h3>"
        + table(["method", "tasks", "runs", "IQM of the scores", "mean of the scores"], rows)
        + "<p class='lead after'>Brackets: 95 % intervals, from a bootstrap stratified by task and Student's t. Below "
        "four runs nothing is cut off, and the IQM is the mean.</p>"
    )


def _improvement(chosen: Mapping[str, list[np.ndarray]]) -> str:
    if len(chosen) < 2:
        return ""
    rows = []
    for first, second in itertools.combinations(chosen, 2):
        found = probability_of_improvement(chosen[first], chosen[second])
        if found.estimate < 0.5:
            first, second, found = second, first, probability_of_improvement(chosen[second], chosen[first])
        rows.append([escape(first), escape(second), interval(found)])
    return (
        "<h3 class='aside'>Probability of improvement</h3>"
        + table(["method", "over", "probability"], rows, (0, 1))
        + "<p class='lead after'>That a seed of the one beats a seed of the other on a task drawn at random; 0.5: "
        "neither. Brackets: Newcombe's 95 % score interval.</p>"
    )


def _profile(chosen: Mapping[str, list[np.ndarray]], styles: Mapping[str, tuple[str, str]]) -> str:
    profiles = {label: profile(tasks, THRESHOLDS) for label, tasks in chosen.items()}

    def draw(size: Size) -> str:
        plot = Plot(size, Axis(0, 1), Axis(0, 1.02), "Performance profiles")
        plot.y_grid("share of runs above the score")
        plot.x_ticks([("score", short)])
        for label, found in profiles.items():
            band(plot, THRESHOLDS, found.low, found.high, styles[label][0])
        for label, found in profiles.items():
            line(plot, Series(label, styles[label][0], THRESHOLDS, found.estimate, 2.4))
        return plot.render()

    swatches = [Swatch(label, styles[label][0], "line") for label in profiles]
    caption = "Mean over tasks of the share of seeds above each score. Bands: Wilson's 95 % intervals, point by point."
    return figure("Performance profile", both_widths(draw), swatches, caption)
