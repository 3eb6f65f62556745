"""How much one request, one client and all of them together may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _limit(default: float, explained: str, low: float = 1, high: float = 2**40) -> Any:
    return field(default=default, metadata={"help": explained, "low": low, "high": high})


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. Each is a flag of ``python -m vlm_server`` and a field of covr.prior.v1.Limits of the same
    name, and a refusal names the one that it is about.

    Raises:
        ValueError: a limit out of its own bounds, or two that contradict each other.
    """

    max_message_bytes: int = _limit(32 * 2**20, "Bytes of one message, in both directions.", 4 * 2**20, 512 * 2**20)
    max_frames_per_request: int = _limit(64, "Pictures in one question.", high=4096)
    max_pixels_per_request: int = _limit(8 * 2**20, "Pixels of all pictures of one question together.")
    min_side: int = _limit(8, "Pixels of a picture's shorter side, at least.", 1, 2**14)
    max_side: int = _limit(1024, "Pixels of a picture's longer side, at most.", 1, 2**14)
    max_prompt_chars: int = _limit(8192, "Characters of one question's text.", 256, 2**20)
    max_state_value: float = _limit(1e6, "Magnitude of a scalar beside a picture.", 0.0, 1e300)
    max_new_tokens: int = _limit(1024, "Tokens of one reply.", high=2**16)
    max_queue: int = _limit(256, "Frames that may wait, of all clients together.", high=2**20)
    max_queue_per_client: int = _limit(128, "Frames of one client (one connection) that may wait.", high=2**20)
    max_concurrent_calls: int = _limit(64, "Calls at a time, of all clients together.", high=1024)
    max_calls_per_client: int = _limit(32, "Calls at a time of one client (one connection).", high=1024)
    max_uploaded_bytes: int = _limit(4 * 2**30, "Bytes of uploaded samples in memory: pixels, and 1 KiB a sample.")
    max_tuning_samples: int = _limit(50_000, "Samples of one data set.", high=2**31)
    max_tuning_rank: int = _limit(256, "Rank of an adapter.", high=1024)
    max_tuning_steps: int = _limit(200_000, "Optimiser steps of one tuning job.", high=2**31)
    max_queued_jobs: int = _limit(2, "Tuning jobs that may wait; one more may run.", high=1024)
    max_adapters_per_run: int = _limit(64, "Adapter versions of one run.", high=2**20)
    max_adapter_bytes: int = _limit(64 * 2**30, "Bytes of all adapter versions on disk.", high=2**50)

    def __post_init__(self) -> None:
        for each in fields(self):
            value, low, high = getattr(self, each.name), each.metadata["low"], each.metadata["high"]
            if not low <= value <= high:
                raise ValueError(f"{each.name}: must be in [{low:g}, {high:g}], not {value:g}")
        if self.min_side > self.max_side:
            raise ValueError(f"min_side: must be at most max_side, {self.max_side}, not {self.min_side}")
