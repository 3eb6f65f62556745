"""What made the numbers: overrides, configuration, environment, and what is missing."""

from __future__ import annotations

import json

from experiments.configuration import to_json
from experiments.report_page.html import details, escape, missing, section, table
from experiments.report_page.numbers import DASH
from experiments.report_page.run_data import RunData


def appendix(run: RunData) -> str:
    changed = run.overrides.strip() or "(nothing: all defaults)"
    parts = [f"<h3>Changed from the defaults</h3><pre>{escape(changed)}</pre>"]
    if run.environment:
        machine = [
            [escape(name), escape(_words(value))]
            for name, value in run.environment.items()
            if name != "packages"
        ]
        packages = run.environment.get("packages") or {}
        versions = [[escape(name), escape(value or DASH)] for name, value in packages.items()]
        parts.append(details("Machine", table(["", ""], machine, (0, 1))))
        parts.append(details("Package versions", table(["package", "version"], versions, (0, 1))))
    parts.append(details("Resolved configuration", f"<pre>{escape(to_json(run.config))}</pre>"))
    parts += [missing(text + ".") for text in run.missing]
    return section("appendix", "How it was made", *parts)


def _words(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return json.dumps(value) if isinstance(value, dict) else str(value)
