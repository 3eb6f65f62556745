"""How a process notices that the one which started it is gone: its standard input, a pipe, ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable


def then(act: Callable[[], None]) -> None:
    """Calls ``act()``, on a thread of its own, when nobody holds the other end of standard input any more."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        act()

    threading.Thread(target=wait, name="end of input", daemon=True).start()
