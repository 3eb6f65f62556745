"""How often this process has had XLA compile a program, or fetch it from the cache: it stops growing after warm-up."""

from __future__ import annotations

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"
_programs = 0


def _heard(event: str, duration: float, **_) -> None:
    global _programs  # JAX offers no way to take a listener off again, so there is one a process
    _programs += event == _EVENT


jax.monitoring.register_event_duration_secs_listener(_heard)


def count() -> int:
    """Programs since this module was imported."""
    return _programs
