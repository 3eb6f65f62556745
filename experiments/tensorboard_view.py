"""TensorBoard event files as a view of a run's JSON lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.json_lines import number

# tensorboardX imports torch where there is one, for tensors, which it is never given here: a third of all imports.
_HIDE_TORCH = "torch" not in sys.modules
if _HIDE_TORCH:
    sys.modules["torch"] = None
try:
    from tensorboardX import SummaryWriter
finally:
    if _HIDE_TORCH:
        del sys.modules["torch"]


class TensorBoardView:
    """Every numeric key of a line becomes the scalar ``<stream>/<key>`` at the line's frame count."""

    def __init__(self, path: Path) -> None:
        self._writer = SummaryWriter(str(path))

    def add(self, stream: str, record: Mapping[str, Any]) -> None:
        for key, value in record.items():
            if key != "frames" and not math.isnan(number(value)):
                self._writer.add_scalar(f"{stream}/{key}", number(value), record["frames"])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
