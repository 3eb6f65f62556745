"""A prior server as a child process: started with a deadline, stopped with a grace period."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from covr_jax.priors.source import PriorUnavailable

LOOPBACK = "127.0.0.1:0"  # the server picks the port
_SERVER = (sys.executable, "-m", "vlm_server")


class ServerProcess:
    """``python -m vlm_server`` for the length of a ``with`` block, or from start() to stop().

    Args:
      model: "tiny", a hub id or a folder.
      adapters: folder where the server keeps adapters.
      log: file that gets the server's output, appended.
      arguments: further flags of the server.
      start_deadline_s: from the start to the first line of output, seconds; a large model loads for minutes.
      stop_grace_s: from SIGTERM to SIGKILL, seconds; the server's own grace period is 10 s.
      program: the command before the flags.
    """

    def __init__(
        self,
        model: str,
        adapters: Path,
        log: Path,
        arguments: Sequence[str] = (),
        start_deadline_s: float = 600.0,
        stop_grace_s: float = 15.0,
        program: Sequence[str] = _SERVER,
    ):
        self.log = Path(log)
        self.start_deadline_s = start_deadline_s
        self.stop_grace_s = stop_grace_s
        self.address = LOOPBACK  # the bound one after start()
        flags = (f"--model={model}", f"--adapters={adapters}", "--exit_with_parent", *arguments)
        self._command = [*program, *flags]
        self._process: subprocess.Popen | None = None

    def start(self) -> str:
        """Starts the server and returns the address that it bound, "host:port".

        Raises PriorUnavailable, one line with the end of the log, if it ends early or is late.
        """
        if self._process is not None:
            raise RuntimeError("the prior server was started already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, f"--address={self.address}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the learner alone, which then stops the server
            )
        first: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=_copy, args=(self._process.stdout, self.log, first), daemon=True).start()
        end = time.monotonic() + self.start_deadline_s
        try:
            line = first.get(timeout=self.start_deadline_s).decode("utf-8", "replace").strip()
            if not line:  # end of output before the first line
                code = self._process.wait(timeout=max(end - time.monotonic(), 1.0))
                raise self._failure(f"ended with exit code {code} before it was ready")
        except (queue.Empty, subprocess.TimeoutExpired):
            raise self._failure(f"was not ready within {self.start_deadline_s:g} s") from None
        except BaseException:  # Ctrl-C while a model loads
            self.stop()
            raise
        host, _, port = line.rpartition(":")
        if not (host and port.isdecimal()):
            raise self._failure(f"printed {line[:80]!r} where its address was expected")
        self.address = line
        return line

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ended(self, within_s: float = 2.0) -> bool:
        """Whether the server has ended by itself; a process takes a moment to end after its sockets are closed."""
        process = self._process
        if process is None:
            return False
        try:
            process.wait(timeout=within_s)
        except subprocess.TimeoutExpired:
            return False
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """SIGTERM, so that answers in flight are finished; SIGKILL after the grace period. Safe to repeat."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=self.stop_grace_s)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    def restart(self) -> str:
        """Stops the server if it runs and starts it at the same address, so that clients find it again."""
        self.stop()
        return self.start()

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *exception) -> None:
        self.stop()

    def _failure(self, what: str) -> PriorUnavailable:
        self.stop()
        try:
            lines = self.log.read_bytes()[-2000:].decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        tail = " | ".join(line.strip() for line in lines[-3:] if line.strip()) or "nothing"
        hint = "; pip install 'covr-jax[server]'" if "No module named" in tail else ""
        return PriorUnavailable(f"the prior server {what}{hint}; its log {self.log} ends with: {tail}")


def _copy(stream: IO[bytes], log: Path, first: queue.Queue[bytes]) -> None:
    """Hands on the first line and keeps the pipe empty; the rest goes to the log."""
    first.put(stream.readline())
    with log.open("ab") as out:
        for line in stream:
            out.write(line)
            out.flush()
