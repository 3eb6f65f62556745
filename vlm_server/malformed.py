"""Why a reply does not parse, in one word: for counting only. ``Task.parse`` alone decides whether it does."""

from __future__ import annotations

import re

from vlm_server.tasks import MAX_REPLY_CHARS, Task

REASONS = ("empty", "too_long", "no_dimension", "missing_dimension", "repeated_dimension", "cut_short", "other_text")


def reason(task: Task, text: str, cut_short: bool) -> str:
    """One of ``REASONS``, for a reply that ``task.parse`` calls malformed.

    Args:
        cut_short: whether the reply ended because it had no tokens left.
    """
    if not text.strip():
        return "empty"
    if len(text) > MAX_REPLY_CHARS:
        return "too_long"
    named = [len(re.findall(rf"(?<!\w){re.escape(a.name)}\s*:", text, re.ASCII | re.IGNORECASE)) for a in task.actions]
    if max(named) > 1:
        return "repeated_dimension"
    if cut_short:
        return "cut_short"
    if min(named) == 1:
        return "other_text"
    return "missing_dimension" if max(named) else "no_dimension"
