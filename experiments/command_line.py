"""What the programs of this folder share at their edge."""

from __future__ import annotations

import sys
from typing import NoReturn

from absl import logging


def quiet() -> None:
    """Keeps libraries' informational lines off the screen."""
    logging.set_verbosity(logging.WARNING)


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with one line on standard error."""
    print(f"error: {' '.join(message.splitlines())}", file=sys.stderr)
    sys.exit(code)
