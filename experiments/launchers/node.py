"""What runs on a node of a cluster: one command, its output in a log. Imports the standard library alone."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Sequence

GRACE_S = 60.0  # a decision, a round under way, and a checkpoint
PR_SET_PDEATHSIG = 1  # of prctl(2)


def call(command: Sequence[str], log: str, folder: str) -> int:
    """Runs the command in ``folder``; its exit code, negative for a signal. Its output is appended to ``log``.

    An exception that reaches this process ends the command by SIGTERM, later by SIGKILL; if this process dies the
    command dies with it, so that another node can go on in its run directory.
    """
    os.makedirs(os.path.dirname(log), exist_ok=True)
    die_with_this = functools.partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL)
    with open(log, "ab") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            preexec_fn=die_with_this,
        )  # fmt: skip
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise

