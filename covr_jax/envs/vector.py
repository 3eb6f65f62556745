"""Environments that take their steps together: one in this process, or several in processes of their own.

Answers come in the environments' order, whichever of them is first: what a run stores depends on its seed alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import gymnasium

from covr_jax.config import EnvConfig
from covr_jax.envs.orders import Begun, Description, Failed, Moved, Order, follow

GRACE_S = 5.0  # for the step under way, at the end
ROOT = Path(__file__).parents[2]


class WorkerFailed(RuntimeError):
    """An environment in a process of its own raised. One line; the traceback is on standard error."""


class WorkerDied(RuntimeError):
    """An environment's process has ended without a word: it was killed, or its simulator crashed."""


class Environments(Protocol):
    count: int

    def send(self, orders: Sequence[Order | None]) -> None:
        """One order an environment, None for none; what they lead to is fetched by ``receive``."""

    def receive(self) -> list[Begun | Moved | None]:
        """The answers, in the order of the environments. Raises WorkerFailed, WorkerDied."""


class InThisProcess:
    """One environment, which follows when it is asked for its answer."""

    count = 1

    def __init__(self, env: gymnasium.Env):
        self._env = env
        self._orders: Sequence[Order | None] = ()

    def send(self, orders: Sequence[Order | None]) -> None:
        self._orders = orders

    def receive(self) -> list[Begun | Moved | None]:
        return [None if order is None else follow(self._env, order) for order in self._orders]


class Workers:
    """``count`` environments of one kind, each in a process, which follow while this one does other things.

    ``description``: of each; its fields are attributes of this, too. Raises what ``envs.make`` raises, WorkerFailed and
    WorkerDied.
    """

    def __init__(self, config: EnvConfig, count: int):
        self.count = count
        self._links: list[Connection] = []
        self._processes: list[subprocess.Popen] = []
        self._asked: list[int] = []  # whose answers are to come
        try:
            for _ in range(count):
                self._start()
            self.send([config] * count)
            self.description: Description = self.receive()[0]
        except BaseException:
            self.close()
            raise

    def __getattr__(self, name: str) -> Any:
        if name in Description._fields:
            return getattr(self.description, name)
        raise AttributeError(name)

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def send(self, orders: Sequence[Any]) -> None:
        self._asked = [i for i, order in enumerate(orders) if order is not None]
        for i in self._asked:
            try:
                self._links[i].send(orders[i])
            except (BrokenPipeError, ConnectionResetError):
                pass  # ``receive`` tells why

    def receive(self) -> list[Any]:
        answers: list[Any] = [None] * self.count
        for i in self._asked:
            try:
                answer = self._links[i].recv()
            except (EOFError, ConnectionResetError):
                raise WorkerDied(f"{self._name(i)}: {self._end(i)}") from None
            if isinstance(answer, Failed):
                raise answer.refused(answer.line) if answer.refused else WorkerFailed(f"{self._name(i)}: {answer.line}")
            answers[i] = answer
        return answers

    def close(self) -> None:
        """Ends the processes, after the step that is under way or after GRACE_S. Safe to repeat."""
        for link in self._links:
            link.close()
        end = time.monotonic() + GRACE_S
        for process in self._processes:
            try:
                process.wait(timeout=max(end - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(self) -> None:
        ours, theirs = Pipe()
        self._links.append(ours)
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "covr_jax.envs.worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a simulator prints is no result of the learner's
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            )
        )
        theirs.close()

    def _name(self, i: int) -> str:
        return f"environment {i} of run.num_envs={self.count} (counted from 0)"

    def _end(self, i: int) -> str:
        try:
            code = self._processes[i].wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            return "its process closed its socket"
        return f"its process was ended by signal {-code}" if code < 0 else f"its process ended with exit code {code}"
