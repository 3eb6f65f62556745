"""Programs whose wrong values end in exit status 2 and one line that says what is allowed."""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import app, flags


def run(main: Callable[[], int | None], program: str) -> None:
    """Parses the flags, runs ``main()`` and exits with its value; ValueError means a user's wrong value."""

    def fail(error: Exception) -> None:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except flags.Error as error:
            fail(error)
        if len(rest) > 1:
            fail(ValueError(f"unexpected argument {rest[1]!r}; values are given as --flag=value"))
        return rest

    def guarded(_: list[str]) -> int | None:
        try:
            return main()
        except ValueError as error:
            fail(error)

    app.run(guarded, flags_parser=parse)
