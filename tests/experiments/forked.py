"""Runs experiments.train once a line of JSON, ``{"arguments": [...], "environment": {...}}``, each run a fork of one
process that has the imports behind it. Prints a line of JSON a run: its exit code and what it wrote to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

from absl import app

from experiments import train


def run(arguments: list[str], environment: dict[str, str]) -> dict:
    with tempfile.TemporaryFile("w+") as errors:
        if (child := os.fork()) == 0:
            os.environ.update(environment)
            os.dup2(errors.fileno(), 2)
            app.run(train.main, argv=["train", *arguments])
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "errors": errors.read()}


if __name__ == "__main__":
    for line in sys.stdin.read().splitlines():
        print(json.dumps(run(**json.loads(line))), flush=True)
