"""Videos of evaluation episodes, embedded."""

from __future__ import annotations

from experiments.json_lines import number
from experiments.report_page.html import figure, grid, missing, section
from experiments.report_page.labels import embedded
from experiments.report_page.numbers import exact
from experiments.report_page.run_data import Line, RunData

LIMIT = 24 * 2**20  # bytes of video on one page
KINDS = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


def videos_section(run: RunData) -> str:
    filmed = [entry for entry in run.lines["evaluations"] if entry.get("video")]
    if not filmed:
        return section("videos", "Videos", missing("No evaluation names a video."))
    figures, notes, spent = [], [], 0
    for title, entry in choose(filmed):
        name = str(entry["video"])
        file = run.path / name
        size = file.stat().st_size if file.is_file() else 0
        if spent + size > LIMIT:
            notes.append(missing(f"{name} ({size / 2**20:.1f} MiB) is left out to keep the page small."))
            continue
        body = _player(run, name)
        if not body:
            notes.append(missing(f"{name} is missing or no mp4, webm or gif."))
            continue
        spent += size
        returns = entry.get("returns") or []
        caption = f"{exact(entry['frames'])} frames, {exact(entry['decisions'])} decisions into training"
        caption += f"; return of this episode {exact(number(returns[0]))}." if returns else "."
        figures.append(figure(title, body, (), caption))
    lead = "First episode of each evaluation. Bars show the policy's action and the one the VLM would take."
    return section("videos", "Videos", *figures[:1], grid(*figures[1:], pairs=True), *notes, lead=lead)


def choose(filmed: list[Line]) -> list[tuple[str, Line]]:
    """The last, the best and the first evaluation, each once."""
    best = max(filmed, key=lambda entry: (number(entry.get("return_mean")), entry["frames"]))
    named = [("Last evaluation", filmed[-1]), ("Best evaluation", best), ("First evaluation", filmed[0])]
    seen: set[int] = set()
    return [(title, entry) for title, entry in named if not (id(entry) in seen or seen.add(id(entry)))]


def _player(run: RunData, name: str) -> str:
    kind = KINDS.get("." + name.rsplit(".", 1)[-1])
    source = embedded(run.path, name, kind) if kind else ""
    if not source:
        return ""
    if kind == "image/gif":
        return f'<img alt="Episode" style="width:100%" src="{source}">'
    return f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
