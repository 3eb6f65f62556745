"""Figures of a learning curve and of several seeds; NumPy only, no drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """An evaluation curve: strictly growing frames, finite mean returns."""

    x: np.ndarray  # float64 [N], simulator frames
    y: np.ndarray  # float64 [N], mean return


def curve(frames: Sequence[float], means: Sequence[float]) -> Curve:
    """Drops points that are not finite; of several points at one place the last one counts."""
    known = {x: y for x, y in zip(frames, means, strict=True) if math.isfinite(x) and math.isfinite(y)}
    x = np.asarray(sorted(known), float)
    return Curve(x, np.asarray([known[value] for value in x], float))


def area(line: Curve) -> float:
    """Area under the curve (trapezoids) over its range of frames, in return units; NaN below two points."""
    if len(line.x) < 2:
        return math.nan
    return float(np.trapezoid(line.y, line.x) / (line.x[-1] - line.x[0]))


def frames_to_half(line: Curve) -> float:
    """Frames at which the curve, drawn with straight lines, first reaches half of its final value.

    NaN for an empty curve and for a final value that is not positive (half of it then means nothing).
    """
    if not len(line.x) or line.y[-1] <= 0:
        return math.nan
    target = line.y[-1] / 2
    first = int(np.argmax(line.y >= target))
    if first == 0:
        return float(line.x[0])
    return float(np.interp(target, line.y[first - 1 : first + 1], line.x[first - 1 : first + 1]))


def mean_curve(lines: Sequence[Curve]) -> Curve:
    """Mean over seeds where all of them have been evaluated, between evaluations by straight lines."""
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return Curve(np.zeros(0), np.zeros(0))
    low, high = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    grid = np.unique(np.concatenate([line.x for line in lines]))
    grid = grid[(grid >= low) & (grid <= high)]
    if not len(grid):
        return Curve(np.zeros(0), np.zeros(0))
    return Curve(grid, np.mean([np.interp(grid, line.x, line.y) for line in lines], axis=0))


def mean_std(values: Sequence[float]) -> tuple[float, float, int]:
    """(mean, sample standard deviation, count) of the finite values; no deviation (NaN) below two of them."""
    known = np.asarray([value for value in values if math.isfinite(value)])
    if not len(known):
        return math.nan, math.nan, 0
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known)
