"""Statistics of scores over seeds and tasks: intervals that hold with the few seeds that one has.

A score is one seed's final return. The 95 % intervals were chosen by their measured coverage (docs/statistics.md,
tests/experiments/test_statistics.py):

- a mean, or a difference of means, on one task: Student's t (Welch's). A percentile bootstrap cannot leave the range of
  its few seeds.
- an aggregate over tasks: standard error from a bootstrap stratified by task, times Student's t. The resampling is
  Hesterberg's bootknife (2004): each draw leaves one seed of the task out, which undoes the bootstrap's narrowness.
- the probability of improvement: Newcombe's score interval (2006, method 5), and a performance profile: Wilson's. Both
  stay honest where all seeds agree and a bootstrap would give an interval of no width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
UPPER = (1 + LEVEL) / 2

# Scores of each task, arrays [..., n_k], to one figure, [...].
Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]


class Interval(NamedTuple):
    """An estimate and its 95 % interval; NaN bounds where the data allow none (one seed). Floats, or float64 [T]."""

    estimate: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray

    def minus(self, constant: float) -> Interval:
        return Interval(*(value - constant for value in self))


def mean_std(values: ArrayLike) -> tuple[float, float, int]:
    """(mean, sample standard deviation, count) of the finite values; no deviation (NaN) below two of them."""
    known = _finite(values)
    if not len(known):
        return math.nan, math.nan, 0
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan, len(known)


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of the finite values, with Student's t interval."""
    mean, deviation, count = mean_std(values)
    half = stats.t.ppf(UPPER, count - 1) * deviation / math.sqrt(count) if count > 1 else math.nan
    return Interval(mean, mean - half, mean + half)


def difference_interval(ours: ArrayLike, theirs: ArrayLike) -> Interval:
    """Mean of ours minus mean of theirs, with Welch's interval: the variances may differ, the seeds are not paired."""
    (a, s, n), (b, t, m) = mean_std(ours), mean_std(theirs)
    if min(n, m) < 2:
        return Interval(a - b, math.nan, math.nan)
    u, v = s**2 / n, t**2 / m
    freedom = (u + v) ** 2 / (u**2 / (n - 1) + v**2 / (m - 1)) if u + v > 0 else 1.0
    half = stats.t.ppf(UPPER, freedom) * math.sqrt(u + v)
    return Interval(a - b, a - b - half, a - b + half)


def iqm(tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Interquartile mean over all seeds of all tasks: the lowest and the highest quarter (rounded down) left out.

    Args:
        tasks: scores [..., n_k], one array a task.
    """
    scores = np.sort(np.concatenate(tasks, axis=-1), axis=-1)
    cut = scores.shape[-1] // 4
    return scores[..., cut : scores.shape[-1] - cut].mean(axis=-1)


def profile(tasks: Sequence[ArrayLike], thresholds: np.ndarray) -> Interval:
    """Performance profile: the share of seeds that score above each threshold, mean over tasks; float64 [T] each.

    The bounds are Wilson's for the share of all seeds, point by point. They are wide where tasks differ.
    """
    arrays = [np.asarray(scores, float) for scores in tasks]
    share = np.mean([(scores[:, None] > thresholds).mean(axis=0) for scores in arrays], axis=0)
    count = len(arrays) ** 2 / sum(1 / len(scores) for scores in arrays)
    z = stats.norm.ppf(UPPER)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, np.maximum(centre - half, 0), np.minimum(centre + half, 1))


def bootstrap_draws(tasks: Sequence[ArrayLike], statistic: Statistic, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """The statistic of ``draws`` resamples, float64 [draws]; seeds are resampled within their task."""
    rng = np.random.default_rng(seed)
    resampled = []
    for scores in map(np.asarray, tasks):
        count = len(scores)
        left_out = rng.integers(0, count, (draws, 1))
        chosen = rng.integers(0, count - 1, (draws, count))
        resampled.append(scores[chosen + (chosen >= left_out)])
    return statistic(resampled)


def bootstrap_interval(tasks: Sequence[ArrayLike], statistic: Statistic, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The statistic of ``tasks`` (scores [n_k], one array a task); no bounds where a task has one seed."""
    tasks = [np.asarray(scores, float) for scores in tasks]
    estimate = float(statistic(tasks))
    if min(map(len, tasks)) < 2:
        return Interval(estimate, math.nan, math.nan)
    freedom = sum(len(scores) - 1 for scores in tasks)
    half = float(stats.t.ppf(UPPER, freedom) * bootstrap_draws(tasks, statistic, seed, draws).std(ddof=1))
    return Interval(estimate, estimate - half, estimate + half)


def probability_of_improvement(ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike]) -> Interval:
    """How probably a seed of ours beats a seed of theirs on a task, ties half; mean over tasks.

    Args:
        ours, theirs: scores [n_k] and [m_k] on the same tasks in the same order.
    """
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(ours, theirs, strict=True)]
    wins = [np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)) for a, b in pairs]
    estimate = float(np.mean(wins))
    if min(min(len(a), len(b)) for a, b in pairs) < 2:
        return Interval(estimate, math.nan, math.nan)
    # All values of the probability that lie within 1.96 of the standard errors which they themselves imply.
    grid = np.linspace(0, 1, 10_001)
    variance = sum(_win_variance(grid, len(a), len(b)) for a, b in pairs) / len(pairs) ** 2
    inside = grid[np.abs(grid - estimate) <= stats.norm.ppf(UPPER) * np.sqrt(variance) + 1e-9]
    return Interval(estimate, float(inside.min(initial=estimate)), float(inside.max(initial=estimate)))


def _win_variance(win: np.ndarray, n: int, m: int) -> np.ndarray:
    """Variance of the share of pairs won, if ``win`` is the probability to win one."""
    shared = (n + m) / 2 - 1
    return win * (1 - win) * (1 + shared * ((1 - win) / (2 - win) + win / (1 + win))) / (n * m)


def _finite(values: ArrayLike) -> np.ndarray:
    known = np.asarray(values, float)
    return known[np.isfinite(known)]
