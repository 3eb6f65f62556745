"""JSON lines on disk: one object a line, keys sorted, flushed line by line, a torn last line ignored.

Floats are written by ``repr`` (they read back exactly). JSON knows no NaN: NaN and the infinities are written
as the strings "NaN", "Infinity" and "-Infinity", which ``number`` reads back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NON_FINITE = ("NaN", "Infinity", "-Infinity")


def plain(value: Any) -> Any:
    """``value`` in JSON's own types; arrays (NumPy or JAX, any rank) become numbers and nested lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, np.generic | np.ndarray) or hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    raise ValueError(f"{type(value).__name__} cannot be written as JSON")


def encode(record: Mapping[str, Any]) -> bytes:
    """One line, UTF-8, ended by a newline."""
    return (json.dumps(plain(record), sort_keys=True, allow_nan=False) + "\n").encode()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, [] if there is none; a last line cut off by a crash is skipped.

    Raises ValueError for a broken line before the last one.
    """
    if not path.exists():
        return []
    pieces = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is a torn line
    lines = []
    for index, piece in enumerate(pieces):
        try:
            lines.append(json.loads(piece))
        except ValueError:
            raise ValueError(f"{path}: line {index + 1} is no valid JSON") from None
    return lines


def number(value: Any) -> float:
    """A written number as a float; NaN for None and for anything that is no number."""
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, int | float) or (isinstance(value, str) and value in NON_FINITE):
        return float(value)
    return math.nan
