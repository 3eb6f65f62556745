"""One environment in a process of its own: ``python -m covr_jax.envs.worker FD``, a child of ``vector.Workers``.

FD is a socket to the parent. The first message is the EnvConfig, its answer a Description; every further one is an
order, answered by what it led to, or by Failed, which is the last. The process ends when the parent closes the socket
or dies; signals, which a terminal or a scheduler sends to all processes of a run, are the parent's to act upon.
"""

from __future__ import annotations

import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection

from covr_jax import envs
from covr_jax.envs.gl import GlError
from covr_jax.envs.orders import Failed, describe, follow


def main(descriptor: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    link = Connection(int(descriptor))
    try:
        serve(link)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent has gone
    except Exception as error:
        traceback.print_exc()
        with suppress(OSError):  # the parent may have gone because of another
            link.send(Failed(" ".join(f"{type(error).__name__}: {error}".split())))


def serve(link: Connection) -> None:
    """Answers until the parent goes, or the environment cannot be made. Raises EOFError, and what it raises."""
    try:
        env = envs.make(link.recv())
    except (ValueError, GlError) as error:
        link.send(Failed(str(error), type(error)))
        return
    link.send(describe(env))
    while True:
        link.send(follow(env, link.recv()))


if __name__ == "__main__":
    main(sys.argv[1])
