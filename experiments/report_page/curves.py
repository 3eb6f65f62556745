"""Figures of a learning curve, and the mean curve of several seeds; no drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.statistics import mean_interval


class Curve(NamedTuple):
    """An evaluation curve: strictly growing places, finite mean returns."""

    x: np.ndarray  # float64 [N], frames, decisions or another measure of progress
    y: np.ndarray  # float64 [N], mean return


def curve(places: Sequence[float], means: Sequence[float]) -> Curve:
    """Drops points that are not finite; of several points at one place the last one counts."""
    known = {x: y for x, y in zip(places, means, strict=True) if math.isfinite(x) and math.isfinite(y)}
    x = np.asarray(sorted(known), float)
    return Curve(x, np.asarray([known[value] for value in x], float))


def area(line: Curve) -> float:
    """Area under the curve (trapezoids) over its range of steps, in return units; NaN below two points."""
    if len(line.x) < 2:
        return math.nan
    return float(np.trapezoid(line.y, line.x) / (line.x[-1] - line.x[0]))


def steps_to_half(line: Curve) -> float:
    """Steps after which the curve, drawn with straight lines, first reaches half of its final value.

    NaN for an empty curve and for a final value that is not positive (half of it then means nothing).
    """
    if not len(line.x) or line.y[-1] <= 0:
        return math.nan
    target = line.y[-1] / 2
    first = int(np.argmax(line.y >= target))
    if first == 0:
        return float(line.x[0])
    return float(np.interp(target, line.y[first - 1 : first + 1], line.x[first - 1 : first + 1]))


class MeanCurve(NamedTuple):
    """Mean over seeds with its 95 % interval, float64 [N] each; NaN bounds for one seed."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_curve(lines: Sequence[Curve]) -> MeanCurve:
    """Mean over seeds where all of them have been evaluated, between evaluations by straight lines."""
    lines = [line for line in lines if len(line.x)]
    grid = np.unique(np.concatenate([line.x for line in lines])) if lines else np.zeros(0)
    grid = grid[[all(line.x[0] <= x <= line.x[-1] for line in lines) for x in grid]] if len(grid) else grid
    seeds = [np.interp(grid, line.x, line.y) for line in lines]
    means = [mean_interval(values) for values in np.transpose(seeds)] if len(grid) else []
    return MeanCurve(grid, *np.reshape(means, (-1, 3)).T)
