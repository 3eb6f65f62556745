"""A CARLA server that this program starts itself."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from pathlib import Path

GRACE_S = 10.0  # from SIGTERM to SIGKILL


class LocalServer:
    """``CarlaUE4.sh`` at a port, from ``start`` to ``stop``. Its output goes to ``log``, in a folder of its
    own that only the user may enter.

    Args:
        program: path of CarlaUE4.sh.
        port: of its RPC; it takes the two after it as well.
        flags: further ones.

    Raises ValueError if there is no such program.
    """

    def __init__(self, program: str, port: int, flags: tuple[str, ...]):
        path = Path(program).expanduser()
        if not os.access(path, os.X_OK) or path.is_dir():
            raise ValueError(f"env.carla.server={program}: must be the CarlaUE4.sh of a CARLA server")
        self._command = [str(path.absolute()), f"-carla-rpc-port={port}", *flags]
        self.log = Path(tempfile.mkdtemp(prefix="carla-")) / f"{port}.log"
        self._process: subprocess.Popen | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def group(self) -> int | None:
        """Its process group."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it, if it does not run; it answers some time later."""
        if self.running:
            return
        self.stop()
        with self.log.open("ab") as log:
            # A group of its own: the script's child is the server, and Ctrl-C is not for them.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """SIGTERM to all of its processes, SIGKILL after the grace period. Safe to repeat."""
        process, self._process = self._process, None
        if process is None:
            return
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        _signal(process.pid, signal.SIGKILL)  # also what outlived the script
        process.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
