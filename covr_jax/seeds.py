"""Every random number of a run is a function of (seed, stream, counters)."""

from __future__ import annotations

import numpy as np

_STREAMS = {
    name: number
    for number, name in enumerate(
        (
            "episode", "evaluation", "replay", "random_action", "action", "vlm_alone", "tuning", "alternation",
            "behaviour",
        )
    )
}


def generator(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """A generator that depends on its arguments alone. Raises KeyError for an unknown stream."""
    # Their number is part of the key: NumPy takes [1, 5] and [1, 5, 0] for the same.
    return np.random.default_rng([seed, _STREAMS[stream], len(counters), *counters])


def integer(seed: int, stream: str, *counters: int) -> int:
    """A 31-bit seed that depends on its arguments alone, for libraries that want an integer."""
    return int(generator(seed, stream, *counters).integers(2**31))
