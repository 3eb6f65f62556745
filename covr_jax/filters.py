"""Which of D_f's steps are kept: EDDF, or one of the filters that COVR's Table 5 puts in its place."""

from __future__ import annotations

import numpy as np

from covr_jax import eddf
from covr_jax.config import EddfConfig

KINDS = ("eddf", "random", "percentile")
SCORES = ("return", "reward", "q")


def select(
    scores: np.ndarray, entropy: float, config: EddfConfig, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """Which steps are kept, bool [N], and the threshold tau that they had to exceed.

    ``eddf``: COVR, Eq. 5. ``random`` (M1, C25): as many steps as EDDF would keep, drawn without replacement; tau is
    EDDF's. ``percentile`` (M2 to M4, C21): the scores above their ``percentile``-th percentile, linearly interpolated,
    so that 80 keeps the best fifth; with ``keep_top`` the best 80 % instead, as Table 5's "top-80%" may be read too.
    tau is then in the unit of the scores.

    Args:
        scores: float [N], N >= 1: return-to-go, reward (M6) or Q value (M7) of each step.
        entropy: as of ``eddf.threshold``.
        rng: of ``random``.

    Raises ValueError for an unknown filter, and as ``eddf.select``.
    """
    if config.filter == "percentile":
        tau = float(np.percentile(scores, 100 - config.percentile if config.keep_top else config.percentile))
        return np.asarray(scores) > tau, tau
    options = {"compare": config.compare, "minimum": config.minimum, "zscore": config.zscore}
    tau = eddf.threshold(scores, entropy, config.rule, zscore=config.zscore)
    kept = eddf.select(scores, entropy, config.rule, **options)
    if config.filter == "eddf":
        return kept, tau
    if config.filter == "random":
        drawn = np.zeros(len(kept), bool)
        drawn[rng.choice(len(kept), int(kept.sum()), replace=False)] = True
        return drawn, tau
    raise ValueError(f"filter {config.filter!r} is unknown; allowed: {', '.join(KINDS)}")
