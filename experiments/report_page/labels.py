"""The VLM's replies: how many could be read, how far they are from the policy, and a few of them in full."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from covr_jax import methods
from experiments.json_lines import number
from experiments.report_page.header import REPLIES
from experiments.report_page.html import Swatch, escape, figure, grid, missing, section
from experiments.report_page.learning import right_end, round_marks
from experiments.report_page.marks import Series, small_curve
from experiments.report_page.numbers import DASH, MINUS, exact, percent
from experiments.report_page.run_data import Line, RunData
from experiments.report_page.svg import HALF, SMALL, Axis, Plot, Size, both_widths, step_rows, tip

COLOURS = {"ok": "var(--c3)", "clipped": "var(--c5)", "malformed": "var(--c2)", "unavailable": "var(--c6)"}
SHOWN = 12  # sample replies on the page
BINS = 40  # columns of the chart of shares


def labels_section(run: RunData) -> str:
    if not methods.METHODS[run.config.learner.method].asks_prior:
        return ""
    lead = (
        f"The VLM is asked every {run.config.prior.period} {escape(run.config.run.step_unit)}; its answer "
        "never acts. <i>ok</i> was read as it stands, <i>clipped</i> was brought into the action bounds, "
        "<i>malformed</i> named no action, <i>unavailable</i> never came."
    )
    parts = [grid(_shares(run), _agreement(run), pairs=True), _samples(run)]
    return section("labels", "Replies of the VLM", *parts, lead=lead)


def _shares(run: RunData) -> str:
    """The share of each status among the replies between two lines of metrics.jsonl."""
    frames = run.column("metrics", "frames")
    counts = {status: run.column("metrics", f"labels_{status}") for status in REPLIES}
    new = {status: increments(values) for status, values in counts.items()}
    sums = [sum(new[status][i] for status in REPLIES) for i in range(len(frames))]
    if not any(sums):
        return figure("Status of the replies", missing("metrics.jsonl counts no reply."))
    stride = -(-len(frames) // BINS)

    def draw(size: Size) -> str:
        plot = Plot(
            size, Axis(0, max(right_end(run), 1)), Axis(0, 1), "Share of replies by status over frames"
        )
        plot.y_grid("share of replies")
        plot.x_ticks(step_rows(math.nan))
        for start in range(0, len(frames), stride):
            end = min(start + stride, len(frames))
            left, right = plot.x(frames[start - 1] if start else 0), plot.x(frames[end - 1])
            counted = {status: sum(new[status][start:end]) for status in REPLIES}
            _stack(plot, left, right, counted, f"up to {exact(frames[end - 1])} frames")
        return plot.render()

    last = {status: sum(new[status]) for status in REPLIES}
    whole = sum(last.values())
    swatches = [Swatch(f"{status} {percent(last[status] / whole)}", COLOURS[status]) for status in REPLIES]
    body = both_widths(draw, HALF, SMALL)
    return figure("Status of the replies", body, swatches, f"{exact(whole)} replies in all.")


def _stack(plot: Plot, left: float, right: float, counted: dict[str, float], when: str) -> None:
    """One column of the shares; nothing where there was no reply."""
    whole, base = sum(counted.values()), 0.0
    for status, count in counted.items():
        if count:
            share = count / whole
            top, bottom = plot.y(base + share), plot.y(base)
            plot.add(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left + 0.2:.1f}" '
                f'height="{bottom - top:.1f}" style="fill:{COLOURS[status]}">'
                f"{tip(f'{when}: {percent(share)} {status}')}</rect>"
            )
            base += share


def increments(values: Sequence[float]) -> list[float]:
    """Growth of a counter from line to line; 0 where it is not written."""
    before, out = 0.0, []
    for value in values:
        grown = value - before if math.isfinite(value) else 0.0
        out.append(max(grown, 0.0))
        before = value if math.isfinite(value) else before
    return out


def _agreement(run: RunData) -> str:
    title = "Distance between VLM and policy"
    if not run.has("metrics", "label_distance"):
        return figure(title, missing("metrics.jsonl holds no label_distance."))
    curve = Series(
        title, "var(--c4)", run.column("metrics", "frames"), run.column("metrics", "label_distance")
    )

    def draw(size: Size) -> str:
        return small_curve(
            title, [curve], "mean |a_v − a_r|, actions in [−1, 1]", math.nan, right_end(run), zero=True,
            notes=round_marks(run), size=size,
        )  # fmt: skip

    caption = "0: the VLM names the action that the policy took. Gaps: nothing was answered."
    return figure(title, both_widths(draw, HALF, SMALL), (), caption)


def _samples(run: RunData) -> str:
    lines = run.lines["samples"]
    if not lines:
        return missing("samples.jsonl holds no reply, so no frames can be shown.")
    count = min(SHOWN, len(lines))
    chosen = [lines[round(i * (len(lines) - 1) / max(count - 1, 1))] for i in range(count)]
    cards = "".join(_card(run, entry) for entry in chosen)
    return (
        f"<h3 class='aside'>Frames with their replies</h3><div class='samples'>{cards}</div>"
        f"<p class='lead after'>{len(chosen)} of {len(lines)} stored replies, spread over the run.</p>"
    )


def _card(run: RunData, entry: Line) -> str:
    status = str(entry.get("status", "?"))
    picture = embedded(run.path, str(entry.get("frame_png", "")), "image/png")
    image = (
        f'<img alt="The frame that the VLM saw" src="{picture}">' if picture else missing("frame is missing")
    )
    prompt = entry.get("prompt")
    shown = f"<details><summary>prompt</summary><pre>{escape(prompt)}</pre></details>" if prompt else ""
    return (
        f'<div class="sample">{image}<div><span class="status {escape(status)}">{escape(status)}</span> '
        f'<span class="where">{escape(entry.get("version", DASH))}, {exact(entry["frames"])} frames</span>'
        f'<p class="reply">{escape(entry.get("text") or "(no text)")}</p>'
        f"<dl><dt>VLM</dt><dd>{_action(entry.get('action'))}</dd>"
        f"<dt>policy</dt><dd>{_action(entry.get('policy_action'))}</dd></dl>{shown}</div></div>"
    )


def _action(values: object) -> str:
    if not isinstance(values, list):
        return DASH
    return ", ".join(f"{number(value):+.2f}".replace("-", MINUS) for value in values)


def embedded(folder: Path, name: str, kind: str) -> str:
    """The file as a data URI; "" if it is not there or lies outside of the run directory."""
    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder.resolve()) or not file.is_file():
        return ""
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
