"""EDDF, the exploration-driven dynamic filter: which steps the VLM is tuned on (COVR, Eq. 5)."""

from __future__ import annotations

import math

import numpy as np

# Rule -> (sign of the IQR term, sign of the entropy inside the sigmoid), see threshold (C1).
RULES = {"intended": (1.0, -1.0), "literal": (1.0, 1.0), "relaxed": (-1.0, 1.0)}


def z_scores(returns: np.ndarray) -> np.ndarray:
    """(g - mean) / (std + 1e-8), the standardised returns of COVR, Eq. 5.

    The 1e-8 keeps equal returns finite: they all score (almost) 0 (C5). The std is that of the population.

    Args:
        returns: float [N], reward units, N >= 1.

    Returns:
        float64 [N], no unit.

    Raises:
        ValueError: returns not 1-D, empty or not finite.
    """
    returns = _checked(returns)
    if not len(returns):
        raise ValueError("returns must hold at least one step, got none")
    return (returns - returns.mean()) / (returns.std() + 1e-8)


def threshold(returns: np.ndarray, entropy: float, rule: str = "intended", *, zscore: bool = True) -> float:
    """tau = median(z) + sigmoid(-entropy) IQR(z), COVR, Eq. 5.

    Print and meaning part in the sign (C1). The print adds sigmoid(+entropy), so that an exploring policy
    would face the *stricter* threshold; the text says that high entropy lowers it and that it tightens as the
    policy settles. ``intended`` therefore adds sigmoid(-entropy), ``literal`` adds sigmoid(entropy) as
    printed, and ``relaxed`` subtracts sigmoid(entropy), which also tightens but keeps more than half of the
    steps.

    Args:
        returns: float [N], reward units, N >= 1.
        entropy: of the policy, nats per action dimension (C2).
        rule: intended | literal | relaxed.
        zscore: false leaves the returns as they are (M5 of Table 5).

    Returns:
        tau in z units, in reward units without z-score. The IQR is that of linearly interpolated quartiles.

    Raises:
        ValueError: returns not 1-D, empty or not finite, entropy not finite, unknown rule.
    """
    z = z_scores(returns) if zscore else _checked(returns)
    if not len(z):
        raise ValueError("returns must hold at least one step, got none")
    outer, inner = _signs(rule)
    if not math.isfinite(entropy):
        raise ValueError(f"entropy must be finite, got {entropy}")
    lower, median, upper = np.percentile(z, (25, 50, 75))
    # sigmoid(x) = (1 + tanh(x / 2)) / 2 cannot overflow.
    return float(median + outer * 0.5 * (1.0 + math.tanh(inner * entropy / 2.0)) * (upper - lower))


def select(
    returns: np.ndarray,
    entropy: float,
    rule: str = "intended",
    *,
    compare: str = "z",
    minimum: int = 0,
    zscore: bool = True,
) -> np.ndarray:
    """Which steps are kept: those whose standardised return is above tau (COVR, Eq. 5).

    Print and meaning part in what is compared (C3): the text holds the raw g against a tau made of z scores
    (``compare="raw"``); the meaning holds z against it. With z the standardisation changes nothing at all,
    for median and IQR move along with any affine map of the returns (C4).

    Args:
        returns: float [N], reward units.
        entropy: nats per action dimension.
        rule: as of ``threshold``.
        compare: z | raw.
        minimum: steps to keep at least (C5). If tau leaves fewer, the ``minimum`` best are kept, of equal
            ones the earlier; never more than N.
        zscore: false holds the raw returns against a threshold of the raw returns.

    Returns:
        bool [N]; empty for N = 0 (a round before the first episode closed keeps nothing).

    Raises:
        ValueError: as ``threshold``, unknown compare, negative minimum.
    """
    returns = _checked(returns)
    if compare not in ("z", "raw"):
        raise ValueError(f"compare must be one of z, raw, got {compare!r}")
    if minimum < 0:
        raise ValueError(f"minimum must be 0 or more, got {minimum}")
    if not len(returns):
        return np.zeros(0, bool)
    standardised = compare == "z" and zscore
    kept = (z_scores(returns) if standardised else returns) > threshold(returns, entropy, rule, zscore=zscore)
    if kept.sum() < minimum:
        kept = np.zeros(len(returns), bool)
        kept[np.argsort(-returns, kind="stable")[:minimum]] = True
    return kept


def _checked(returns: np.ndarray) -> np.ndarray:
    returns = np.asarray(returns, np.float64)
    if returns.ndim != 1:
        raise ValueError(f"returns must have shape [N], got {list(returns.shape)}")
    if not np.isfinite(returns).all():
        raise ValueError("returns must be finite")
    return returns


def _signs(rule: str) -> tuple[float, float]:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    return RULES[rule]
