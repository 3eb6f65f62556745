"""What is drawn into a chart: lines, bands, points, bars, vertical notes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report_page.html import escape
from experiments.report_page.numbers import exact, finite
from experiments.report_page.svg import (
    CHARACTER,
    RIGHT,
    SMALL,
    TOP,
    Axis,
    Plot,
    Size,
    axis_for,
    step_rows,
    tip,
    value_tip,
    wants_log,
)


@dataclass(frozen=True)
class Series:
    """One curve over simulator frames; non-finite values are gaps."""

    label: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    width: float = 2.0
    opacity: float = 1.0
    marker: str = "●"  # a key of MARKERS


def line(plot: Plot, series: Series) -> None:
    """The curve; a value without finite neighbours is drawn as a dot, so that none disappears."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(series.x, series.y, strict=True):
        if math.isfinite(y) and (y > 0 or not plot.y_axis.log):
            runs[-1].append((plot.x(x), plot.y(y)))
        elif runs[-1]:
            runs.append([])
    style = f'style="stroke:{series.colour};stroke-width:{series.width};opacity:{series.opacity}"'
    for run in runs:
        if len(run) == 1:
            plot.add(
                f'<circle cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="2.5" style="fill:{series.colour}"/>'
            )
        elif run:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in run)
            plot.add(f'<path class="curve" d="M{path}" {style}>{tip(series.label)}</path>')


def points(plot: Plot, series: Series, pairs: Sequence[Sequence[tuple[str, float]]]) -> None:
    """Dots on the curve that tell their values (``pairs``, one list a point) when pointed at."""
    for x, y, told in zip(series.x, series.y, pairs, strict=True):
        if math.isfinite(y) and (y > 0 or not plot.y_axis.log):
            place = f'cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}"'
            plot.add(
                f'<g class="point">{_marker(series, plot.x(x), plot.y(y))}'
                f'<circle {place} r="11" class="hit"/>{value_tip(*told)}</g>'
            )


# Colour alone does not tell methods apart for everybody.
MARKERS = {
    "●": "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0 -7.2 0Z",
    "■": "M-3.6 -3.6h7.2v7.2h-7.2Z",
    "▲": "M0 -4.8L4.6 3.6H-4.6Z",
    "◆": "M0 -5L5 0L0 5L-5 0Z",
    "▼": "M0 4.8L4.6 -3.6H-4.6Z",
    "✚": "M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5Z",
}


def _marker(series: Series, x: float, y: float) -> str:
    place = f'transform="translate({x:.1f} {y:.1f})"'
    return f'<path d="{MARKERS[series.marker]}" {place} style="fill:{series.colour}"/>'


def band(plot: Plot, x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> None:
    """The area between two curves; steps where either is not finite are left out."""
    known = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if math.isfinite(b) and math.isfinite(c)]
    if len(known) > 1:
        there = [f"{plot.x(a):.1f} {plot.y(c):.1f}" for a, _, c in known]
        back = [f"{plot.x(a):.1f} {plot.y(b):.1f}" for a, b, _ in reversed(known)]
        plot.add(f'<path class="band" d="M{"L".join(there + back)}Z" style="fill:{colour}"/>')


def dots(plot: Plot, x: float, values: Sequence[float], colour: str, what: str) -> None:
    for value in finite(values):
        plot.add(
            f'<circle class="episode" cx="{plot.x(x):.1f}" cy="{plot.y(value):.1f}" r="2.2" '
            f'style="fill:{colour}">'
            f"{value_tip((what, value))}</circle>"
        )


def verticals(plot: Plot, notes: Sequence[tuple[float, str]]) -> None:
    """Dashed lines with a short text above, for events such as rounds; texts that collide are left out."""
    taken = -math.inf
    for value, text in notes:
        x = plot.x(value)
        # A small chart has no room for words; the number at the end of the text says enough.
        shown = text if plot.width > 500 else text.split()[-1]
        half = CHARACTER * len(shown) / 2
        plot.add(f'<path class="event" d="M{x:.1f} {TOP}V{plot.bottom}">{tip(text)}</path>')
        if x - half > taken and x + half < plot.width:
            plot.add(
                f'<text class="event" x="{x:.1f}" y="{TOP - 4}" text-anchor="middle">{escape(shown)}</text>'
            )
            taken = x + half + 2


def bars(plot: Plot, edges: Sequence[float], heights: Sequence[float], colour: str, what: str) -> None:
    """A histogram: ``edges`` has one value more than ``heights``."""
    for low, high, height in zip(edges, edges[1:], heights, strict=False):
        left, right, top = plot.x(low), plot.x(high), plot.y(height)
        plot.add(
            f'<rect x="{left + 0.5:.1f}" y="{top:.1f}" width="{max(right - left - 1, 0.5):.1f}" '
            f'height="{max(plot.bottom - top, 0):.1f}" style="fill:{colour}">'
            f"{tip(f'{exact(low)} to {exact(high)}: {exact(height)} {what}')}</rect>"
        )


def small_curve(
    title: str, curves: Sequence[Series], y_label: str, decisions_per_frame: float, right: float,
    zero: bool = False,    notes: Sequence[tuple[float, str]] = (), size: Size = SMALL,
) -> str:  # fmt: skip
    """Curves over frames, from 0 to ``right`` frames so that neighbouring charts share their x axis."""
    values = [value for curve in curves for value in curve.y]
    y_axis = axis_for(values, zero=zero, log=not zero and wants_log(values))
    rows = step_rows(decisions_per_frame)
    plot = Plot(size, Axis(0, max(right, 1)), y_axis, f"{title} over simulator frames", len(rows))
    plot.y_grid(y_label)
    verticals(plot, notes)
    plot.x_ticks(rows)
    for curve in curves:
        line(plot, curve)
        if len(curve.x) <= 200:
            _hidden_points(plot, curve, y_label)
    return plot.render()


def _hidden_points(plot: Plot, curve: Series, y_label: str) -> None:
    reach = min(9.0, max(3.0, (plot.width - plot.left - RIGHT) / max(len(curve.x), 1)))
    for x, y in zip(curve.x, curve.y, strict=True):
        if math.isfinite(y) and (y > 0 or not plot.y_axis.log):
            place = f'cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}"'
            told = value_tip(("frames", x), (y_label, y))
            plot.add(f'<circle class="hit" {place} r="{reach:.1f}">{told}</circle>')
