"""Looks at everything that a run needs, and says what to do where something is missing.

    python -m experiments.doctor --preset=cpu,tiny
    python -m experiments.doctor --server=127.0.0.1:50051 --json

One line an item: ok, warn or FAIL. Exit codes: 0 nothing failed, 1 something did, 2 a wrong value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments import checks, configuration
from experiments.checks import guarded
from experiments.command_line import fail, prepare

_PRESET = flags.DEFINE_string("preset", "", f"Look at what this needs: {', '.join(configuration.presets())}.")
_SET = flags.DEFINE_multi_string("set", [], "Any field, as of experiments.train; repeatable.")
_SERVER = flags.DEFINE_string("server", "", "host:port of a prior server to ask.")
_OUT = flags.DEFINE_string("out", "runs", "Where runs will be written.")
_JSON = flags.DEFINE_bool("json", False, "Print a JSON list instead of lines.")


def main(argv: Sequence[str]) -> int:
    prepare()
    if len(argv) > 1:
        fail(f"unexpected argument {argv[1]!r}; all options start with --")
    try:
        config = configuration.resolve(configuration.build(_PRESET.value, settings=_SET.value).config)
    except ValueError as error:
        fail(str(error))
    findings = []
    for item, check in {
        "python": checks.python,
        "packages": lambda: checks.packages(config),
        "devices": checks.devices,
        "rendering": lambda: checks.rendering(config),
        "server": lambda: checks.server(_SERVER.value, config) if _SERVER.value else iter(()),
        "carla": lambda: checks.carla(config),
        "room": lambda: checks.room(config, Path(_OUT.value)),
    }.items():
        for finding in guarded(item, check):
            findings.append(finding)
            if not _JSON.value:
                print(finding.line(), flush=True)
    if _JSON.value:
        print(json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False))
    return int(any(finding.status == "fail" for finding in findings))


if __name__ == "__main__":
    app.run(main)
