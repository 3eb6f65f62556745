"""Return-aware adaptive loss weighting (RALW): samples of higher return weigh more in fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from vlm_server.encoding import IGNORED


def weights(
    returns: torch.Tensor | np.ndarray | Sequence[float],
    rule: str = "max_abs",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Weight of each sample, w = max(gbar, 0), with gbar its return normalised to [-1, 1] over one round
    (COVR, "Return-Aware Adaptive Loss Weight" and Eq. 6).

    The paper's words for the normalisation ("normalize ... to the range [-1, 1]") read as min-max, but it
    ties a weight of zero to g < 0, which only a map that keeps the sign does (C13):

    - "max_abs", what is meant: gbar = g / max|g|. Positive returns weigh, others do not.
    - "min_max", what is printed: gbar = 2 (g - min) / (max - min) - 1. The lower half of the range gets no
      weight. Equal returns, one sample included, tell nothing: gbar = 0.
    - "ones": every sample weighs 1, plain fine-tuning.
    - "uniform": at random in [0, 1), whatever the returns (M9 of COVR's Table 5).

    Args:
        returns: [N] discounted returns to go of one round's samples, reward units.
        rule: "max_abs", "min_max", "ones" or "uniform".
        generator: of "uniform", which needs one.

    Returns:
        float32 [N] on the CPU, in [0, 1]. All zero under "max_abs" if no return is positive.

    Raises:
        ValueError: unknown rule, uniform without a generator, not a vector, empty, or a return that is not finite.
    """
    g = torch.as_tensor(returns, dtype=torch.float64, device="cpu").detach()
    if g.ndim != 1 or len(g) == 0:
        raise ValueError(f"returns must be a vector of at least one value, not of shape {tuple(g.shape)}")
    if not bool(g.isfinite().all()):
        raise ValueError(f"returns must be finite; number {int((~g.isfinite()).nonzero()[0])} is not")
    if rule == "max_abs":
        largest = g.abs().max()
        normalised = g / largest if largest > 0 else torch.zeros_like(g)
    elif rule == "min_max":
        low, high = g.min(), g.max()
        # Halved before the difference, which would overflow at the ends of float64.
        normalised = 2 * (g / 2 - low / 2) / (high / 2 - low / 2) - 1 if high > low else torch.zeros_like(g)
    elif rule == "ones":
        normalised = torch.ones_like(g)
    elif rule == "uniform":
        if generator is None:
            raise ValueError("weight rule uniform needs a generator")
        normalised = torch.rand(len(g), generator=generator)
    else:
        raise ValueError(f"weight rule must be one of max_abs, min_max, ones, uniform, not {rule!r}")
    return normalised.clamp(0, 1).float()


def loss(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, label_smoothing: float = 0.1
) -> torch.Tensor:
    """L = 1/N_v sum_b w_b sum_t NLL_smooth(y_bt) (COVR, Eq. 6).

    N_v counts every valid token of the batch, those of samples with zero weight included, as printed (C14): a
    batch of little weight makes a small gradient. The paper smooths labels without saying how much or where; here
    each token's NLL is smoothed before its sample's weight applies (C15):

        NLL_smooth = (1 - s) (-log p_y) + s/V sum_v (-log p_v)

    Args:
        logits: float [B,T,V], aligned: ``logits[b, t]`` predicts ``labels[b, t]``.
        labels: int64 [B,T]; -100 marks tokens that do not count.
        weights: float [B], from ``weights``.
        label_smoothing: s in [0, 1).

    Returns:
        float32 scalar, nats per valid token.

    Raises:
        ValueError: shapes that do not fit, or no valid token.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2] or weights.shape != logits.shape[:1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (logits, labels, weights))
        raise ValueError(f"logits, labels and weights must be [B,T,V], [B,T] and [B], not {shapes}")
    valid = labels != IGNORED
    rows = valid.nonzero()[:, 0]
    if len(rows) == 0:
        raise ValueError("labels hold no valid token: all are -100")
    nll = cross_entropy(
        logits[valid].float(), labels[valid], reduction="none", label_smoothing=label_smoothing
    )
    return (weights.to(nll)[rows] * nll).sum() / len(rows)
