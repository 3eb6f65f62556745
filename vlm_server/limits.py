"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; the first nine are published by GetServerInfo under the same names."""

    max_message_bytes: int = 32 * 2**20
    max_frames_per_request: int = 64
    min_side: int = 8  # pixels
    max_side: int = 1024  # pixels
    max_new_tokens: int = 1024
    max_queue: int = 256  # waiting frames
    max_concurrent_calls: int = 32
    max_tuning_samples: int = 50_000
    max_adapters_per_run: int = 64
    max_uploaded_bytes: int = 4 * 2**30  # of uploads kept in memory: pixels, and 1 KiB a sample
    max_queued_jobs: int = 2  # tuning jobs that wait; one more may run
    max_state_value: float = 1e6  # magnitude of a state scalar; bounds the prompt's length
