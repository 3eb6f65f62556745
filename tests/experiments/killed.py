"""Runs experiments.train several times in a row, each time killed at a chosen point, until it ends by itself.

    python killed.py decision:120 write:3:server -- --resume --out=... further flags of experiments.train

A point is the n-th call of a function within one start of the program; what dies there is the learner (the default),
the server that it started, or both, by SIGKILL; with "term" the learner gets SIGTERM, with "full" it can write no file
any more. The starts are forks of one process that has the imports behind it. Prints each start's end as one line:
killed, or the exit code.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from absl import app

from covr_jax import loop, snapshots
from covr_jax.priors.server_process import ServerProcess
from experiments import recorder, run_directory, train

POINTS = {
    "decision": (loop.Trainer, "_decision"),
    "evaluation": (loop.Trainer, "_evaluate"),
    "round": (loop, "run_round"),
    "tuning": (loop.Trainer, "_note_tuning"),  # between two steps of the server's optimiser
    "alone": (loop.Trainer, "_vlm_alone"),
    "policy": (recorder, "save_params"),
    "tree": (snapshots, "save_tree"),
    "write": (snapshots, "_write"),
    "sync": (snapshots, "_sync"),
    "line": (run_directory.RunDirectory, "write"),
}


def arm(point: str, call: int, victim: str) -> None:
    """Makes the victim die at the start of the ``call``-th call (from 1) of the point's function."""
    owner, name = POINTS[point]
    original, count = getattr(owner, name), 0
    servers: list[ServerProcess] = []
    start = ServerProcess.start

    def noted(self: ServerProcess) -> str:
        servers.append(self)
        return start(self)

    def armed(*arguments, **named):
        nonlocal count
        count += 1
        if count == call:
            if victim in ("server", "both"):
                os.kill(servers[0].pid, signal.SIGKILL)
            if victim in ("learner", "both"):
                os.kill(os.getpid(), signal.SIGKILL)
            if victim == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if victim == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        return original(*arguments, **named)

    ServerProcess.start = noted
    setattr(owner, name, armed)


def one_start(kill: str | None) -> str:
    if (child := os.fork()) == 0:
        if kill is not None:
            point, call, *victim = kill.split(":")
            arm(point, int(call), *(victim or ["learner"]))
        try:
            code = train.main(["train"])
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else str(os.WEXITSTATUS(status))


def main(argv: list[str]) -> None:
    for kill in [*argv[1:], None]:
        print(f"end: {one_start(kill)}", flush=True)


if __name__ == "__main__":
    split = sys.argv.index("--")
    app.run(main, argv=[sys.argv[0], *sys.argv[split + 1 :], "--", *sys.argv[1:split]])
