"""Puts a page together and writes it."""

from __future__ import annotations

from pathlib import Path

from covr_jax import methods
from experiments.report_page import comparison
from experiments.report_page.appendix import appendix
from experiments.report_page.header import header
from experiments.report_page.html import escape
from experiments.report_page.labels import labels_section
from experiments.report_page.learning import evaluation_section, scalars_section, timing_section
from experiments.report_page.rounds import rounds_section
from experiments.report_page.run_data import RunData, load
from experiments.report_page.videos import videos_section

STYLE = Path(__file__).parent / "style.css"


def write_run(run_path: str | Path, out: str | Path | None = None) -> Path:
    """Writes the report of one run, by default to its report.html. Raises ValueError if there is no run."""
    run = load(run_path)
    return _write(Path(out) if out else run.path / "report.html", run_page(run))


def write_comparison(run_paths: list[str | Path], out: str | Path) -> Path:
    """Writes one page that sets several runs side by side. Raises ValueError if one of them is no run."""
    return _write(Path(out), comparison_page([load(path) for path in run_paths]))


def run_page(run: RunData) -> str:
    method = methods.METHODS[run.config.learner.method]
    parts = [header(run), "", evaluation_section(run), videos_section(run)]
    links = [("learning", "Learning curve"), ("videos", "Videos")]
    if method.tunes_prior or run.lines["rounds"]:
        parts.append(rounds_section(run))
        links.append(("rounds", "COVR rounds"))
    if method.asks_prior:
        parts.append(labels_section(run))
        links.append(("labels", "Replies of the VLM"))
    parts += [scalars_section(run), timing_section(run), appendix(run)]
    links += [("scalars", "Inside the learner"), ("time", "Speed"), ("appendix", "How it was made")]
    parts[1] = f"<nav>{''.join(f'<a href=#{anchor}>{escape(name)}</a>' for anchor, name in links)}</nav>"
    return document(f"{run.config.env.name}: {run.label}, seed {run.config.run.seed}", "".join(parts))


def comparison_page(runs: list[RunData]) -> str:
    return document(f"{len(runs)} runs compared", comparison.body(runs))


def document(title: str, body: str) -> str:
    """A whole page that needs nothing from outside of itself."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{body}<footer>Made from the JSON lines of the run directory; point at a mark to "
        "read its value. Return of an episode: undiscounted sum of rewards.</footer></main></body></html>\n"
    )


def _write(path: Path, page: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    return part.replace(path)
